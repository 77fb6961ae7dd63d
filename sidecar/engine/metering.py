"""How an event becomes a quantity of a meter."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from sidecar.engine.catalog import Aggregate, Meter
from sidecar.engine.values import EXACT, ONE, ZERO, Event, to_scaled


def matches(meter: Meter, event: Event) -> bool:
    """Does the meter read this event: its name, and every filter?"""
    if meter.event != event.event_name:
        return False
    attributes = event.attributes
    return all(attributes.get(name) in allowed for name, allowed in meter.where.items())


def exact_quantity(meter: Meter, event: Event) -> Decimal:
    """What an event that matches contributes, unrounded: its sum, one, or what a maximum or latest is made of."""
    return AGGREGATIONS[meter.aggregate](meter, event)


def quantity(meter: Meter, event: Event) -> int:
    """The same at the meter's scale; 0 for an event that does not match. Raises AmountOutOfRange beyond 63 bits."""
    return to_scaled(exact_quantity(meter, event), meter.scale) if matches(meter, event) else 0


def unique_value(meter: Meter, event: Event) -> str:
    """For a meter of unique values: the value that this event carries; empty for others, or where there is none."""
    return event.attributes.get(meter.of[0], "") if meter.aggregate is Aggregate.UNIQUE else ""


def _sum(meter: Meter, event: Event) -> Decimal:
    total = ZERO
    measures = event.measures
    for name in meter.of:
        value = measures.get(name)
        if value is not None:
            total = EXACT.add(total, value)
    return total


def _count(meter: Meter, event: Event) -> Decimal:
    assert meter.event == event.event_name, "only what matches is counted"
    return ONE


def _unique(meter: Meter, event: Event) -> Decimal:
    return ONE if event.attributes.get(meter.of[0]) else ZERO


AGGREGATIONS: Final[Mapping[Aggregate, Callable[[Meter, Event], Decimal]]] = {
    Aggregate.SUM: _sum,
    Aggregate.COUNT: _count,
    Aggregate.MAX: _sum,
    Aggregate.LATEST: _sum,
    Aggregate.UNIQUE: _unique,
}
