"""Processes that end by themselves: which of it is as it should be."""

import re
from typing import Final

_SERVED: Final = re.compile(r'"event": "(serving|listening)"')
_TRACEBACK: Final = re.compile(r"Traceback \(most recent call last\)|^Fatal Python error", re.MULTILINE)
_GAVE_UP: Final = 1
"""The status of who says what keeps it from starting."""
_PERMITTED: Final = {
    "no room at the start": re.compile(
        r"^error +.*(No space left on device|database or disk is full)", re.MULTILINE
    ),
    "the disk fails at the start": re.compile(r"^error +.*(disk I/O error|Input/output error)", re.MULTILINE),
    "the database is away at the start": re.compile(r"^error +the database: ", re.MULTILINE),
}
"""By the last word of a process that never served. Its supervisor starts it again until it can."""


def why_it_may(status: int, said: str) -> str | None:
    """By which name a process may end so, with this log; None: it must not."""
    if status != _GAVE_UP or _SERVED.search(said) or _TRACEBACK.search(said):
        return None
    return next((name for name, word in _PERMITTED.items() if word.search(said)), None)
