"""How much of a balance to ask for: by what was taken lately."""

import math
from typing import Final

HORIZON_SECONDS: Final = 10.0
"""A lease is to last about this long."""
AVERAGED_SECONDS: Final = 5.0
REST_SECONDS: Final = 10.0
"""After so long without a call the average is let go: its tail is not worth a lease."""
FIRST_TIMES: Final = 4
"""A balance without a history is asked for this many times what is needed."""


class Demand:
    """The recent rate of one balance and feature, as a moving average that forgets. Guarded by the book's lock."""

    __slots__ = ("_at", "_rate", "_since", "_used_at", "is_new")

    def __init__(self, now: float) -> None:
        """Nothing was taken yet."""
        self._rate = 0.0
        self._since = 0
        self._at = self._used_at = now
        self.is_new = True

    def took(self, amount: int) -> None:
        """Something was taken; negative: given back."""
        self._since += amount

    def target(self, now: float) -> int:
        """What should be at hand, in the balance's scale: about ten seconds of the recent rate; 0 at rest."""
        passed = now - self._at
        if self._since:
            self._used_at = now
        if passed > 0.05:
            weight = 1.0 - math.exp(-passed / AVERAGED_SECONDS)
            self._rate += weight * (max(0, self._since) / passed - self._rate)
            self._at = now
            self._since = 0
            if passed >= AVERAGED_SECONDS or self._rate > 0:
                self.is_new = False
        if now - self._used_at > REST_SECONDS:
            self._rate, self.is_new = 0.0, False
        return int(self._rate * HORIZON_SECONDS)

    def amount(self, *, need: int, free: int, now: float) -> int:
        """What to ask for when `need` is missing and `free` is at hand: at least `need`."""
        target = self.target(now)
        if self.is_new:
            target = max(target, need * FIRST_TIMES)
        return max(need, target - free)
