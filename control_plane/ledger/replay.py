"""Which grant each fact of a window burned: a function of the set of facts, of grants, and of what leases
hold. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control_plane.ledger.rows import FactRow, GrantRow, burn_order, in_burn_order

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

    At one instant: ends and rollover, then beginnings, then open overage, then facts by key. A cut is never
    burned.
    """
    return _Replay(grants, now).run(facts)


class _Replay:
    def __init__(self, grants: Sequence[GrantRow], now: datetime) -> None:
        self._grants = in_burn_order(grants)
        self._child = {grant.rolled_from: grant for grant in grants if grant.rolled_from is not None}
        self._left: dict[str, int] = {}
        self._burns: Burns = {}
        self._rolled: dict[str, int] = {}
        for grant in self._grants:
            # A rollover is as large as what its base leaves: it gets that when the base ends.
            child = self._child.get(grant.id)
            capacity = 0 if grant.rolled_from is not None else grant.amount - grant.cut - grant.held
            self._left[grant.id] = capacity - (child.held + child.cut if child else 0)
        ends = [
            (grant.ends_at, 0, grant) for grant in grants if grant.rollover_max and grant.ends_at is not None
        ]
        starts = [(grant.effective_at, 1, grant) for grant in grants]
        self._steps = sorted(
            (step for step in [*ends, *starts] if step[0] <= now),
            key=lambda step: (step[0], step[1], burn_order(step[2])),
        )
        self._open: list[tuple[FactRow, int]] = []

    def run(self, facts: Sequence[FactRow]) -> Replayed:
        steps = iter(self._steps)
        step = next(steps, None)
        for fact in sorted(facts, key=lambda fact: fact.order):
            while step is not None and step[0] <= fact.occurred_at:
                self._step(step)
                step = next(steps, None)
            active = [grant for grant in self._grants if grant.active(fact.occurred_at)]
            missing = self._burn(fact, fact.amount, active)
            if missing:
                self._open.append((fact, missing))
        while step is not None:
            self._step(step)
            step = next(steps, None)
        return Replayed(self._burns, self._rolled)

    def _step(self, step: tuple[datetime, int, GrantRow]) -> None:
        _, begins, grant = step
        if begins:
            self._open = [
                (fact, rest) for fact, missing in self._open if (rest := self._burn(fact, missing, [grant]))
            ]
            return
        child = self._child.get(grant.id)
        held = child.held + child.cut if child else 0
        on = max(0, min(grant.rollover_max - held, self._left[grant.id]))
        self._left[grant.id] -= on
        self._rolled[grant.id] = on + held
        if child is not None:
            self._left[child.id] = on

    def _burn(self, fact: FactRow, amount: int, grants: Sequence[GrantRow]) -> int:
        for grant in grants:
            part = min(amount, self._left[grant.id])
            if part > 0 and grant.serves(fact.feature):
                self._left[grant.id] -= part
                burns = self._burns.setdefault(fact.id, {})
                burns[grant.id] = burns.get(grant.id, 0) + part
                amount -= part
        return amount
