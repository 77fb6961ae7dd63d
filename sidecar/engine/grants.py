"""In which order grants burn, and what a set of facts makes of them: what the ledger and the leases share."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sidecar.engine.values import ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One grant occurrence, with what may be burned of it now: for facts, the capacity that no lease holds."""

    grant_id: str
    amount: int
    """Above or equal 0, at the unit's scale: what is left to burn."""
    effective_at: datetime
    created_at: datetime
    expires_at: datetime | None = None
    voided_at: datetime | None = None
    priority: int = 0
    scope: frozenset[str] = frozenset()
    """Features that may burn it. Empty: all."""
    cost_basis: Decimal = ZERO
    beyond_limit: bool = False
    """True: a soft limit's cap; burned last, whatever else it says."""

    def active(self, at: datetime) -> bool:
        """Is the instant in `[effective_at, min(expires_at, voided_at))`?"""
        return (
            self.effective_at <= at
            and (self.expires_at is None or at < self.expires_at)
            and (self.voided_at is None or at < self.voided_at)
        )

    def serves(self, feature: str) -> bool:
        """May this feature burn it?"""
        return not self.scope or feature in self.scope


class Slice(NamedTuple):
    """A part of one grant occurrence."""

    grant_id: str
    amount: int


class Fact(NamedTuple):
    """Usage that no lease covers: it burns what was active at its instant."""

    at: datetime
    key: str
    """The idempotency key: the order among facts of one instant."""
    amount: int
    feature: str


class Burned(NamedTuple):
    """How one fact is paid."""

    fact: Fact
    slices: tuple[Slice, ...]
    """In the order in which they paid: what was active at the fact's instant first, later capacity after it."""
    overage: int
    """What nothing pays (yet)."""
