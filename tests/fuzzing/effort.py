"""How many cases are tried: the same ones on every run, or, where more are asked for, other ones each time."""

import os
from typing import Final

from hypothesis import HealthCheck, settings

TIMES: Final = float(os.environ.get("PURSER_FUZZ_TIMES", "1"))
"""So many times as many cases as usual. Other than 1, chance is chance: no two runs are alike."""


def cases(usual: int) -> settings:
    """The profile of a fuzzing test that usually tries so many."""
    return settings(
        max_examples=max(1, int(usual * TIMES)),
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        # What one case leaves behind is what the next one meets: that is meant.
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
            HealthCheck.filter_too_much,
        ],
    )
