"""The catalog document: what is read, and how each mistake is told."""

from decimal import Decimal
from typing import Any

import pytest

from sidecar.engine.catalog import Aggregate, GaugeTerms, JsonText, MeteredTerms, OnUnreachable, OveragePolicy
from sidecar.engine.document import CatalogError, read_catalog, write_catalog
from tests.contracts.decision_cases import ROOT, read_yaml

EXAMPLE = "examples/catalogs/example.yaml"


def example() -> dict[str, Any]:
    """The example catalog, as plain data to change."""
    document: dict[str, Any] = read_yaml(ROOT / EXAMPLE)
    return document


def problems(document: Any) -> dict[str, str]:
    """What is wrong where, with the mend."""
    with pytest.raises(CatalogError) as caught:
        read_catalog(document)
    return {problem.path: f"{problem.what}; {problem.mend}" for problem in caught.value.problems}


def test_the_example_reads_and_writes() -> None:
    """The contract's example is a catalog, and its canonical form is the same catalog."""
    catalog = read_catalog(example())
    assert read_catalog(write_catalog(catalog)) == catalog
    assert {"free", "pro", "payg", "hybrid", "team", "acme"} <= catalog.plans.keys()
    assert catalog.plans["acme"].entitlements == catalog.plans["pro"].entitlements
    assert catalog.plans["acme"].grants == catalog.plans["pro"].grants
    assert catalog.meters["requests"].scale == 0
    assert catalog.meters["tokens"].aggregate is Aggregate.SUM
    assert catalog.rate_cards["llm"].prices["text-gen-v3",][0].price == Decimal("0.003")
    assert catalog.add_ons["pack_50"].grants[0].refund == "unused"


def test_limit_and_included_are_one_allowance() -> None:
    """Both forms say the same; writing both is an error."""
    document = example()
    document["plans"]["a"] = {"entitlements": {"chat": {"meter": "tokens", "limit": 5, "every": "P1M"}}}
    document["plans"]["b"] = {
        "entitlements": {"chat": {"included": {"meter": "tokens", "amount": 5, "every": "P1M"}}}
    }
    catalog = read_catalog(document)
    assert catalog.plans["a"].entitlements == catalog.plans["b"].entitlements
    document["plans"]["b"]["entitlements"]["chat"]["limit"] = 5
    assert "one allowance, written twice" in problems(document)["plans.b.entitlements.chat"]


def test_every_problem_is_told_at_once() -> None:
    """All mistakes of a document come together, each with its path and a mend."""
    document = example()
    document["plans"]["pro"]["entitlements"]["chat"]["overage"] = "forbid"
    document["plans"]["pro"]["entitlments"] = {}
    document["plans"]["free"]["upgrade_to"] = ["pr"]
    document["features"]["chat"]["requires"][0]["in"] = "sso"
    document["features"]["api_calls"]["meter"] = "request"
    document["rate_cards"]["llm"]["unit"] = "eur"
    document["rate_cards"]["llm"]["prices"]["text-gen-v3"][0]["price"] = 0.003
    document["units"]["usd"]["scale"] = 99
    document["plans"]["hybrid"]["price"]["every"] = "1 month"
    found = problems(document)
    assert found["plans.pro.entitlements.chat.overage"].endswith("known are allow, allow_up_to, deny")
    assert "did you mean 'entitlements'?" in found["plans.pro.entitlments"]
    assert "did you mean 'pro'?" in found["plans.free.upgrade_to[0]"]
    assert "no config of type set" in found["features.chat.requires[0]"]
    assert "did you mean 'requests'?" in found["features.api_calls.meter"]
    assert "there is no unit 'eur'" in found["rate_cards.llm.unit"]
    assert "write the number in quotes" in found["rate_cards.llm.prices.text-gen-v3[0].price"]
    assert "no whole number from 0 to 12" in found["units.usd.scale"]
    assert "P1M" in found["plans.hybrid.price.every"]


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"spends": "usd", "charge": "llm"}, "not both"),
        ({"spends": "credit"}, "counts in 'usd'"),
        ({"charge": "provider"}, "what it costs us"),
        ({"limit": 5, "meter": "tokens", "charge": "llm"}, "nothing lies beyond"),
        ({"overage": "allow"}, "nothing to go beyond"),
        ({"limit": 5}, "no meter of its own"),
        ({"limit": "0.0000001", "meter": "tokens"}, "more than 6 digits"),
        ({"limit": -1, "meter": "tokens"}, "below 0"),
        ({"limit": "1e3", "meter": "tokens"}, "not a plain decimal"),
        ({"rate": [{"meter": "tokens", "limit": 5, "per": "P1M"}]}, "no fixed length"),
        ({"every": "P1M", "spends": "usd"}, "without a limit"),
        ({"spends": "usd", "pay": "in_arrears"}, "only a charge is paid"),
        (5, "true, false or a mapping"),
    ],
)
def test_terms_that_contradict_themselves(terms: Any, said: str) -> None:
    """Each contradiction in a metered entitlement is told at its place."""
    document = example()
    document["plans"]["x"] = {"entitlements": {"chat": terms}}
    assert any(said in text for path, text in problems(document).items() if path.startswith("plans.x")), said


def test_short_forms() -> None:
    """A number for a gauge, true for a metered feature, unlimited for a limit, trouble, on_past_due, JSON."""
    document = example()
    document["features"]["flags"] = {"type": "config", "value": "json"}
    document["features"]["chat"]["trouble"] = {"on_unreachable": {"allow_up_to": 5}, "max_staleness": "PT5M"}
    flags = {"b": Decimal("1.50"), "a": [True, None, "x"]}
    document["plans"]["x"] = {
        "entitlements": {"seats": 3, "chat": True, "api_calls": {"limit": "unlimited"}, "flags": flags},
        "on_past_due": {"allow_for": "P7D"},
        "trial": "P14D",
    }
    catalog = read_catalog(document)
    plan = catalog.plans["x"]
    assert plan.entitlements["seats"] == GaugeTerms(Decimal(3))
    assert plan.entitlements["chat"] == MeteredTerms()
    assert str(plan.on_past_due) == "allow_for:P7D"
    assert catalog.features["chat"].trouble.on_unreachable is OnUnreachable.ALLOW_UP_TO
    assert plan.entitlements["flags"].value == JsonText('{"a":[true,null,"x"],"b":1.5}')  # type: ignore[union-attr]
    assert read_catalog(write_catalog(catalog)) == catalog


def test_bases_merge_and_circles_are_told() -> None:
    """A plan says only what differs from its base; a base that comes back is an error."""
    document = example()
    document["plans"]["x"] = {
        "base": "acme",
        "entitlements": {"sso": False, "seats": {"limit": 9}},
        "grants": [],
    }
    plan = read_catalog(document).plans["x"]
    assert plan.grants == ()
    assert plan.budgets[0].name == "daily"
    assert plan.entitlements["seats"] == GaugeTerms(Decimal(9))
    assert plan.entitlements["chat"].overage.policy is OveragePolicy.DENY  # type: ignore[union-attr]
    document["plans"]["pro"]["base"] = "x"
    assert any("comes back" in text for text in problems(document).values())


def test_hostile_documents_are_refused() -> None:
    """Depth, size, circles, huge numbers and odd keys give problems and no crash."""
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    wide: list[Any] = ["x"] * 1000
    for _ in range(9):
        wide = [wide] * 1000
    circle: list[Any] = []
    circle.append(circle)
    odd: list[Any] = [{"units": circle}, {1: 2}, {"purser": 10**9999}, None, 1.5, "text", [[]]]
    for hostile in [deep, wide, circle, *odd]:
        assert problems(hostile)
    document = example()
    document["plans"]["pro"]["grants"][0]["amount"] = 10**5000
    document["plans"][""] = {}
    document["plans"]["a/b"] = {}
    found = problems(document)
    assert "not a plain decimal number" in found["plans.pro.grants[0].amount"]
    assert "is no name" in found["plans.a/b"]
