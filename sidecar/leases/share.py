"""A share of a rate: the engine's token bucket, for as long as the share lasts."""

from typing import Final

from sidecar.engine import rates
from sidecar.engine.rates import MICRO, Bucket

_MICROSECONDS: Final = 1_000_000


class Share:
    """One bucket of one lease. `now` is monotonic seconds; it never pays out after `ends_at`.

    It is the bucket of `engine/rates.py`, kept in place: every call takes from one.
    """

    __slots__ = ("_at_micros", "_burst", "_micro_per_second", "_micro_tokens", "ends_at", "lease_id")

    def __init__(
        self, lease_id: str, *, tokens: int, micro_per_second: int, burst: int, now: float, ends_at: float
    ) -> None:
        """Starts with the tokens handed over, in the balance's scale."""
        self.lease_id = lease_id
        self.ends_at = ends_at
        self._micro_tokens = min(tokens, burst) * MICRO
        self._micro_per_second = micro_per_second
        self._burst = burst
        self._at_micros = _micros(now)

    def available(self, now: float) -> int:
        """Whole tokens that may be taken now."""
        if now >= self.ends_at:
            return 0
        self._refill(now)
        return self._micro_tokens // MICRO

    def take_up_to(self, wanted: int, now: float) -> int:
        """Takes what there is of `wanted`, whole tokens; how much that was."""
        part = min(wanted, self.available(now))
        self._micro_tokens -= part * MICRO
        return part

    def give_back(self, amount: int) -> None:
        """Undoes a take; what does not fit is lost."""
        bucket = Bucket(self._micro_tokens, self._micro_per_second, self._burst, self._at_micros)
        self._micro_tokens = rates.give_back(bucket, amount).micro_tokens

    def prolong(self, *, tokens: int, micro_per_second: int, burst: int, now: float, ends_at: float) -> None:
        """The same share goes on, at a new pace; the tokens handed over are added."""
        self._refill(min(now, self.ends_at))
        self._micro_tokens = min(burst * MICRO, self._micro_tokens + tokens * MICRO)
        self._micro_per_second = micro_per_second
        self._burst = burst
        self._at_micros = _micros(now)
        self.ends_at = max(self.ends_at, ends_at)

    def _refill(self, now: float) -> None:
        self._micro_tokens, self._at_micros = rates.refilled(
            self._micro_tokens, self._at_micros, _micros(now), self._micro_per_second, self._burst
        )


def _micros(now: float) -> int:
    return int(now * _MICROSECONDS)
