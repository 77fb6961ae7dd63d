"""A share of a rate: a token bucket in integers. Tokens are kept times 1,000,000, so that slow refills lose nothing."""

from typing import Final

MICRO: Final = 1_000_000
_NANO: Final = 1_000_000_000


class Share:
    """One bucket of one lease. `now` is monotonic seconds; it never pays out after `ends_at`."""

    __slots__ = ("_at", "_burst", "_per_second", "_tokens", "ends_at", "lease_id")

    def __init__(
        self, lease_id: str, *, tokens: int, micro_per_second: int, burst: int, now: float, ends_at: float
    ) -> None:
        """Starts with the tokens handed over, in the balance's scale."""
        self.lease_id = lease_id
        self.ends_at = ends_at
        self._per_second = micro_per_second
        self._burst = burst * MICRO
        self._tokens = min(tokens * MICRO, self._burst)
        self._at = int(now * _NANO)

    def _refill(self, now: float) -> None:
        # In whole nanoseconds and rounded down: never a fraction too much.
        at = int(now * _NANO)
        gained = (at - self._at) * self._per_second // _NANO
        if gained > 0:
            self._tokens = min(self._burst, self._tokens + gained)
            self._at = at

    def available(self, now: float) -> int:
        """Whole tokens that may be taken now."""
        if now >= self.ends_at:
            return 0
        self._refill(now)
        return self._tokens // MICRO

    def take(self, amount: int) -> None:
        """Takes what `available` has just shown."""
        assert 0 <= amount * MICRO <= self._tokens
        self._tokens -= amount * MICRO

    def give_back(self, amount: int) -> None:
        """Undoes a take; what does not fit is lost."""
        self._tokens = min(self._burst, self._tokens + amount * MICRO)

    def prolong(self, *, tokens: int, micro_per_second: int, burst: int, now: float, ends_at: float) -> None:
        """The same share goes on, at a new pace; the tokens handed over are added."""
        self._refill(min(now, self.ends_at))
        self._at = int(now * _NANO)
        self._per_second = micro_per_second
        self._burst = burst * MICRO
        self._tokens = min(self._burst, self._tokens + tokens * MICRO)
        self.ends_at = max(self.ends_at, ends_at)
