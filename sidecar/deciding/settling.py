"""What a reservation's totals charge: from its holds first, then from leases that can be had, the rest as a fact is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from sidecar.deciding.asked import make_event
from sidecar.deciding.funds import held_funds, sum_funds, without_rates
from sidecar.deciding.judging import Judge, billed
from sidecar.deciding.reserved import Allotted, Hold, Line, Reserved, allot
from sidecar.deciding.spending import Till, leased
from sidecar.engine.bill import bill
from sidecar.engine.decide import decide
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.evaluate import Bill, Outcome
from sidecar.leases.terms import NotCovered, Taken

SETTLE_LEASE_SECONDS: Final = 1.0
"""How long a settle above its hold waits for a lease: its caller has the answer already."""


class Settlement(NamedTuple):
    """What totals charge. `taken`: beyond the holds, from leases; `allotted`: how the holds pay."""

    outcome: Outcome
    allotted: Allotted
    taken: tuple[Taken, ...]

    def charged(self) -> tuple[Line, ...]:
        """Balance by balance, whoever pays."""
        return lines((draw.spec, draw.within + draw.beyond + draw.uncovered) for draw in self.outcome.draws)

    def overage(self) -> tuple[Line, ...]:
        """What no lease covers."""
        return lines((draw.spec, draw.uncovered) for draw in self.outcome.draws)


@dataclass(frozen=True, slots=True)
class Settling:
    """Computes settlements. Thread-safe."""

    judge: Judge
    till: Till

    def bill(self, reserved: Reserved, entitlements: Entitlements, totals: Mapping[str, Decimal]) -> Bill:
        """What the totals touch. Rates were asked when it was reserved, and are not asked again. Raises Malformed."""
        event = make_event(
            reserved.message,
            customer_id=reserved.customer_id,
            subject_id=reserved.subject_id,
            occurred_at=reserved.reserved_at,
            key=reserved.reservation_id,
            measures=totals,
        )
        found = billed(lambda by: bill(by, event=event, feature=reserved.feature), entitlements, "event")
        return without_rates(self.judge.fresh_charges(found))

    def settle(self, reserved: Reserved, found: Bill, *, deadline: float | None) -> Settlement:
        """Takes what the holds lack from the book, and leases what the book lacks: within `deadline`, and not for long.
        None: nothing is leased.
        """
        settlement = self._try(reserved, found)
        lacking = tuple(short for short in settlement.outcome.shortfalls if not short.spec.decided_remotely)
        if not lacking or deadline is None:
            return settlement
        self._give_back(settlement)
        wait_until = min(deadline, self.till.clock.monotonic() + SETTLE_LEASE_SECONDS)
        with self.till.blocking():
            self.till.keeper.acquire(lacking, wait_until)
        return self._try(reserved, found)

    def _give_back(self, settlement: Settlement) -> None:
        with self.till.book.lock:
            self.till.book.give_back(settlement.taken, self.till.clock.monotonic())

    def _try(self, reserved: Reserved, found: Bill) -> Settlement:
        held = held_funds(reserved.holds)
        now = self.till.clock.monotonic()
        with self.till.book.lock:
            more = self.till.funds(found, now)
            outcome = decide(found, sum_funds(held, more), fact=True)
            allotted = allot(reserved.holds, leased(outcome.draws))
            try:
                taken = self.till.book.take(allotted.missing, now, self.till.finish_until(found))
            except NotCovered:
                # The holds alone, then: what is missing is booked as a fact is.
                outcome = decide(found, held, fact=True)
                allotted = allot(reserved.holds, leased(outcome.draws))
                taken = ()
        return Settlement(outcome, allotted, taken)


def lines(amounts: Iterable[tuple[BalanceSpec, int]]) -> tuple[Line, ...]:
    """Sums per balance, without zeros."""
    sums: dict[str, Line] = {}
    for spec, amount in amounts:
        if amount:
            before = sums.get(spec.name)
            so_far = 0 if before is None else before.amount
            sums[spec.name] = Line(spec.name, spec.unit, spec.scale, so_far + amount)
    return tuple(sums.values())


def held_lines(holds: Sequence[Hold], units: Sequence[Line]) -> tuple[Line, ...]:
    """What holds amount to, balance by balance."""
    known = {line.balance: line for line in units}
    sums: dict[str, int] = {}
    for hold in holds:
        sums[hold.ref.balance] = sums.get(hold.ref.balance, 0) + hold.amount
    return tuple(known[name]._replace(amount=amount) for name, amount in sums.items() if name in known)
