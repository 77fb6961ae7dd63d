"""How many cases are tried: the same ones on every run, or, where more are asked for, other ones each time."""

import os
from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, Phase, settings

TIMES: Final = float(os.environ.get("PURSER_FUZZ_TIMES", "1"))
"""So many times as many cases as usual. Other than 1, chance is chance: no two runs are alike."""


def cases(usual: int, *, shrinks: bool = True) -> settings:
    """The profile of a fuzzing test that usually tries so many. `shrinks`: what failed is looked for again, smaller."""
    return settings(
        max_examples=max(1, int(usual * TIMES)),
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
        # What one case leaves behind is what the next one meets: that is meant.
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
            HealthCheck.filter_too_much,
        ],
    )


class NowAndThen:
    """Calls something after every so many cases: the rest is as well as it was."""

    def __init__(self, every: int, look: Callable[[], None]) -> None:
        self._every = every
        self._look = look
        self._tried = 0

    def tried(self) -> None:
        """One more case."""
        self._tried += 1
        if self._tried % self._every == 0:
            self._look()
