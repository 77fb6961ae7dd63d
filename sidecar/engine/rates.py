"""Token buckets in whole numbers: refill, take, give back.

Instants are microseconds of any clock that does not jump: the shell's, or the database's. Tokens are kept in
micro-units: millionths of the balance's last digit, so that a slow refill is not lost in rounding.
"""

from typing import Final, NamedTuple

MICRO: Final = 1_000_000
"""Micro-units in one, and microseconds in a second."""


class Bucket(NamedTuple):
    """What may be taken, as of an instant. Never above `burst`; refills by `micro_per_second` micro-units a second."""

    micro_tokens: int
    micro_per_second: int
    burst: int
    """In the balance's scale."""
    at_micros: int

    @property
    def tokens(self) -> int:
        """Whole tokens to be had at `at_micros`, in the balance's scale."""
        return self.micro_tokens // MICRO


def refill(bucket: Bucket, at_micros: int) -> Bucket:
    """The bucket at a later instant; at an earlier one it stays as it was, so a clock that steps back gives nothing."""
    micro_tokens, micro_per_second, burst, since = bucket
    if at_micros <= since:
        return bucket
    tokens, counted_to = refilled(micro_tokens, since, at_micros, micro_per_second, burst)
    return Bucket(tokens, micro_per_second, burst, counted_to)


def refilled(
    micro_tokens: int, since: int, at_micros: int, micro_per_second: int, burst: int
) -> tuple[int, int]:
    """The same in numbers, for who keeps no bucket: tokens in micro-units, and until when time is counted in them."""
    elapsed = at_micros - since
    if elapsed <= 0:
        return micro_tokens, since
    # Whole micro-units only; the microseconds that gave less than one are not counted as passed, so none is lost.
    gained = elapsed * micro_per_second // MICRO
    most = burst * MICRO
    if micro_tokens + gained >= most:
        return max(micro_tokens, most), at_micros
    counted = -(-gained * MICRO // micro_per_second) if gained else 0
    assert counted <= elapsed, "no more time is used than has passed"
    return micro_tokens + gained, since + counted


def take(bucket: Bucket, amount: int, at_micros: int) -> tuple[Bucket, int]:
    """Takes an amount, or nothing; returns the bucket and the microseconds to wait until it could be taken (0: taken).

    An amount above the burst can never be taken; its wait is -1.
    """
    assert amount >= 0, "nothing is given back by taking"
    now = refill(bucket, at_micros)
    missing = amount * MICRO - now.micro_tokens
    if missing <= 0:
        return Bucket(-missing, now.micro_per_second, now.burst, now.at_micros), 0
    if amount > now.burst or now.micro_per_second == 0:
        return now, -1
    return now, max(1, -(-missing * MICRO // now.micro_per_second) - max(0, at_micros - now.at_micros))


def give_back(bucket: Bucket, amount: int) -> Bucket:
    """Undoes a take: what was not used after all; never above the burst."""
    assert amount >= 0, "giving back is not taking"
    return bucket._replace(micro_tokens=min(bucket.burst * MICRO, bucket.micro_tokens + amount * MICRO))
