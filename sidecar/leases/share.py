"""A share of a rate: the engine's token bucket, for as long as the share lasts."""

from typing import Final

from sidecar.engine import rates
from sidecar.engine.rates import MICRO, Bucket

_MICROSECONDS: Final = 1_000_000


class Share:
    """One bucket of one lease. `now` is monotonic seconds; it never pays out after `ends_at`."""

    __slots__ = ("_bucket", "ends_at", "lease_id")

    def __init__(
        self, lease_id: str, *, tokens: int, micro_per_second: int, burst: int, now: float, ends_at: float
    ) -> None:
        """Starts with the tokens handed over, in the balance's scale."""
        self.lease_id = lease_id
        self.ends_at = ends_at
        self._bucket = Bucket(min(tokens, burst) * MICRO, micro_per_second, burst, _micros(now))

    def available(self, now: float) -> int:
        """Whole tokens that may be taken now."""
        if now >= self.ends_at:
            return 0
        self._bucket = rates.refill(self._bucket, _micros(now))
        return self._bucket.tokens

    def take_up_to(self, wanted: int, now: float) -> int:
        """Takes what there is of `wanted`, whole tokens; how much that was."""
        part = min(wanted, self.available(now))
        if part > 0:
            bucket = self._bucket
            self._bucket, wait_micros = rates.take(bucket, part, bucket.at_micros)
            assert not wait_micros, "only what is available is taken"
        return part

    def give_back(self, amount: int) -> None:
        """Undoes a take; what does not fit is lost."""
        self._bucket = rates.give_back(self._bucket, amount)

    def prolong(self, *, tokens: int, micro_per_second: int, burst: int, now: float, ends_at: float) -> None:
        """The same share goes on, at a new pace; the tokens handed over are added."""
        there = rates.refill(self._bucket, _micros(min(now, self.ends_at))).micro_tokens
        full = min(burst * MICRO, there + tokens * MICRO)
        self._bucket = Bucket(full, micro_per_second, burst, _micros(now))
        self.ends_at = max(self.ends_at, ends_at)


def _micros(now: float) -> int:
    return int(now * _MICROSECONDS)
