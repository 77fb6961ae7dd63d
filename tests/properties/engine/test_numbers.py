"""Properties of numbers and of rating: see `sidecar/engine/README.md`."""

from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine.rate_card import Multiplier, Price, RateCard, Tier
from sidecar.engine.rating import Rated, rate, share
from sidecar.engine.values import (
    EXACT,
    MAX_AMOUNT,
    AmountOutOfRange,
    Event,
    NotANumber,
    format_decimal,
    format_scaled,
    from_scaled,
    parse_decimal,
    to_scaled,
)
from tests.properties.engine.worlds import NOW, quick

amounts = st.integers(-MAX_AMOUNT, MAX_AMOUNT)
scales = st.integers(0, 12)
counts = st.integers(0, 10**7).map(Decimal)
prices = st.decimals(min_value=0, max_value=10, places=7)


def event(**measures: Decimal) -> Event:
    """An inference with these measures."""
    return Event(event_name="llm", occurred_at=NOW, measures=measures)


def card(
    rows: tuple[Price, ...], parts: dict[str, str] | None = None, tiers: tuple[Tier, ...] = ()
) -> RateCard:
    """A card in usd at scale 9."""
    multipliers: dict[tuple[str, ...], tuple[Multiplier, ...]] = (
        {(): (Multiplier("in", (), tiers),)} if tiers else {}
    )
    return RateCard("llm", "llm", "usd", 9, parts=parts or {}, prices={(): rows}, multipliers=multipliers)


def cost(which: RateCard, what: Event) -> Rated:
    """The cost of something that has a price."""
    found = rate(which, what)
    assert isinstance(found, Rated)
    return found


@quick
@given(amounts, scales)
def test_numbers_round_trip(amount: int, scale: int) -> None:
    """What was formatted parses back to itself, and what was scaled comes back unchanged."""
    value = from_scaled(amount, scale)
    assert to_scaled(value, scale) == amount
    assert parse_decimal(format_decimal(value)) == value
    assert format_scaled(amount, scale) == format_decimal(value)


@quick
@given(st.one_of(st.text(), st.from_regex(r"-?[0-9]{0,70}(\.[0-9]{0,3})?(e[0-9])?", fullmatch=True)))
def test_numbers_refuse(text: str) -> None:
    """A text is a plain decimal number of at most 60 digits, or it is refused."""
    try:
        value = parse_decimal(text)
    except NotANumber:
        return
    assert value.is_finite()
    assert len(value.as_tuple().digits) <= 60
    assert "e" not in text.lower()
    assert parse_decimal(format_decimal(value)) == value


@quick
@given(st.integers(MAX_AMOUNT + 1, 10**40), scales)
def test_no_amount_leaves_63_bits(amount: int, scale: int) -> None:
    """What does not fit is refused, whatever its sign."""
    for sign in (1, -1):
        with pytest.raises(AmountOutOfRange):
            to_scaled(from_scaled(sign * amount, scale), scale)


@quick
@given(counts, counts, prices, prices, st.sampled_from([1, 3, 7, 1000]))
def test_rating_rounds_once(a: Decimal, b: Decimal, x: Decimal, y: Decimal, per: int) -> None:
    """A cost is the sum of its lines, and is rounded once, to within half of the unit's last digit."""
    found = cost(
        card((Price("in", Decimal(per), x), Price("out", Decimal(per), y))), event(**{"in": a, "out": b})
    )
    total = Decimal(0)
    for line in found.lines:
        total = EXACT.add(total, line.amount)
    assert found.exact == total
    assert abs(EXACT.subtract(from_scaled(found.amount, 9), found.exact)) * 2 <= Decimal("1e-9")


@quick
@given(counts, counts, prices)
def test_parts_come_off(whole: Decimal, part: Decimal, price: Decimal) -> None:
    """A part priced like its whole costs what the whole costs without it."""
    part = min(whole, part)
    rows = (Price("in", Decimal(1000), price), Price("cached", Decimal(1000), price))
    priced = cost(card(rows, {"cached": "in"}), event(**{"in": whole, "cached": part}))
    plain = cost(card(rows[:1]), event(**{"in": whole}))
    assert priced.exact == plain.exact


@quick
@given(counts, counts, counts, prices, prices)
def test_rating_order(a: Decimal, b: Decimal, part: Decimal, x: Decimal, y: Decimal) -> None:
    """A cost does not depend on the order of measures or rows."""
    measures = {"in": a, "out": b, "cached": min(a, part)}
    rows = (Price("in", Decimal(3), x), Price("out", Decimal(1000), y), Price("cached", Decimal(7), y))
    costs = {
        cost(
            card(order, {"cached": "in"}), event(**dict(reversed(measures.items())) if turned else measures)
        ).exact
        for order in permutations(rows)
        for turned in (False, True)
    }
    # Sums of thirds in another order may differ in the sixtieth digit, which no rounding sees.
    assert max(costs) - min(costs) < Decimal("1e-40")


@quick
@given(counts, counts, prices)
def test_rating_grows(less: Decimal, more: Decimal, price: Decimal) -> None:
    """A larger measure never costs less, in one tier or over rising ones."""
    less, more = sorted((less, more))
    tiers = (Tier(Decimal(1000), Decimal(1)), Tier(None, Decimal("1.8")))
    rising = card((Price("in", Decimal(1000), price),), tiers=tiers)
    assert cost(rising, event(**{"in": less})).amount <= cost(rising, event(**{"in": more})).amount


@quick
@given(prices, st.integers(0, 10**9), st.integers(1, 10**9))
def test_shares_add_up(price: Decimal, uncovered: int, quantity: int) -> None:
    """What is covered and what is not cost the whole together."""
    uncovered = min(uncovered, quantity)
    both = share(price, uncovered, quantity) + share(price, quantity - uncovered, quantity)
    assert abs(both - price) < Decimal("1e-20")
