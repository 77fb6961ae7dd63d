"""Rating by hand: the digits of the contract."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from sidecar.engine.document import read_catalog
from sidecar.engine.rate_card import Price, RateCard
from sidecar.engine.rating import NoPrice, PartExceedsWhole, Rated, rate, share
from sidecar.engine.values import AmountOutOfRange, Event, format_scaled, to_scaled
from tests.contracts.decision_cases import ROOT, read_yaml

NOW = datetime(2026, 3, 10, tzinfo=UTC)
CATALOG = read_catalog(read_yaml(ROOT / Path("examples/catalogs/example.yaml")))
LLM = CATALOG.rate_cards["llm"]


def event(model: str = "text-gen-v3", tier: str = "", **measures: str) -> Event:
    """An inference with these measures."""
    return Event(
        event_name="llm_inference",
        occurred_at=NOW,
        measures={name: Decimal(value) for name, value in measures.items()},
        attributes={"model": model, "service_tier": tier},
    )


def cost(card: RateCard, what: Event, discount: str = "0") -> str:
    """The rounded cost as text."""
    found = rate(card, what, Decimal(discount))
    assert isinstance(found, Rated), found
    return format_scaled(found.amount, card.scale)


@pytest.mark.parametrize(
    ("window", "expected"), [("8192", "0.014232"), ("32768", "0.0256176"), ("131072", "0.0455424")]
)
def test_the_contract_s_digits(window: str, expected: str) -> None:
    """412 input and 1,083 output tokens, in each window, exactly."""
    assert cost(LLM, event(input_tokens="412", output_tokens="1083", context_window=window)) == expected


def test_hybrid_overage_is_rounded_once() -> None:
    """495 of 1,495 tokens not covered: 0.014232 × 495 / 1495, rounded at scale 9."""
    found = rate(LLM, event(input_tokens="412", output_tokens="1083", context_window="8192"))
    assert isinstance(found, Rated)
    part = share(found.exact, 495_000_000, 1_495_000_000)
    assert format_scaled(to_scaled(part, 9), 9) == "0.004712268"


def test_parts_are_priced_apart_and_taken_off_their_whole() -> None:
    """10,000 in, of them 6,000 cached at 0.0003, 500 out, no window given: 10,500 → 1.8 ×; 0.03564."""
    document = read_yaml(ROOT / "examples/catalogs/example.yaml")
    rows = document["rate_cards"]["llm"]["prices"]["text-gen-v3"]
    rows.append({"dimension": "cached_input_tokens", "per": 1000, "price": "0.0003"})
    card = read_catalog(document).rate_cards["llm"]
    what = event(input_tokens="10000", cached_input_tokens="6000", output_tokens="500")
    assert cost(card, what) == "0.03564"
    found = rate(card, what)
    assert isinstance(found, Rated)
    assert {line.dimension: line.quantity for line in found.lines} == {
        "input_tokens": Decimal(4000),
        "cached_input_tokens": Decimal(6000),
        "output_tokens": Decimal(500),
    }


def test_a_part_without_a_row_stays_in_its_whole() -> None:
    """Cached tokens cost what input tokens cost, where they have no price of their own."""
    assert cost(LLM, event(input_tokens="1000", cached_input_tokens="600", context_window="1")) == "0.003"


def test_a_part_above_its_whole_is_malformed() -> None:
    """More cached tokens than input tokens is an error and not a negative cost."""
    with pytest.raises(PartExceedsWhole):
        rate(LLM, event(input_tokens="5", cached_input_tokens="6"))


def test_two_parts_above_their_whole_are_malformed() -> None:
    """Parts that each fit, but not together, are an error too."""
    rows = tuple(Price(name, Decimal(1), Decimal(1)) for name in ("in", "a", "b"))
    card = RateCard("c", "e", "usd", 9, parts={"a": "in", "b": "in"}, prices={(): rows})
    with pytest.raises(PartExceedsWhole):
        rate(card, event(**{"in": "5", "a": "3", "b": "3"}))


def test_a_part_of_a_part_comes_off_the_nearest_whole_with_a_price() -> None:
    """Where the middle one has no row, the inner one comes off the outer."""
    rows = (Price("outer", Decimal(1), Decimal(10)), Price("inner", Decimal(1), Decimal(1)))
    card = RateCard("c", "e", "usd", 9, parts={"inner": "middle", "middle": "outer"}, prices={(): rows})
    assert cost(card, event(outer="5", middle="3", inner="2")) == "32"


def test_no_row_and_no_tier_are_no_price() -> None:
    """An unknown model, and a window above the last tier, have no price; the bounds of tiers are inclusive."""
    assert isinstance(rate(LLM, event("other", input_tokens="1")), NoPrice)
    assert isinstance(rate(LLM, event(input_tokens="1", context_window="131073")), NoPrice)
    assert cost(LLM, event(input_tokens="1000", context_window="131072")) == "0.0096"
    assert cost(LLM, event(input_tokens="1000", context_window="8192.1")) == "0.0054"


def test_two_names_nest_and_star_is_the_default() -> None:
    """Exact row first, then as many of the first names as have a default after them."""
    prices: dict[tuple[str, ...], tuple[Price, ...]] = {
        ("a", "fast"): (Price("t", Decimal(1), Decimal(1)),),
        ("a", "*"): (Price("t", Decimal(1), Decimal(2)),),
        ("*", "fast"): (Price("t", Decimal(1), Decimal(3)),),
        ("*", "*"): (Price("t", Decimal(1), Decimal(4)),),
    }
    card = RateCard("c", "e", "usd", 9, by=("model", "service_tier"), prices=prices)
    found = [
        cost(card, event(m, s, t="1")) for m, s in (("a", "fast"), ("a", "x"), ("b", "fast"), ("b", "x"))
    ]
    assert found == ["1", "2", "3", "4"]


def test_discounts_apply_before_rounding() -> None:
    """A third off a price that does not end is rounded once, half-even."""
    card = RateCard("c", "e", "usd", 2, prices={(): (Price("t", Decimal(3), Decimal(1)),)})
    assert cost(card, event(t="1")) == "0.33"
    assert cost(card, event(t="0.15")) == "0.05"
    assert cost(card, event(t="0.075")) == "0.02"
    assert cost(card, event(t="0.045")) == "0.02"
    assert cost(card, event(t="30"), "15") == "8.5"


def test_a_cost_beyond_63_bits_is_malformed() -> None:
    """An amount that no balance could hold is an error."""
    card = RateCard("c", "e", "usd", 9, prices={(): (Price("t", Decimal(1), Decimal(1)),)})
    with pytest.raises(AmountOutOfRange):
        rate(card, event(t="1" + "0" * 12))
