"""Properties of resolving: see `sidecar/engine/README.md`."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.catalog import Catalog, ConfigValue
from sidecar.engine.customer import Customer, PastDuePolicy, SubscriptionState
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.periods import Span
from sidecar.engine.resolve import resolve
from tests.properties.engine.worlds import NOW, catalogs, customers, quick, subscription


def rights(entitlements: Entitlements) -> dict[str, object]:
    """What is entitled, apart from the order of sources."""
    found: dict[str, object] = {"standing": entitlements.standing}
    for name, entitlement in entitlements.features.items():
        found[name] = (entitlement.value, {(s.unit, s.limit, s.period) for s in entitlement.allowances})
        found[f"{name}/rates"] = {(s.name, s.limit, s.burst) for s in entitlement.rates}
        found[f"{name}/gauge"] = entitlement.gauge and entitlement.gauge.limit
    return found


@quick
@given(customers(), catalogs, st.sampled_from(["one", "two", "sub"]))
def test_sources_only_add(customer: Customer, catalog: Catalog, plan: str) -> None:
    """Another subscription never takes away."""
    before = resolve(customer, {1: catalog}, 1, NOW)
    more = replace(customer, subscriptions=(*customer.subscriptions, subscription(9, plan)))
    after = resolve(more, {1: catalog}, 1, NOW)
    for name, had in before.features.items():
        has = after.features[name]
        assert not_less(has.value, had.value)
        if has.allowances:
            assert total(after, name) >= total(before, name)
        rates = {spec.name: spec.limit or 0 for spec in has.rates}
        assert all(rates[spec.name] >= (spec.limit or 0) for spec in had.rates)
        if had.gauge is not None and has.gauge is not None:
            assert (has.gauge.limit or 0) >= (had.gauge.limit or 0)


def not_less(has: ConfigValue, had: ConfigValue) -> bool:
    """Is a value at least what it was: a number as large, a set as wide, anything else the same?"""
    if isinstance(has, Decimal) and isinstance(had, Decimal):
        return has >= had
    if isinstance(has, frozenset) and isinstance(had, frozenset):
        return has >= had
    return has == had


def total(entitlements: Entitlements, feature: str) -> int:
    """All allowances of a feature."""
    return sum(spec.limit or 0 for spec in entitlements.features[feature].allowances)


@quick
@given(customers(), catalogs)
def test_sources_in_any_order(customer: Customer, catalog: Catalog) -> None:
    """The order in which subscriptions are told does not matter."""
    turned = replace(customer, subscriptions=tuple(reversed(customer.subscriptions)))
    assert resolve(customer, {1: catalog}, 1, NOW) == resolve(turned, {1: catalog}, 1, NOW)
    assert rights(resolve(customer, {1: catalog}, 1, NOW)) == rights(resolve(turned, {1: catalog}, 1, NOW))


days = st.integers(-5, 5).map(lambda n: NOW + timedelta(days=n))


@st.composite
def aging(draw: st.DrawFn) -> Customer:
    """A customer whose subscriptions begin, end, try out and fall past due around now."""
    found = []
    for number in range(draw(st.integers(1, 2))):
        one = subscription(number, draw(st.sampled_from(["one", "two", "sub"])))
        found.append(
            replace(
                one,
                state=draw(st.sampled_from(list(SubscriptionState))),
                starts_at=draw(days),
                ends_at=draw(st.none() | days.map(lambda at: at + timedelta(days=3))),
                trial_ends_at=draw(st.none() | days),
                past_due_since=draw(st.none() | days),
                on_past_due=draw(
                    st.sampled_from([None, PastDuePolicy(True, Span.parse("P2D")), PastDuePolicy(False)])
                ),
            )
        )
    return Customer(customer_id="c", subscriptions=tuple(found))


@quick
@given(aging(), catalogs, st.integers(0, 20))
def test_valid_until_holds(customer: Customer, catalog: Catalog, hours: int) -> None:
    """Until `valid_until`, time alone changes nothing."""
    now = resolve(customer, {1: catalog}, 1, NOW)
    end = now.valid_until
    later = NOW + timedelta(hours=hours * 12)
    if end is not None:
        assert end > NOW
        later = min(later, end - timedelta(microseconds=1))
    assert resolve(customer, {1: catalog}, 1, later) == now
