"""Properties of deciding: see `sidecar/engine/README.md`."""

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.bill import bill
from sidecar.engine.catalog import Catalog, OveragePolicy
from sidecar.engine.customer import Customer
from sidecar.engine.decide import decide
from sidecar.engine.evaluate import Bill, Fund, Outcome
from sidecar.engine.resolve import resolve
from sidecar.engine.values import BalanceRef, Event, Finding, Reason
from tests.properties.engine.worlds import NOW, catalogs, customers, events, quick


@st.composite
def funded(draw: st.DrawFn) -> tuple[Bill, dict[BalanceRef, Fund]]:
    """A bill, and funds that may or may not be enough."""
    entitlements = resolve(draw(customers()), {1: draw(catalogs)}, 1, NOW)
    found = bill(entitlements, event=draw(events()))
    funds: dict[BalanceRef, Fund] = {}
    for charge in found.charges:
        if charge.ref not in funds and draw(st.booleans()):
            amount = charge.quantity * 2 + 1
            within = draw(st.sampled_from([0, charge.quantity // 2, charge.quantity, amount]))
            funds[charge.ref] = Fund(within, draw(st.sampled_from([0, charge.spec.cap])))
    return found, funds


def balances_refused(outcome: Outcome) -> bool:
    """Was it refused, and by balances alone?"""
    return not outcome.allowed and bool(outcome.shortfalls)


@quick
@given(funded())
def test_all_or_none(case: tuple[Bill, dict[BalanceRef, Fund]]) -> None:
    """A refused outcome draws nothing; an allowed one draws every charge that nothing else can cover in full."""
    found, funds = case
    outcome = decide(found, funds)
    if not outcome.allowed:
        assert outcome.draws == ()
        return
    drawn = {(d.ref, d.feature): d.within + d.beyond + d.uncovered for d in outcome.draws}
    for line in found.features:
        whole = [c for c in (*line.allowances, *line.rates) if not c.spec.unlimited]
        if len(line.allowances) == 1:
            for charge in whole:
                assert drawn.get((charge.ref, charge.feature), 0) == charge.quantity
        if line.wallet and not line.allowances:
            assert drawn.get((line.wallet.ref, line.wallet.feature), 0) == line.wallet.quantity


@quick
@given(funded(), st.booleans())
def test_never_oversold(case: tuple[Bill, dict[BalanceRef, Fund]], fact: bool) -> None:
    """Draws on one balance never exceed its fund; only `allow`, or a fact, leaves anything uncovered."""
    found, funds = case
    outcome = decide(found, funds, fact=fact)
    for ref in {draw.ref for draw in outcome.draws}:
        fund = funds.get(ref, Fund(0))
        assert sum(d.within for d in outcome.draws if d.ref == ref) <= fund.within
        assert sum(d.beyond for d in outcome.draws if d.ref == ref) <= fund.beyond
    for draw in outcome.draws:
        assert fact or not draw.uncovered or draw.spec.overage is OveragePolicy.ALLOW
        assert fact or not draw.beyond or draw.spec.overage is not OveragePolicy.DENY


@quick
@given(funded())
def test_facts_always_pass(case: tuple[Bill, dict[BalanceRef, Fund]]) -> None:
    """A fact is never refused, not even one that a decision would refuse for other reasons."""
    found, funds = case
    refused = replace(
        found, refused=Reason.NO_PRICE, findings=(Finding("rating", "llm", "none", Reason.NO_PRICE),)
    )
    assert decide(found, funds, fact=True).allowed
    assert decide(refused, funds, fact=True).allowed
    assert decide(refused, funds, fact=True).draws == decide(found, funds, fact=True).draws


@quick
@given(funded(), st.data())
def test_more_never_hurts(case: tuple[Bill, dict[BalanceRef, Fund]], data: st.DataObject) -> None:
    """More funds never turn an allowed outcome into a refusal."""
    found, funds = case
    if not decide(found, funds).allowed or not found.refs:
        return
    ref = data.draw(st.sampled_from(found.refs))
    fund = funds.get(ref, Fund(0))
    more = {**funds, ref: Fund(fund.within + data.draw(st.integers(0, 10**12)), fund.beyond)}
    assert decide(found, more).allowed


@quick
@given(funded())
def test_shortfalls_suffice(case: tuple[Bill, dict[BalanceRef, Fund]]) -> None:
    """Acquiring exactly the shortfalls makes the outcome allowed, at the latest after once per feature."""
    found, funds = case
    brought = dict(funds)
    outcome = decide(found, brought)
    for _ in found.features:
        if not balances_refused(outcome):
            break
        for short in outcome.shortfalls:
            fund = brought.get(short.ref, Fund(0))
            assert 0 < short.missing <= short.needed
            brought[short.ref] = Fund(fund.within + short.missing, fund.beyond)
        outcome = decide(found, brought)
    assert not balances_refused(outcome)


@quick
@given(funded())
def test_lowest_reason_first(case: tuple[Bill, dict[BalanceRef, Fund]]) -> None:
    """The reason is the lowest-numbered among the findings that refuse."""
    found, funds = case
    outcome = decide(found, funds)
    refusing = [f.reason for f in outcome.findings if f.reason.refuses]
    assert outcome.allowed == (not refusing)
    assert not refusing or outcome.reason is min(refusing)


@quick
@given(customers(), catalogs, events(), st.data())
def test_naming_never_narrows(
    customer: Customer, catalog: Catalog, event: Event, data: st.DataObject
) -> None:
    """Naming a feature leaves charges as they were."""
    entitlements = resolve(customer, {1: catalog}, 1, NOW)
    if not entitlements.features:
        return
    name = data.draw(st.sampled_from(sorted(entitlements.features)))
    assert bill(entitlements, event=event, feature=name).charges == bill(entitlements, event=event).charges


@quick
@given(funded())
def test_billed_in_between(case: tuple[Bill, dict[BalanceRef, Fund]]) -> None:
    """What is billed lies between nothing and the cost: nothing when covered whole, all when not covered at all."""
    found, funds = case
    outcome = decide(found, funds)
    for cost in outcome.costs:
        assert 0 <= cost.billed <= cost.amount
        assert 0 <= cost.billed_exact <= cost.exact
    whole = {charge.ref: Fund(charge.quantity * 4 + 4) for charge in found.charges}
    covered = decide(found, whole)
    for line in found.features:
        billed = [c.billed for c in covered.costs if c.feature == line.entitlement.name]
        if line.allowances and any(c.quantity for c in line.allowances) and line.allowances[-1].quantity:
            assert not any(billed)
        elif line.entitlement.bills and line.cost is not None and not line.allowances:
            assert billed == [line.cost.amount]


@quick
@given(customers(), catalogs, events())
def test_explaining_changes_nothing(customer: Customer, catalog: Catalog, event: Event) -> None:
    """An explanation adds findings and leaves everything else as it was."""
    entitlements = resolve(customer, {1: catalog}, 1, NOW)
    plain, explained = bill(entitlements, event=event), bill(entitlements, event=event, explain=True)
    funds = {charge.ref: Fund(charge.quantity) for charge in plain.charges}
    one, other = decide(plain, funds), decide(explained, funds)
    assert (one.allowed, one.reason, one.draws, one.costs) == (
        other.allowed,
        other.reason,
        other.draws,
        other.costs,
    )
    assert set(one.findings) <= set(other.findings)


@quick
@given(customers(), catalogs, events(), st.integers(1, 10))
def test_charges_grow_with_measures(customer: Customer, catalog: Catalog, event: Event, times: int) -> None:
    """A meter's charge is its quantity at its scale: so many times the measures, so many times the sum."""
    entitlements = resolve(customer, {1: catalog}, 1, NOW)
    larger = event._replace(measures={name: value * Decimal(times) for name, value in event.measures.items()})
    before = {c.ref: c for c in bill(entitlements, event=event).charges}
    after = {c.ref: c for c in bill(entitlements, event=larger).charges}
    for ref, charge in before.items():
        if charge.spec.meter is not None and charge.spec.meter.name == "tokens":
            assert after[ref].quantity == charge.quantity * times
