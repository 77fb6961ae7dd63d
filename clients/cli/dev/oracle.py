"""What an event must cost, worked out from the catalog's text alone. Shares no line with the engine that it checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Price:
    """One dimension of a rate card: `price` for each `per` of it."""

    dimension: str
    per: Fraction
    price: Fraction


@dataclass(frozen=True, slots=True)
class Multiplier:
    """Times what, by how large a measure is. `tiers`: (up to, times), inclusive, ascending."""

    measure: str
    else_sum: tuple[str, ...]
    tiers: tuple[tuple[Fraction, Fraction], ...]


@dataclass(frozen=True, slots=True)
class Oracle:
    """Prices of one rate card by model, and the scale of its unit."""

    scale: int
    parts: Mapping[str, str]
    prices: Mapping[str, tuple[Price, ...]]
    multipliers: Mapping[str, tuple[Multiplier, ...]]

    def cost(self, measures: Mapping[str, str], model: str) -> Fraction:
        """The whole event's cost, unrounded.

        Raises:
            KeyError: the model has no price.
            ValueError: no tier reaches as far as the event.
        """
        amounts = {name: Fraction(value) for name, value in measures.items()}
        row = self.prices.get(model) or self.prices["*"]
        priced = {price.dimension for price in row}
        for part, whole in self.parts.items():
            if part in priced and part in amounts:
                amounts[whole] = amounts.get(whole, Fraction(0)) - amounts[part]
        total = sum(
            (amounts.get(price.dimension, Fraction(0)) / price.per * price.price for price in row),
            Fraction(0),
        )
        whole_measures = {name: Fraction(value) for name, value in measures.items()}
        for multiplier in self.multipliers.get(model) or self.multipliers.get("*", ()):
            total *= _times(multiplier, whole_measures)
        return total

    def rounded(self, cost: Fraction) -> Decimal:
        """Half-even, once, to the unit's scale."""
        return Decimal(round(cost * 10**self.scale)).scaleb(-self.scale)


def _times(multiplier: Multiplier, measures: Mapping[str, Fraction]) -> Fraction:
    size = measures.get(multiplier.measure)
    if size is None:
        size = sum((measures.get(name, Fraction(0)) for name in multiplier.else_sum), Fraction(0))
    for up_to, times in multiplier.tiers:
        if size <= up_to:
            return times
    raise ValueError(f"{multiplier.measure} {size} is above every tier")


def read(catalog: str, rate_card: str) -> Oracle:
    """The oracle of one rate card (priced by model) of a catalog file. Numbers are read from their text."""
    document: Any = yaml.load(catalog, Loader=yaml.BaseLoader)  # noqa: S506 -- BaseLoader makes texts and nothing else
    card = document["rate_cards"][rate_card]
    return Oracle(
        scale=int(document["units"][card["unit"]]["scale"]),
        parts=dict(card.get("parts", {})),
        prices={model: tuple(map(_price, row)) for model, row in card["prices"].items()},
        multipliers={
            model: tuple(map(_multiplier, row)) for model, row in card.get("multipliers", {}).items()
        },
    )


def _price(row: Mapping[str, str]) -> Price:
    return Price(row["dimension"], Fraction(row.get("per", "1")), Fraction(row["price"]))


def _multiplier(row: Mapping[str, Any]) -> Multiplier:
    tiers = tuple((Fraction(tier["up_to"]), Fraction(tier["times"])) for tier in row["tiers"])
    return Multiplier(row["measure"], tuple(row.get("else_sum", ())), tiers)
