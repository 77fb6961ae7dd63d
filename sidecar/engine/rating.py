"""What an event costs by a rate card: exact in 60 digits, rounded once, half-even, to the unit's scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from sidecar.engine.rate_card import Multiplier, RateCard, Row
from sidecar.engine.values import EXACT, ONE, ZERO, Event, format_decimal, to_scaled

_HUNDRED: Final = Decimal(100)


class Line(NamedTuple):
    """One dimension of a rated event, so that it can be recomputed by hand: quantity ÷ per × price × times = amount."""

    dimension: str
    quantity: Decimal
    per: Decimal
    price: Decimal
    times: Decimal
    """All multipliers and the discount."""
    amount: Decimal
    """Unrounded."""


@dataclass(init=False, slots=True)
class Rated:
    """A cost."""

    unit: Final[str]
    amount: Final[int]
    """Rounded once, at the unit's scale."""
    exact: Final[Decimal]
    """Unrounded: the sum of the lines."""
    lines: Final[tuple[Line, ...]]
    """Empty where none were asked for."""

    def __init__(self, unit: str, amount: int, exact: Decimal, lines: tuple[Line, ...]) -> None:
        self.unit = unit
        self.amount = amount
        self.exact = exact
        self.lines = lines


class NoPrice(NamedTuple):
    """The card has no price for this event."""

    why: str


class PartExceedsWhole(ValueError):
    """A measure that is a part of another is larger than that, or parts together are."""

    def __init__(self, part: str, whole: str) -> None:
        super().__init__(f"{part} is more than {whole}, which it is a part of")
        self.part = part
        self.whole = whole


def check_parts(card: RateCard, measures: Mapping[str, Decimal]) -> None:
    """Raises PartExceedsWhole."""
    for part, whole in card.parts.items():
        value = measures.get(part)
        if value is not None and value > measures.get(whole, ZERO):
            raise PartExceedsWhole(part, whole)


def rate(
    card: RateCard, event: Event, discount_percent: Decimal = ZERO, *, with_lines: bool = True
) -> Rated | NoPrice:
    """The cost of the whole event, after multipliers and discount. Raises PartExceedsWhole and AmountOutOfRange."""
    measures, attributes = event.measures, event.attributes
    if card.parts:
        check_parts(card, measures)
    rows = card.rows(attributes)
    if rows is None:
        return NoPrice(_no_row(card, attributes))
    times = (
        ONE if not discount_percent else EXACT.divide(EXACT.subtract(_HUNDRED, discount_percent), _HUNDRED)
    )
    for multiplier in card.multipliers_for(attributes):
        factor = _factor(multiplier, measures)
        if factor is None:
            return NoPrice(_above(multiplier, measures))
        if factor is not ONE:
            times = EXACT.multiply(times, factor)
    exact = ZERO
    lines: list[Line] = []
    for row in rows:
        quantity = measures.get(row.dimension, ZERO)
        if row.takes_off:
            quantity = _without_parts(row, quantity, measures)
        if not quantity:
            continue
        amount = EXACT.multiply(quantity, row.each)
        if row.divided_by is not None:
            amount = EXACT.divide(amount, row.divided_by)
        if times is not ONE:
            amount = EXACT.multiply(amount, times)
        exact = EXACT.add(exact, amount)
        if with_lines:
            lines.append(Line(row.dimension, quantity, row.per, row.price, times, amount))
    return Rated(card.unit, to_scaled(exact, card.scale), exact, tuple(lines))


def share(exact: Decimal, uncovered: int, quantity: int) -> Decimal:
    """The part of a cost that is for `uncovered` of `quantity`, unrounded. Nothing of nothing costs it whole."""
    assert 0 <= uncovered <= quantity, "what is not covered is a part of it"
    if uncovered == quantity:
        return exact
    return EXACT.divide(EXACT.multiply(exact, Decimal(uncovered)), Decimal(quantity))


def _without_parts(row: Row, quantity: Decimal, measures: Mapping[str, Decimal]) -> Decimal:
    for part in row.takes_off:
        quantity = EXACT.subtract(quantity, measures.get(part, ZERO))
    if quantity < 0:
        raise PartExceedsWhole(" + ".join(row.takes_off), row.dimension)
    return quantity


def _factor(multiplier: Multiplier, measures: Mapping[str, Decimal]) -> Decimal | None:
    value = _tier_value(multiplier, measures)
    for tier in multiplier.tiers:
        if tier.up_to is None or value <= tier.up_to:
            return tier.times
    return None


def _tier_value(multiplier: Multiplier, measures: Mapping[str, Decimal]) -> Decimal:
    value = measures.get(multiplier.measure)
    if value is not None:
        return value
    total = ZERO
    for name in multiplier.else_sum:
        total = EXACT.add(total, measures.get(name, ZERO))
    return total


def _above(multiplier: Multiplier, measures: Mapping[str, Decimal]) -> str:
    value = format_decimal(_tier_value(multiplier, measures))
    last = multiplier.tiers[-1].up_to if multiplier.tiers else None
    top = "" if last is None else f", {format_decimal(last)}"
    return f"{multiplier.measure} {value} is above the last tier{top}"


def _no_row(card: RateCard, attributes: Mapping[str, str]) -> str:
    missing = [name for name in card.by if not attributes.get(name)]
    if missing:
        return f"it prices by {', '.join(card.by)}, and the event has no attribute {' and no '.join(missing)}"
    asked = ", ".join(f"{name} {attributes[name]!r}" for name in card.by)
    return f"there is no price for {asked}" if asked else "there are no prices"
