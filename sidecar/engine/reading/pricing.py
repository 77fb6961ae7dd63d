"""Units, meters and rate cards."""

from collections.abc import Mapping
from decimal import Decimal

from sidecar.engine.catalog import (
    Aggregate,
    Meter,
    Multiplier,
    Price,
    RateCard,
    Side,
    Tier,
    Unit,
    UnitKind,
    Unknown,
)
from sidecar.engine.reading.node import Node
from sidecar.engine.values import ONE

MAX_SCALE = 12
DEFAULT_ROW = "*"
_MOST_NAMES = 4


def read_unit(name: str, node: Node) -> Unit:
    """A currency or a credit type."""
    f = node.fields("name", "kind", "scale", required=("kind", "scale"))
    return Unit(
        name=name,
        title=f["name"].text() if "name" in f else name,
        kind=f["kind"].choice(UnitKind, UnitKind.CREDIT) if "kind" in f else UnitKind.CREDIT,
        scale=f["scale"].whole(least=0, most=MAX_SCALE, default=0) if "scale" in f else 0,
    )


def read_meter(name: str, node: Node) -> Meter:
    """How events become a quantity."""
    f = node.fields("event", "aggregate", "of", "filter", "scale", required=("event", "aggregate"))
    aggregate = f["aggregate"].choice(Aggregate, Aggregate.SUM) if "aggregate" in f else Aggregate.SUM
    of = f["of"].texts() if "of" in f else ()
    counts = aggregate in {Aggregate.COUNT, Aggregate.UNIQUE}
    if aggregate is Aggregate.COUNT and of:
        f["of"].problem("count reads no measure", "take `of` away, or aggregate: sum")
        of = ()
    if aggregate is Aggregate.UNIQUE and len(of) != 1:
        node.problem("unique counts the values of exactly one attribute", "write of: attribute")
    if aggregate in {Aggregate.SUM, Aggregate.MAX, Aggregate.LATEST} and not of:
        node.problem(f"{aggregate} reads a measure", "write of: measure")
    scale = f["scale"].whole(least=0, most=MAX_SCALE, default=6) if "scale" in f else (0 if counts else 6)
    if counts and scale:
        f["scale"].problem(f"{aggregate} counts whole things", "take `scale` away")
        scale = 0
    where = {key: frozenset(below.texts()) for key, below in f["filter"].texts_to()} if "filter" in f else {}
    return Meter(
        name=name,
        event=f["event"].text() if "event" in f else "",
        aggregate=aggregate,
        of=of,
        where=where,
        scale=scale,
    )


def read_rate_card(name: str, node: Node, units: Mapping[str, Unit]) -> RateCard:
    """What an event costs, dimension by dimension."""
    f = node.fields(
        *("event", "unit", "side", "by", "unknown", "parts", "prices", "multipliers"),
        required=("event", "unit", "prices"),
    )
    unit = f["unit"].reference(units, "unit") if "unit" in f else None
    by = f["by"].texts() if "by" in f else ()
    if len(by) > _MOST_NAMES:
        f["by"].problem(f"more than {_MOST_NAMES} attributes", "choose fewer")
        by = by[:_MOST_NAMES]
    prices: dict[tuple[str, ...], tuple[Price, ...]] = {}
    if "prices" in f:
        for key, below in nested(f["prices"], len(by)):
            prices[key] = _rows(below)
    multipliers: dict[tuple[str, ...], tuple[Multiplier, ...]] = {}
    if "multipliers" in f:
        for key, below in nested(f["multipliers"], len(by)):
            multipliers[key] = tuple(_multiplier(item) for item in below.items())
    return RateCard(
        name=name,
        event=f["event"].text() if "event" in f else "",
        unit=unit.name if unit else "",
        scale=unit.scale if unit else 0,
        side=f["side"].choice(Side, Side.PRICE) if "side" in f else Side.PRICE,
        by=by,
        unknown=f["unknown"].choice(Unknown, Unknown.DENY) if "unknown" in f else Unknown.DENY,
        parts=_parts(f["parts"]) if "parts" in f else {},
        prices=prices,
        multipliers=multipliers,
    )


def nested(node: Node, depth: int) -> list[tuple[tuple[str, ...], Node]]:
    """What stands at the ends of maps nested so deep, each with its keys."""
    found: list[tuple[tuple[str, ...], Node]] = [((), node)]
    for _ in range(depth):
        found = [((*keys, key), below) for keys, outer in found for key, below in outer.texts_to()]
    return found


def _rows(node: Node) -> tuple[Price, ...]:
    rows: list[Price] = []
    for item in node.items():
        f = item.fields("dimension", "per", "price", required=("dimension", "price"))
        if "dimension" not in f or "price" not in f:
            continue
        row = Price(
            dimension=f["dimension"].text(),
            per=f["per"].positive() if "per" in f else ONE,
            price=f["price"].number(),
        )
        if any(row.dimension == other.dimension for other in rows):
            item.problem(f"{row.dimension!r} is priced twice", "keep one row")
        rows.append(row)
    if not rows and isinstance(node.value, list | tuple):
        node.problem("there is no price", "write a row, or take the key away")
    return tuple(rows)


def _multiplier(node: Node) -> Multiplier:
    f = node.fields("measure", "else_sum", "tiers", required=("measure", "tiers"))
    tiers: list[Tier] = []
    for item in f["tiers"].items() if "tiers" in f else ():
        t = item.fields("up_to", "times", required=("times",))
        up_to: Decimal | None = t["up_to"].number() if "up_to" in t else None
        tier = Tier(up_to, t["times"].number() if "times" in t else ONE)
        if tiers and (tiers[-1].up_to is None or (up_to is not None and up_to <= tiers[-1].up_to)):
            item.problem("tiers must rise, and only the last may be without end", "order them by up_to")
        tiers.append(tier)
    if "tiers" in f and not tiers:
        f["tiers"].problem("there is no tier", "write {up_to: 8192, times: 1}")
    return Multiplier(
        measure=f["measure"].text() if "measure" in f else "",
        else_sum=f["else_sum"].texts() if "else_sum" in f else (),
        tiers=tuple(tiers),
    )


def _parts(node: Node) -> dict[str, str]:
    parts = {part: whole.text() for part, whole in node.texts_to()}
    for part, outer in parts.items():
        seen = {part}
        whole = outer
        while whole in parts and whole not in seen:
            seen.add(whole)
            whole = parts[whole]
        if whole in seen:
            node.problem(f"{part!r} is a part of itself", "a part lies in a larger measure")
            return {}
    return parts
