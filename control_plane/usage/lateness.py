"""How late usage may come, and how long it is remembered for that."""

from datetime import timedelta
from typing import Final

LATE_MAX: Final = timedelta(days=34)
"""A fact is taken so long after it occurred and no later, by any sidecar (`late_window`) and over REST."""
AWAY_MAX: Final = timedelta(days=7)
"""So long a sidecar may be without the control plane, by our promises, and its usage still counts once."""
KEPT_MIN: Final = LATE_MAX + AWAY_MAX + timedelta(days=1)
"""A key that was won when its fact occurred still guards against a repeat that a sidecar took at the last moment and
could not send for a week. A day more: the first may have been won before its instant (5 minutes), and a week's backlog
takes its time.
"""
