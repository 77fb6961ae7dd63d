"""Which grant each fact of a window burned: a function of the set of facts, of grants, and of what leases
hold. Pure.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from control_plane.ledger.rows import FactRow, GrantRow, engine_grant
from sidecar.engine.grants import Burned, Fact, Step, burn_facts

Burns = dict[str, dict[str, int]]
"""Fact id → grant id → amount."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a window comes to. `rolled`: per grant that has ended, what goes on in its rollover, leases of
    that included.
    """

    burns: Burns
    rolled: dict[str, int]


def replay(grants: Sequence[GrantRow], facts: Sequence[FactRow], *, now: datetime) -> Replayed:
    """Burns every fact in order, of the grants active at its instant, and pays what stays open from grants
    that begin later.

    At one instant: ends and rollover, then beginnings and lower limits, then open overage, then facts by key. A cut
    is burned by facts of before it alone, as far as the grant knows its earlier limits. What begins after `now`,
    and after every fact, pays nothing yet.
    """
    latest = max((fact.occurred_at for fact in facts), default=now)
    begun = [grant for grant in grants if grant.effective_at <= max(now, latest)]
    children = {grant.rolled_from: grant for grant in begun if grant.rolled_from is not None}
    capacity = {grant.id: _capacity(grant, children.get(grant.id)) for grant in begun}
    rolled: dict[str, int] = {}
    burned = _burn(begun, facts, capacity)
    for base in sorted((grant for grant in begun if _has_rolled(grant, now)), key=_end):
        # A rollover is as large as what its base leaves, and what burned the base is known once all earlier ones are.
        child = children.get(base.id)
        held = child.held + child.cut if child is not None else 0
        left = capacity[base.id] - sum(burns.get(base.id, 0) for burns in burned.values())
        on = max(0, min(base.rollover_max - held, left))
        rolled[base.id] = on + held
        if child is not None and on:
            capacity[child.id] = on
            burned = _burn(begun, facts, capacity)
    return Replayed(burned, rolled)


def _has_rolled(grant: GrantRow, now: datetime) -> bool:
    return bool(grant.rollover_max) and grant.is_over(now)


def _end(grant: GrantRow) -> tuple[datetime, str]:
    assert grant.ends_at is not None, "only what ends rolls over"
    return (grant.ends_at, grant.id)


def _capacity(grant: GrantRow, child: GrantRow | None) -> int:
    """What facts may burn of it: not what leases hold or have spent of it or of its rollover, and no cut."""
    if grant.rolled_from is not None:
        return 0  # until its base's end is reached
    if grant.limits_before:
        return max(0, grant.target - grant.held)
    return grant.amount - grant.cut - grant.held - (child.held + child.cut if child is not None else 0)


def capacities(grant: GrantRow) -> tuple[tuple[Step, ...], int]:
    """What facts may burn of a limit's occurrence: until the instants at which it was lowered, and since."""
    return _earlier(grant), _capacity(grant, None)


def _earlier(grant: GrantRow) -> tuple[Step, ...]:
    """The same, of the limits that it had before. What leases hold they hold of each."""
    return tuple(Step(until, max(0, limit - grant.held)) for until, limit in grant.limits_before)


def _burn(grants: Sequence[GrantRow], facts: Sequence[FactRow], capacity: Mapping[str, int]) -> Burns:
    # The id tells facts of one event apart; after the key, which has no NUL, it changes no order.
    ids = {_key(fact): fact.id for fact in facts}
    result = burn_facts(
        [engine_grant(grant, capacity[grant.id], _earlier(grant)) for grant in grants],
        [Fact(fact.occurred_at, _key(fact), fact.amount, fact.feature) for fact in facts],
    )
    return {ids[burned.fact.key]: burns for burned in result if (burns := _sums(burned))}


def _key(fact: FactRow) -> str:
    return f"{fact.event_key}\0{fact.id}"


def _sums(burned: Burned) -> dict[str, int]:
    sums: defaultdict[str, int] = defaultdict(int)
    for piece in burned.slices:
        sums[piece.grant_id] += piece.amount
    return dict(sums)
