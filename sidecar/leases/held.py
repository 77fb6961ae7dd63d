"""One lease as the book holds it."""

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef

DRIFT: Final = 0.01
"""Holders stop this part of the time early, because clocks differ."""
FOR_EVER: Final = float("inf")
FRESH_SECONDS: Final = 0.05


class HeldLease:
    """`allotted = free + held + charged + returned`. Instants are monotonic seconds. Guarded by the book's lock."""

    __slots__ = (
        "allotted",
        "arrived_at",
        "begins_at",
        "beyond",
        "charged",
        "ends_at",
        "free",
        "held",
        "lease_id",
        "life_seconds",
        "never_after",
        "ref",
        "returned",
        "revision",
        "scope",
    )

    def __init__(
        self, ref: BalanceRef, lease: session.Lease, *, sent_at: float, received_at: float, revision: int
    ) -> None:
        """`sent_at`: when its request was first sent; `revision`: what its reply had seen."""
        self.ref = ref
        self.lease_id = lease.lease_id
        self.scope = frozenset(lease.scope)
        self.revision = revision
        self.allotted = self.free = sum(s.amount for s in lease.slices)
        self.beyond = sum(s.amount for s in lease.slices if s.beyond_limit)
        self.held = self.charged = self.returned = 0
        ttl = _seconds(lease.ttl)
        self.life_seconds = ttl * (1 - DRIFT)
        self.ends_at = sent_at + self.life_seconds
        # It was granted between sending and receiving, at `ends_at - ttl` by the control plane's clock.
        # Everything else is
        # counted from there: ends from the earlier of the two instants, the beginning from the later. No wall
        # clock is asked.
        granted_at = _seconds(lease.ends_at) - ttl
        self.never_after = FOR_EVER
        if lease.HasField("never_after"):
            self.never_after = sent_at + (_seconds(lease.never_after) - granted_at) * (1 - DRIFT)
            self.ends_at = min(self.ends_at, self.never_after)
        self.arrived_at = self.begins_at = received_at
        if lease.HasField("begins_at"):
            self.begins_at = received_at + max(0.0, _seconds(lease.begins_at) - granted_at)

    def is_spendable(self, now: float, finish_until: float | None) -> bool:
        """May it be spent now? `finish_until`: the end of finishing, while cut off."""
        if now < self.begins_at:
            return False
        return now < self.ends_at or (
            finish_until is not None and now < finish_until and now < self.never_after
        )

    def is_fresh(self, now: float) -> bool:
        """Has it just come, so that the calls that waited for it are about to spend it?"""
        return now < self.arrived_at + FRESH_SECONDS

    def free_within(self) -> int:
        """What is free inside the limit: slices beyond it burn last and return first."""
        if not self.beyond:
            return self.free
        within = self.allotted - self.beyond - max(0, self.returned - self.beyond)
        return max(0, within - self.charged - self.held)

    def check(self) -> None:
        """The equation that nothing is oversold by."""
        assert self.allotted == self.free + self.held + self.charged + self.returned, self.lease_id
        assert min(self.free, self.held, self.charged, self.returned) >= 0, self.lease_id


def _seconds(span: Duration | Timestamp) -> float:
    return span.seconds + span.nanos / 1e9
