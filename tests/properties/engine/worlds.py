"""Catalogs, customers and events to try properties on."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import Customer, Subscription, SubscriptionState
from sidecar.engine.document import read_catalog
from sidecar.engine.values import Event

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
quick = settings(max_examples=80, deadline=None, derandomize=True)
"""The profile of every property here: seconds, and the same on every run."""

instants = st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2031, 1, 1)).map(  # noqa: DTZ001
    lambda at: at.replace(tzinfo=UTC)
)
decimals = st.decimals(min_value=0, max_value=10**9, places=4, allow_nan=False, allow_infinity=False)
prices = st.decimals(min_value=0, max_value=1, places=6).map(str)
overages = st.sampled_from(["deny", "allow", {"allow_up_to": 3}, {"allow_up_to": 1000}])
periods = st.sampled_from(["P1D", "P1M"])

BASICS: dict[str, Any] = {
    "purser": "catalog/v1",
    "units": {"usd": {"kind": "currency", "scale": 9}, "credit": {"kind": "credit", "scale": 0}},
    "meters": {
        "requests": {"event": "llm", "aggregate": "count"},
        "tokens": {"event": "llm", "aggregate": "sum", "of": ["in", "out"]},
    },
    "features": {
        "chat": {"type": "metered", "event": "llm", "rate_card": "llm"},
        "calls": {"type": "metered", "meter": "requests"},
        "perk": {"type": "metered", "event": "llm", "rate_card": "perk"},
        "sso": {"type": "switch"},
        "size": {"type": "config", "value": "integer"},
        "models": {"type": "config", "value": "set"},
        "seats": {"type": "gauge"},
    },
}


@st.composite
def rate_cards(draw: st.DrawFn) -> dict[str, Any]:
    """A card by model with a part and tiers."""
    rows = [
        {"dimension": name, "per": draw(st.sampled_from([1, 3, 1000])), "price": draw(prices)}
        for name in ("in", "out")
    ]
    if draw(st.booleans()):
        rows.append({"dimension": "cached", "per": 1000, "price": draw(prices)})
    card: dict[str, Any] = {
        "event": "llm",
        "unit": "usd",
        "by": "model",
        "parts": {"cached": "in"},
        "prices": {"*": rows},
    }
    if draw(st.booleans()):
        card["multipliers"] = {
            "*": [{"measure": "in", "tiers": [{"up_to": 500, "times": 1}, {"times": "1.5"}]}]
        }
    return card


@st.composite
def metered(draw: st.DrawFn) -> dict[str, Any]:
    """The entitlement to chat: covered, paid, billed, or some of it."""
    limit = {"meter": "tokens", "limit": draw(st.integers(0, 3000)), "every": draw(periods)}
    overage = draw(overages)
    billed = {**limit, "overage": {"allow": {"charge": "llm"}}}
    forms: list[Any] = [
        {**limit, "overage": overage},
        {"spends": "usd", "overage": overage},
        {**limit, "spends": "usd"},
        {"charge": "llm"},
        billed,
        True,
    ]
    terms = draw(st.sampled_from(forms))
    if terms is not True and draw(st.booleans()):
        terms = {**terms, "rate": [{"meter": "requests", "limit": draw(st.integers(0, 3)), "per": "PT1M"}]}
    return {"entitlement": terms}


@st.composite
def sources(draw: st.DrawFn) -> dict[str, Any]:
    """Entitlements of one plan or add-on."""
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        found["chat"] = draw(metered())["entitlement"]
    if draw(st.booleans()):
        found["calls"] = {"limit": draw(st.integers(0, 5)), "every": draw(periods), "overage": draw(overages)}
    if draw(st.booleans()):
        found["perk"] = {"spends": "usd"}
    if draw(st.booleans()):
        found["sso"] = draw(st.booleans())
    if draw(st.booleans()):
        found["size"] = draw(st.integers(0, 100))
    if draw(st.booleans()):
        found["models"] = draw(st.lists(st.sampled_from("abc"), unique=True))
    if draw(st.booleans()):
        found["seats"] = {"limit": draw(st.integers(0, 5))}
    return found


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid catalog document with plans `one` and `two` and an add-on `more`."""
    budget = {
        "name": "cap",
        "unit": "usd",
        "limit": draw(st.integers(0, 5)),
        "every": "P1D",
        "scope": "subject",
    }
    budgets = [budget] if draw(st.booleans()) else []
    discount = {"rate_card": "llm", "percent": draw(st.integers(0, 100))}
    grant = {"unit": "usd", "amount": draw(st.integers(0, 10)), "every": "P1M", "rollover_max": 2}
    return {
        **BASICS,
        "rate_cards": {"llm": draw(rate_cards()), "perk": draw(rate_cards())},
        "plans": {
            "one": {"entitlements": draw(sources()), "budgets": budgets, "grants": [grant]},
            "two": {"entitlements": draw(sources()), "discount": discount, "upgrade_to": "one"},
            "sub": {"base": "one", "entitlements": draw(sources()), "trial": "P14D"},
        },
        "add_ons": {"more": {"entitlements": draw(sources())}},
    }


catalogs = documents().map(read_catalog)


def subscription(number: int, plan: str, add_ons: tuple[str, ...] = ()) -> Subscription:
    """An active one that began some days ago."""
    began = NOW - timedelta(days=40 + number)
    return Subscription(
        subscription_id=f"s{number}",
        plan=plan,
        catalog_revision=1,
        state=SubscriptionState.ACTIVE,
        starts_at=began,
        anchor_at=NOW - timedelta(days=60),
        add_ons=add_ons,
    )


@st.composite
def customers(draw: st.DrawFn) -> Customer:
    """One or two subscriptions, with or without the add-on."""
    plans = draw(st.lists(st.sampled_from(["one", "two", "sub"]), min_size=1, max_size=2))
    add_ons = [("more",) if draw(st.booleans()) else () for _ in plans]
    subscriptions = [
        subscription(i, plan, more) for i, (plan, more) in enumerate(zip(plans, add_ons, strict=True))
    ]
    return Customer(customer_id="c", subscriptions=tuple(subscriptions))


@st.composite
def events(draw: st.DrawFn) -> Event:
    """An inference with some tokens, a part of them cached."""
    tokens = draw(st.integers(0, 2000))
    measures = {"in": Decimal(tokens), "out": Decimal(draw(st.integers(0, 2000)))}
    if draw(st.booleans()):
        measures["cached"] = Decimal(draw(st.integers(0, tokens)))
    return Event(
        event_name="llm",
        occurred_at=NOW,
        customer_id="c",
        subject_id=draw(st.sampled_from(["", "u"])),
        measures=measures,
        attributes={"model": draw(st.sampled_from("ab"))},
    )


def catalog_of(document: dict[str, Any]) -> Catalog:
    """The catalog of a valid document."""
    return read_catalog(document)
