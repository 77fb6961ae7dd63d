"""Rows of the ledger as they are worked on in memory, under their balance's lock."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

import orjson

from sidecar.engine import grants as grant_rules
from sidecar.engine.grants import Step

BASE: Final = "base"
ROLLOVER: Final = "rollover"
BEYOND_LIMIT: Final = "beyond_limit"
NONE_EARLIER: Final = "[]"


@dataclass(slots=True, kw_only=True)
class BalanceRow:
    """As in the table `balances`."""

    id: str
    customer_id: str
    subject_id: str
    name: str
    kind: str
    unit: str
    scale: int
    overage: int
    version: int
    changed_at: datetime


@dataclass(slots=True, kw_only=True)
class GrantRow:
    """As in the table `grants`. The methods keep the sum of its terms."""

    id: str
    balance_id: str
    customer_id: str
    role: str
    amount: int
    target: int
    available: int
    leased: int = 0
    quarantined: int = 0
    spent: int = 0
    presumed: int = 0
    ended: int = 0
    cut: int = 0
    rolled: int = 0
    burned: int = 0
    priority: int
    scope: list[str]
    effective_at: datetime
    expires_at: datetime | None
    voided_at: datetime | None = None
    window_start: datetime | None
    cost_basis: str
    rollover_max: int = 0
    rolls_until: datetime | None = None
    rolled_from: str | None = None
    source: str
    created_at: datetime
    begun: bool = False
    expiry_booked: bool = False
    earlier: str = NONE_EARLIER
    """See `limits_before`."""

    @property
    def limits_before(self) -> tuple[Step, ...]:
        """Limits that it had before, each until an instant, in order, where they were higher than all after them: facts
        of then burn by those. A lower one is forgotten with the next raise, which pays what is open.
        """
        if self.earlier == NONE_EARLIER:
            return ()
        told = (Step(datetime.fromisoformat(until), limit) for until, limit in orjson.loads(self.earlier))
        return tuple(
            step for step in told if step.amount > self.target
        )  # a version before raised and left it alone

    @property
    def ends_at(self) -> datetime | None:
        """The first instant at which it is not active any more; None: never."""
        ends = [at for at in (self.expires_at, self.voided_at) if at is not None]
        return min(ends) if ends else None

    def active(self, at: datetime) -> bool:
        """Is it active at that instant?"""
        ends_at = self.ends_at
        return self.effective_at <= at and (ends_at is None or at < ends_at)

    def is_over(self, at: datetime) -> bool:
        """Has it ended by that instant?"""
        ends_at = self.ends_at
        return ends_at is not None and ends_at <= at

    def serves(self, feature: str) -> bool:
        """May this feature spend it?"""
        return not self.scope or feature in self.scope

    @property
    def held(self) -> int:
        """What leases hold or have spent of it: facts can not burn that."""
        return self.leased + self.quarantined + self.presumed + self.spent - self.burned

    def put(self, amount: int, *, now: datetime) -> None:
        """Takes in what came free: `available` while it lives, `ended` afterwards. `trim` once overage has
        been paid.
        """
        if self.is_over(now):
            self.ended += amount
        else:
            self.available += amount

    def draw(self, amount: int) -> None:
        """Takes out of `available`, and of `ended` where that is not enough, what was cut last; the caller books where
        it went.
        """
        at_once = min(amount, self.available)
        self.available -= at_once
        self.ended -= amount - at_once
        self.cut = max(0, min(self.cut, self.ended - self.rolled))

    def trim(self) -> int:
        """Lets a lowered limit take what has come free, and what came back after the end; returns what is still to be
        cut.
        """
        taken = min(max(0, self.amount - self.target - self.cut), self.available)
        self.available -= taken
        self.ended += taken
        self.cut += taken
        self.cut += min(max(0, self.amount - self.target - self.cut), self.ended - self.cut - self.rolled)
        return max(0, self.amount - self.target - self.cut)

    def retarget(self, target: int, *, now: datetime, since: datetime | None = None) -> int:
        """Sets the limit in force; returns what is still to be cut, from slices as they return.

        `since`: when it came into force; None: now.
        """
        self._remember(target, since or now)
        self.target = target
        if target > self.amount:
            more = target - self.amount
            self.amount = target
            self.put(more, now=now)
        back = self.cut - (self.amount - target)
        if back > 0:
            self.cut -= back
            self.ended -= back
            self.put(back, now=now)
        return self.trim()

    def _remember(self, target: int, since: datetime) -> None:
        """The limit until now, if the new one is lower; and no more those that are not higher than the new one."""
        before = self.limits_before
        kept = [step for step in before if step.amount > target]
        if target < self.target and self.effective_at < since:
            kept.append(Step(max([since, *(step.until for step in before)]), self.target))
        self.earlier = orjson.dumps([(step.until.isoformat(), step.amount) for step in kept]).decode()

    def end(self) -> int:
        """Books its end: what is available is over. Returns how much that was."""
        over, self.available = self.available, 0
        self.ended += over
        self.expiry_booked = True
        return over


@dataclass(slots=True, kw_only=True)
class FactRow:
    """As in the table `facts`, with what it burns of each grant."""

    id: str
    balance_id: str
    window_start: datetime | None
    event_uid: str
    transaction_id: str
    occurred_at: datetime
    event_key: str
    feature: str
    amount: int
    cause: str
    covered: int = 0
    burns: dict[str, int] = field(default_factory=dict)

    @property
    def order(self) -> tuple[datetime, str, str]:
        """Facts burn in this order."""
        return (self.occurred_at, self.event_key, self.id)


def engine_grant(grant: GrantRow, capacity: int, earlier: tuple[Step, ...] = ()) -> grant_rules.Grant:
    """The grant as the engine burns it, with so much left to burn."""
    return grant_rules.Grant(
        grant_id=grant.id,
        amount=capacity,
        effective_at=grant.effective_at,
        created_at=grant.created_at,
        expires_at=grant.expires_at,
        voided_at=grant.voided_at,
        priority=grant.priority,
        scope=frozenset(grant.scope),
        cost_basis=Decimal(grant.cost_basis),
        beyond_limit=grant.role == BEYOND_LIMIT,
        earlier=earlier,
    )


def burn_order(grant: GrantRow) -> grant_rules.BurnOrder:
    """The engine's total order of burning."""
    return grant_rules.burn_order(engine_grant(grant, grant.available))


def in_burn_order(grants: Iterable[GrantRow]) -> list[GrantRow]:
    """Sorted as they burn."""
    return sorted(grants, key=burn_order)
