"""What an event costs by a rate card: exact in 60 digits, rounded once, half-even, to the unit's scale."""

from decimal import Decimal
from typing import NamedTuple


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


class Rated(NamedTuple):
    """A cost."""

    unit: str
    amount: int
    """Rounded once, at the unit's scale."""
    exact: Decimal
    """Unrounded: the sum of the lines."""
    lines: tuple[Line, ...]


class NoPrice(NamedTuple):
    """The card has no price for this event."""

    why: str
