"""Features, and what holds for them in trouble."""

from collections.abc import Mapping
from datetime import timedelta

from sidecar.engine.catalog import (
    Feature,
    FeatureType,
    Meter,
    OnStale,
    OnUnknownCustomer,
    OnUnreachable,
    RateCard,
    Requirement,
    Side,
    Trouble,
    ValueType,
)
from sidecar.engine.reading.node import Node, did_you_mean
from sidecar.engine.values import ZERO

_FIELDS: Mapping[FeatureType, tuple[str, ...]] = {
    FeatureType.SWITCH: (),
    FeatureType.CONFIG: ("value",),
    FeatureType.METERED: ("event", "meter", "rate_card", "requires"),
    FeatureType.GAUGE: (),
}


def read_feature(
    name: str, node: Node, meters: Mapping[str, Meter], cards: Mapping[str, RateCard]
) -> Feature:
    """What is entitled; a metered one reads an event, by itself or by its meter or rate card."""
    declared = node.value.get("type") if isinstance(node.value, Mapping) else None
    kind = FeatureType.METERED
    if isinstance(declared, str) and declared in _FIELDS:
        kind = FeatureType(declared)
    f = node.fields("type", "name", "trouble", *_FIELDS[kind], required=("type",))
    if "type" in f:
        f["type"].choice(FeatureType, kind)
    if kind is FeatureType.CONFIG and "value" not in f:
        node.problem("a config has a type of value", "write value: integer, number, text, set or json")
    meter = f["meter"].reference(meters, "meter") if "meter" in f else None
    card = f["rate_card"].reference(cards, "rate card") if "rate_card" in f else None
    if card is not None and card.side is Side.COST:
        f["rate_card"].problem(f"{card.name!r} says what it costs us", "name a card of side price")
    event = f["event"].text() if "event" in f else ""
    if kind is FeatureType.METERED and not (event or "meter" in f or "rate_card" in f) and "type" in f:
        node.problem("nothing says which event is metered", "write event, meter or rate_card")
    for other in (meter, card):
        if event and other is not None and other.event != event:
            f["event"].problem(f"{other.name!r} reads {other.event!r}", "name the same event")
    return Feature(
        name=name,
        title=f["name"].text() if "name" in f else name,
        type=kind,
        value=f["value"].choice(ValueType, ValueType.JSON) if "value" in f else None,
        event=event,
        meter=meter.name if meter else "",
        rate_card=card.name if card else "",
        requires=tuple(_requirement(item) for item in f["requires"].items()) if "requires" in f else (),
        trouble=_trouble(f["trouble"]) if "trouble" in f else Trouble(),
    )


def check_requirements(node: Node, features: Mapping[str, Feature]) -> None:
    """Every requirement names a config of the fitting type; checked once all features are known."""
    for name, below in node.entries():
        feature = features.get(name)
        for i, need in enumerate(feature.requires if feature else ()):
            spot = below.at("requires", None).at(i, None)
            if not need.config:
                continue
            config = features.get(need.config)
            fits = {ValueType.SET} if need.attribute else {ValueType.INTEGER, ValueType.NUMBER}
            if config is None:
                spot.problem(f"there is no feature {need.config!r}", did_you_mean(need.config, features))
            elif config.value not in fits:
                spot.problem(
                    f"{need.config!r} is no config of type {' or '.join(sorted(fits))}", "name one that is"
                )


def _requirement(node: Node) -> Requirement:
    f = node.fields("attribute", "in", "measure", "at_most")
    if f.keys() == {"attribute", "in"}:
        return Requirement(attribute=f["attribute"].text(), measure="", config=f["in"].text())
    if f.keys() == {"measure", "at_most"}:
        return Requirement(attribute="", measure=f["measure"].text(), config=f["at_most"].text())
    node.problem(
        "a requirement has two forms", "write {attribute: …, in: config} or {measure: …, at_most: config}"
    )
    return Requirement(attribute="", measure="", config="")


def _trouble(node: Node) -> Trouble:
    f = node.fields("max_staleness", "on_stale", "on_unknown_customer", "on_unreachable")
    usual = Trouble()
    staleness: timedelta = usual.max_staleness
    if "max_staleness" in f:
        span = f["max_staleness"].span()
        if span is not None and not span.is_time:
            f["max_staleness"].problem("a month has no fixed length", "write days or less")
        elif span is not None:
            staleness = span.time
    unreachable, cap = usual.on_unreachable, ZERO
    if "on_unreachable" in f and isinstance(f["on_unreachable"].value, Mapping):
        inner = f["on_unreachable"].fields("allow_up_to", required=("allow_up_to",))
        unreachable = OnUnreachable.ALLOW_UP_TO
        cap = inner["allow_up_to"].scaled(6) if "allow_up_to" in inner else ZERO
    elif "on_unreachable" in f:
        unreachable = f["on_unreachable"].choice(OnUnreachable, usual.on_unreachable)
        if unreachable is OnUnreachable.ALLOW_UP_TO:
            f["on_unreachable"].problem("up to how much?", "write {allow_up_to: N}")
    return Trouble(
        max_staleness=staleness,
        on_stale=f["on_stale"].choice(OnStale, OnStale.DENY) if "on_stale" in f else OnStale.DENY,
        on_unknown_customer=(
            f["on_unknown_customer"].choice(OnUnknownCustomer, OnUnknownCustomer.DENY)
            if "on_unknown_customer" in f
            else OnUnknownCustomer.DENY
        ),
        on_unreachable=unreachable,
        unreachable_cap=cap,
    )
