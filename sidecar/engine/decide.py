"""Whether what may be spent covers what an event touches: all of it or none, and what is missing everywhere at once."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from sidecar.engine.catalog import OveragePolicy
from sidecar.engine.evaluate import (
    REASON_OF_KIND,
    Bill,
    Charge,
    CostCharge,
    Draw,
    FeatureBill,
    Fund,
    Funds,
    Outcome,
    Shortfall,
)
from sidecar.engine.rating import share
from sidecar.engine.values import (
    EXACT,
    ZERO,
    BalanceKind,
    BalanceRef,
    Finding,
    Reason,
    format_scaled,
    to_scaled,
)

_NOTHING: Final = Fund(0)

Overflow = Callable[[int, int], tuple[int, int, int]]
"""What becomes of what lies beyond a limit: (rest, room inside the cap) to (beyond, uncovered, missing)."""


def _deny(rest: int, room: int) -> tuple[int, int, int]:
    assert room >= 0, "a cap is not below zero"
    return 0, 0, rest


def _allow_up_to(rest: int, room: int) -> tuple[int, int, int]:
    beyond = min(rest, room)
    return beyond, 0, rest - beyond


def _allow(rest: int, room: int) -> tuple[int, int, int]:
    beyond = min(rest, room)
    return beyond, rest - beyond, 0


OVERAGES: Final[Mapping[OveragePolicy, Overflow]] = {
    OveragePolicy.DENY: _deny,
    OveragePolicy.ALLOW_UP_TO: _allow_up_to,
    OveragePolicy.ALLOW: _allow,
}

_LENIENCE: Final = {policy: place for place, policy in enumerate(OVERAGES)}


def decide(bill: Bill, funds: Funds, *, fact: bool = False) -> Outcome:
    """What would happen to a bill with these funds.

    A bill that is refused already is refused without a look at balances. `fact`: it has happened, so nothing refuses
    it, what no fund covers is uncovered, and rates are left alone.
    """
    if bill.refused is not Reason.OK and not fact:
        return Outcome(
            False, bill.refused, bill.findings, (), _costs_of(bill), (), bill.unrated, bill.warnings
        )
    if not bill.features:
        return Outcome(True, Reason.OK, bill.findings, (), (), (), bill.unrated, bill.warnings)
    tally = _Tally(bill, funds, fact=fact)
    # Who may not go beyond draws first: else a lenient feature would eat what is leased for a strict one.
    for line in bill.features if len(bill.features) == 1 else sorted(bill.features, key=_lenience):
        tally.feature(line)
    for charge in bill.budgets:
        tally.budget(charge)
    return tally.outcome()


def _lenience(line: FeatureBill) -> int:
    return 0 if line.wallet is None else _LENIENCE[line.wallet.spec.overage]


def _costs_of(bill: Bill) -> tuple[CostCharge, ...]:
    """What a refused event would have cost; none of it is billed."""
    return tuple([_cost(line, 0, ZERO) for line in bill.features if line.cost is not None])


def _cost(line: FeatureBill, billed: int, billed_exact: Decimal) -> CostCharge:
    pricing, cost = line.pricing, line.cost
    assert pricing is not None, "a cost has a card"
    assert cost is not None, "only a priced line has a cost"
    assert 0 <= billed <= cost.amount, "never more is billed than it costs"
    card = pricing.card
    return CostCharge(
        line.entitlement.feature.name,
        card.name,
        pricing.catalog_revision,
        cost.unit,
        card.scale,
        cost.amount,
        cost.exact,
        billed,
        billed_exact,
    )


def _scale(line: FeatureBill) -> int:
    assert line.pricing is not None, "a cost has a card"
    return line.pricing.card.scale


class _Tally:
    """The running account of one decision."""

    __slots__ = (
        *("beyond_taken", "bill", "costs", "draws", "fact", "findings", "funds"),
        *("money", "overage", "refused", "shortfalls", "taken"),
    )

    def __init__(self, bill: Bill, funds: Funds, *, fact: bool) -> None:
        self.bill = bill
        self.funds = funds
        self.fact = fact
        self.draws: list[Draw] = []
        self.costs: list[CostCharge] = []
        self.shortfalls: list[Shortfall] = []
        self.findings: list[Finding] = []
        self.money: dict[str, tuple[int, Decimal]] = {}
        self.taken: dict[BalanceRef, int] = {}
        self.beyond_taken: dict[BalanceRef, int] = {}
        self.refused = False
        self.overage = False

    def feature(self, line: FeatureBill) -> None:
        """Covers one feature: allowances first, then whoever pays the rest."""
        rest, whole = self.cover(line.allowances) if line.allowances else (1, 1)
        if line.wallet is not None:
            self.wallet(line, line.wallet, rest, whole)
        elif line.cost is not None:
            billed, exact = 0, ZERO
            if line.entitlement.bills and rest:
                exact = share(line.cost.exact, rest, whole)
                billed = line.cost.amount if rest == whole else to_scaled(exact, _scale(line))
                self.pay(line.cost.unit, billed, exact)
            self.costs.append(_cost(line, billed, exact))
        if line.gauge is not None:
            self.take(line.gauge, line.gauge.quantity, line.gauge.exact)
        # What has happened is not slowed down, and a rate is never booked.
        for charge in () if self.fact else line.rates:
            self.take(charge, charge.quantity, charge.exact)

    def wallet(self, line: FeatureBill, charge: Charge, rest: int, whole: int) -> None:
        """Pays from the wallet what allowances did not cover."""
        need, exact = charge.quantity, charge.exact
        if rest != whole:
            exact = share(charge.exact, rest, whole)
            need = (
                to_scaled(exact, charge.spec.scale) if line.cost is not None else min(rest, charge.quantity)
            )
        if line.cost is not None:
            self.pay(charge.spec.unit, need, exact)
            self.costs.append(_cost(line, 0, ZERO))
        self.take(charge, need, exact)

    def pay(self, unit: str, amount: int, exact: Decimal) -> None:
        """Counts what is paid or billed, for the budgets in that unit."""
        before = self.money.get(unit)
        self.money[unit] = (
            (amount, exact) if before is None else (before[0] + amount, EXACT.add(before[1], exact))
        )

    def budget(self, charge: Charge) -> None:
        """Counts against a budget what is really paid."""
        if self.bill.probe:
            self.take(charge, charge.quantity, charge.exact)
            return
        amount, exact = self.money.get(charge.spec.unit, (0, ZERO))
        self.take(charge, amount, exact)

    def cover(self, charges: tuple[Charge, ...]) -> tuple[int, int]:
        """Draws allowances one after the other; returns what the last one's limit leaves uncovered, of how much."""
        last = charges[-1]
        if not last.quantity:
            return 1, 1
        need, exact = last.quantity, last.exact
        if len(charges) > 1:
            need, exact = self.before(charges)
        if last.spec.unlimited:
            return 0, 1
        return self.take(last, need, exact), last.quantity

    def before(self, charges: tuple[Charge, ...]) -> tuple[int, Decimal]:
        """Draws all but the last as far as they go; returns what is left for the last."""
        rest, whole = 1, 1
        for i, charge in enumerate(charges[:-1]):
            need = -(-charge.quantity * rest // whole) if i else charge.quantity
            if charge.spec.unlimited:
                return 0, ZERO
            within = min(need, self.available(charge)[0])
            if within:
                self.draw(charge, within, 0, 0, charge.exact)
            if within < need:
                self.shortfalls.append(
                    Shortfall(
                        charge.ref, charge.feature, need - within, need, False, charge.spec, charge.value
                    )
                )
            rest, whole = need - within, charge.quantity or 1
        last = charges[-1]
        return -(-last.quantity * rest // whole), last.exact

    def take(self, charge: Charge, need: int, exact: Decimal) -> int:
        """Draws one balance, within, then as its overage says; returns what its limit does not cover."""
        if not need:
            if self.bill.explain:
                self.explain(charge, 0, 0, Reason.OK)
            return 0
        spec, ref = charge.spec, charge.ref
        fund = self.funds.get(ref)
        if fund is not None and need <= fund.within and fund.scoped is None and ref not in self.taken:
            # Most calls end here: one feature, and enough. What follows would find the same.
            self.taken[ref] = need
            self.draws.append(Draw(ref, charge.feature, need, 0, 0, exact, spec, charge.value))
            if self.bill.explain:
                self.explain(charge, need, need, Reason.OK)
            return 0
        available, room = self.available(charge)
        within = min(need, available)
        rest = need - within
        beyond = uncovered = missing = 0
        if rest:
            beyond, uncovered, missing = (_allow if self.fact else OVERAGES[spec.overage])(rest, room)
        if missing:
            self.refused = True
            self.findings.append(self.short(charge, need, within + beyond))
        elif self.bill.explain:
            self.explain(charge, need, within, Reason.OK_OVERAGE if rest else Reason.OK)
        if missing or uncovered:
            lack = missing or uncovered
            self.shortfalls.append(
                Shortfall(charge.ref, charge.feature, lack, need, bool(missing), spec, charge.value)
            )
        if rest and spec.kind is not BalanceKind.RATE:
            self.overage = True
        self.draw(charge, within, beyond, uncovered, exact)
        return rest

    def available(self, charge: Charge) -> tuple[int, int]:
        """What is left of a fund, inside the limit and inside the cap, after draws for other features."""
        fund = self.funds.get(charge.ref, _NOTHING)
        general = max(0, fund.within - self.taken.get(charge.ref, 0))
        if fund.scoped is not None:
            general += self.private(fund, charge.feature)
        return general, max(0, fund.beyond - self.beyond_taken.get(charge.ref, 0))

    @staticmethod
    def private(fund: Fund, feature: str) -> int:
        """What only this feature may spend: grants of a narrow scope burn first."""
        return 0 if fund.scoped is None else max(0, fund.scoped.get(feature, fund.within) - fund.within)

    def draw(self, charge: Charge, within: int, beyond: int, uncovered: int, exact: Decimal) -> None:
        fund = self.funds.get(charge.ref, _NOTHING)
        if within:
            general = max(0, within - self.private(fund, charge.feature))
            self.taken[charge.ref] = self.taken.get(charge.ref, 0) + general
            assert self.taken[charge.ref] <= fund.within, "no fund is spent twice"
        if beyond:
            self.beyond_taken[charge.ref] = self.beyond_taken.get(charge.ref, 0) + beyond
            assert self.beyond_taken[charge.ref] <= fund.beyond, "no cap is exceeded"
        self.draws.append(
            Draw(charge.ref, charge.feature, within, beyond, uncovered, exact, charge.spec, charge.value)
        )

    def short(self, charge: Charge, need: int, have: int) -> Finding:
        """What is missing, in words."""
        spec = charge.spec
        needed, had, missing = (format_scaled(amount, spec.scale) for amount in (need, have, need - have))
        said = f"{needed} {spec.unit} needed, {had} to be had, {missing} missing"
        return Finding("balance", spec.name, said, REASON_OF_KIND[spec.kind], ", ".join(spec.sources))

    def explain(self, charge: Charge, need: int, within: int, reason: Reason) -> None:
        spec = charge.spec
        said = f"{format_scaled(need, spec.scale)} {spec.unit} needed"
        if within < need:
            said += (
                f", {format_scaled(need - within, spec.scale)} of it beyond the limit ({spec.overage.value})"
            )
        self.findings.append(Finding("balance", spec.name, said, reason, ", ".join(spec.sources)))

    def outcome(self) -> Outcome:
        """All or none."""
        bill = self.bill
        findings = (*bill.findings, *self.findings) if self.findings else bill.findings
        if self.refused:
            reason = min(finding.reason for finding in findings if finding.reason > Reason.OK_FALLBACK)
            return Outcome(
                False,
                reason,
                findings,
                (),
                _costs_of(bill),
                tuple(self.shortfalls),
                bill.unrated,
                bill.warnings,
            )
        return Outcome(
            True,
            Reason.OK_OVERAGE if self.overage else Reason.OK,
            findings,
            tuple(self.draws),
            tuple(self.costs),
            tuple(self.shortfalls),
            bill.unrated,
            bill.warnings,
        )
