"""A rate card, with its rows compiled so that rating an event is a look-up and a few multiplications."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import product
from typing import Final, NamedTuple, TypeVar

from sidecar.engine.values import EXACT, ONE

DEFAULT_ROW: Final = "*"
Found = TypeVar("Found")


class Side(StrEnum):
    PRICE = "price"
    COST = "cost"


class Unknown(StrEnum):
    DENY = "deny"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Price:
    """One row: `price` for every `per` of a measure, in the card's unit."""

    dimension: str
    per: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class Tier:
    """Up to and including `up_to` (None: without end) the whole event costs `times` as much."""

    up_to: Decimal | None
    times: Decimal


@dataclass(frozen=True, slots=True)
class Multiplier:
    """Picks a tier by a measure, or by the sum of others where the event has none; above the last tier: no price."""

    measure: str
    else_sum: tuple[str, ...]
    tiers: tuple[Tier, ...]


class Row(NamedTuple):
    """A compiled price row."""

    dimension: str
    takes_off: tuple[str, ...]
    """Parts with a row of their own: their measures are not paid again here."""
    each: Decimal
    """The price of one, where that has an end; else the price of `per`."""
    divided_by: Decimal | None
    """Set: what to divide by afterwards, because a price of one would not be exact."""
    per: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True)
class RateCard:
    """Turns an event into a cost. Rows and multipliers are found by the attributes in `by`; `*` is the default row."""

    name: str
    event: str
    unit: str
    scale: int
    """The unit's."""
    side: Side = Side.PRICE
    by: tuple[str, ...] = ()
    unknown: Unknown = Unknown.DENY
    """`deny`: an event without a price is refused; `allow`: it passes and is recorded as unrated."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """A measure that is already inside another, to that other."""
    prices: Mapping[tuple[str, ...], tuple[Price, ...]] = field(default_factory=dict)
    multipliers: Mapping[tuple[str, ...], tuple[Multiplier, ...]] = field(default_factory=dict)
    compiled: Mapping[tuple[str, ...], tuple[Row, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        compiled = {key: _compile(rows, self.parts) for key, rows in self.prices.items()}
        object.__setattr__(self, "compiled", compiled)

    def rows(self, attributes: Mapping[str, str]) -> tuple[Row, ...] | None:
        """The rows for an event with these attributes; None: no price."""
        key = tuple([attributes.get(name, "") for name in self.by])
        return self.compiled.get(key) or _default(self.compiled, key)

    def multipliers_for(self, attributes: Mapping[str, str]) -> tuple[Multiplier, ...]:
        """The multipliers for an event with these attributes."""
        if not self.multipliers:
            return ()
        key = tuple([attributes.get(name, "") for name in self.by])
        return self.multipliers.get(key) or _default(self.multipliers, key) or ()


def _default(index: Mapping[tuple[str, ...], Found], key: tuple[str, ...]) -> Found | None:
    """The nearest default: as many of the first attributes as have one are kept."""
    for candidate in product(*((value, DEFAULT_ROW) for value in key)):
        if candidate in index:
            return index[candidate]
    return None


def _compile(rows: tuple[Price, ...], parts: Mapping[str, str]) -> tuple[Row, ...]:
    priced = {row.dimension for row in rows}
    takes_off: dict[str, list[str]] = {}
    for part in sorted(priced & parts.keys()):
        whole = parts[part]
        while whole not in priced and whole in parts:
            whole = parts[whole]
        takes_off.setdefault(whole, []).append(part)
    return tuple(_row(row, tuple(takes_off.get(row.dimension, ()))) for row in rows)


def _row(row: Price, takes_off: tuple[str, ...]) -> Row:
    each = EXACT.divide(row.price, row.per)
    exact = EXACT.multiply(each, row.per) == row.price and len(each.as_tuple().digits) < EXACT.prec
    if exact or row.per == ONE:
        return Row(row.dimension, takes_off, each, None, row.per, row.price)
    return Row(row.dimension, takes_off, row.price, row.per, row.per, row.price)
