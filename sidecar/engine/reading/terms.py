"""What a plan or add-on gives of each feature, in every short and long form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sidecar.engine.catalog import (
    Aggregate,
    AllowanceTerms,
    Anchor,
    ConfigTerms,
    ConfigValue,
    Feature,
    FeatureType,
    GaugeTerms,
    JsonText,
    Meter,
    MeteredTerms,
    Overage,
    OveragePolicy,
    RateCard,
    RateTerms,
    Side,
    SwitchTerms,
    Terms,
    Unit,
    ValueType,
)
from sidecar.engine.periods import Span
from sidecar.engine.reading.node import Node, did_you_mean
from sidecar.engine.values import format_decimal

UNLIMITED = "unlimited"
GAUGE_SCALE = 0


@dataclass(frozen=True, slots=True)
class Goods:
    """What plans refer to."""

    units: Mapping[str, Unit]
    meters: Mapping[str, Meter]
    rate_cards: Mapping[str, RateCard]
    features: Mapping[str, Feature]


def read_entitlements(node: Node, goods: Goods) -> dict[str, Terms]:
    """Feature by feature, as its type says."""
    found: dict[str, Terms] = {}
    for name, below in node.entries():
        feature = goods.features.get(name)
        if feature is None:
            below.problem(f"there is no feature {name!r}", did_you_mean(name, goods.features))
        elif feature.type is FeatureType.SWITCH:
            found[name] = SwitchTerms(below.truth())
        elif feature.type is FeatureType.CONFIG:
            found[name] = ConfigTerms(_config(below, feature.value or ValueType.JSON))
        elif feature.type is FeatureType.GAUGE:
            found[name] = _gauge(below, goods)
        else:
            found[name] = _metered(below, feature, goods)
    return found


def read_overage(node: Node, goods: Goods, scale: int) -> Overage:
    """`deny`, `allow`, `{allow_up_to: N, charge: CARD}` or `{allow: {charge: CARD}}`."""
    if not isinstance(node.value, Mapping):
        policy = node.choice(OveragePolicy, OveragePolicy.DENY)
        if policy is OveragePolicy.ALLOW_UP_TO:
            node.problem("up to how much?", "write {allow_up_to: N}")
        return Overage(policy)
    f = node.fields("allow_up_to", "allow", "charge")
    if ("allow" in f) == ("allow_up_to" in f):
        node.problem("an overage is one policy", "write {allow_up_to: N} or {allow: {charge: CARD}}")
        return Overage()
    charge = _card(f["charge"], goods) if "charge" in f else ""
    if "allow_up_to" in f:
        return Overage(OveragePolicy.ALLOW_UP_TO, f["allow_up_to"].scaled(scale), charge)
    if f["allow"].value is not True:
        inner = f["allow"].fields("charge")
        if "charge" in inner and charge:
            f["allow"].problem("`charge` stands there twice", "take one away")
        charge = _card(inner["charge"], goods) if "charge" in inner else charge
    return Overage(OveragePolicy.ALLOW, charge=charge)


def read_limit(node: Node, scale: int) -> Decimal | None:
    """A number at the scale, or `unlimited`, which is None."""
    return None if node.value == UNLIMITED else node.scaled(scale)


def read_anchor(fields: Mapping[str, Node]) -> Anchor:
    """`subscription` unless it says otherwise."""
    return fields["anchor"].choice(Anchor, Anchor.SUBSCRIPTION) if "anchor" in fields else Anchor.SUBSCRIPTION


def read_every(fields: Mapping[str, Node]) -> Span | None:
    """The span of a period; None where it does not repeat."""
    return fields["every"].span() if "every" in fields else None


def json_text(node: Node) -> JsonText:
    """Canonical JSON text of any plain value, numbers exactly as written."""
    return JsonText(_json(node))


def _json(node: Node) -> str:
    value: Any = node.value
    if isinstance(value, Mapping):
        pairs = sorted(node.texts_to(), key=lambda pair: pair[0])
        return "{" + ",".join(f"{json.dumps(key)}:{_json(below)}" for key, below in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_json(item) for item in node.items()) + "]"
    if value is None or isinstance(value, bool | str):
        return json.dumps(value)
    return format_decimal(node.number(least=Decimal(-(10**60))))


def _config(node: Node, kind: ValueType) -> ConfigValue:
    if kind is ValueType.SET:
        if not isinstance(node.value, list | tuple):
            node.problem("a set is a list of texts", "write [first, second]")
            return frozenset()
        return frozenset(node.texts())
    if kind is ValueType.TEXT:
        return node.text()
    if kind is ValueType.JSON:
        if isinstance(node.value, Mapping) and node.value.keys() == {"json"}:
            return _from_json_text(node.at("json", node.value["json"]))
        return json_text(node)
    number = node.number(least=Decimal(-(10**60)))
    if kind is ValueType.INTEGER and number != number.to_integral_value():
        node.problem(f"{format_decimal(number)} is not an integer", "write one, or make the config a number")
    return number


def _from_json_text(node: Node) -> JsonText:
    """The long form `{json: TEXT}`, which the canonical document uses."""
    text = node.value if isinstance(node.value, str) else ""
    try:
        value = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=str)
    except (ValueError, RecursionError, ArithmeticError):
        node.problem("it is no JSON text", "write the value itself")
        return JsonText("null")
    return json_text(Node(value, node.path, node.problems))


def _card(node: Node, goods: Goods) -> str:
    card = node.reference(goods.rate_cards, "rate card")
    if card is not None and card.side is Side.COST:
        node.problem(f"{card.name!r} says what it costs us", "name a card of side price")
    return card.name if card else ""


def _gauge(node: Node, goods: Goods) -> GaugeTerms:
    if not isinstance(node.value, Mapping):
        return GaugeTerms(read_limit(node, GAUGE_SCALE))
    f = node.fields("limit", "overage", required=("limit",))
    overage = read_overage(f["overage"], goods, GAUGE_SCALE) if "overage" in f else Overage()
    if overage.charge:
        f["overage"].problem(
            "seats are billed by the plan's price", "take `charge` away; write price: {for_each: …}"
        )
    return GaugeTerms(read_limit(f["limit"], GAUGE_SCALE) if "limit" in f else None, overage)


def _metered(node: Node, feature: Feature, goods: Goods) -> MeteredTerms:
    if isinstance(node.value, bool):
        return MeteredTerms(entitled=node.value)
    if not isinstance(node.value, Mapping):
        node.problem("a metered feature is true, false or a mapping", "write {limit: N, every: P1M}")
        return MeteredTerms()
    f = node.fields(
        *("meter", "limit", "every", "anchor", "included", "spends", "charge", "pay", "overage", "rate"),
    )
    allowance = _allowance(node, f, feature, goods)
    charge = _card(f["charge"], goods) if "charge" in f else ""
    spends = ""
    if "spends" in f:
        unit = f["spends"].reference(goods.units, "unit")
        card = goods.rate_cards.get(feature.rate_card)
        spends = unit.name if unit else ""
        if card is None:
            f["spends"].problem(
                f"{feature.name!r} has no rate card to pay by", "give the feature a rate_card"
            )
        elif unit is not None and card.unit != spends:
            f["spends"].problem(
                f"{card.name!r} counts in {card.unit!r}", f"spend {card.unit}, or use another card"
            )
    if "pay" in f and (f["pay"].value != "in_arrears" or not charge):
        f["pay"].problem(
            "only a charge is paid, and in arrears", "write pay: in_arrears beside charge, or spends: UNIT"
        )
    scale = goods.meters[allowance.meter].scale if allowance and allowance.meter in goods.meters else 6
    if spends and not allowance:
        scale = goods.units[spends].scale
    overage = read_overage(f["overage"], goods, scale) if "overage" in f else Overage()
    terms = MeteredTerms(
        allowance=allowance,
        spends=spends,
        charge=charge,
        overage=overage,
        rates=tuple(_rate(item, feature, goods) for item in f["rate"].one_or_more()) if "rate" in f else (),
    )
    _check_payment(node, f, terms)
    return terms


def _check_payment(node: Node, f: Mapping[str, Node], terms: MeteredTerms) -> None:
    if terms.spends and terms.charge:
        node.problem("a wallet pays or a bill is written, not both", "keep `spends` or `charge`")
    if terms.spends and terms.overage.charge:
        f["overage"].problem(
            "what the wallet can not pay is not billed", "write overage: allow, or keep `charge`"
        )
    if terms.charge and terms.overage.charge and terms.charge != terms.overage.charge:
        f["overage"].problem("two cards bill the same thing", "name one")
    if "overage" in f and terms.allowance is None and not terms.spends:
        f["overage"].problem("there is nothing to go beyond", "write a limit, or take `overage` away")
    pays = terms.charge or terms.overage.charge
    if terms.allowance is not None and pays and terms.overage.policy is OveragePolicy.DENY:
        node.problem(
            "nothing lies beyond the limit that could be charged",
            "write overage: allow, or leave `charge` out",
        )


def _allowance(node: Node, f: Mapping[str, Node], feature: Feature, goods: Goods) -> AllowanceTerms | None:
    if "limit" in f and "included" in f:
        node.problem("`limit` and `included` are one allowance, written twice", "keep one of them")
        return None
    if "included" in f:
        for key in ("meter", "every", "anchor"):
            if key in f:
                f[key].problem(f"{key!r} stands inside `included`", "move it there")
        inner = f["included"].fields("meter", "amount", "every", "anchor", required=("amount",))
        return _counted(f["included"], inner, "amount", feature, goods)
    if "limit" in f:
        return _counted(node, f, "limit", feature, goods)
    for key in ("meter", "every", "anchor"):
        if key in f:
            f[key].problem(f"{key!r} without a limit", "write limit: N, or take it away")
    return None


def _counted(
    node: Node, f: Mapping[str, Node], amount: str, feature: Feature, goods: Goods
) -> AllowanceTerms:
    meter = find_meter(node, f, feature, goods)
    scale = meter.scale if meter else 6
    return AllowanceTerms(
        meter=meter.name if meter else "",
        limit=read_limit(f[amount], scale) if amount in f else None,
        every=read_every(f),
        anchor=read_anchor(f),
    )


def find_meter(node: Node, f: Mapping[str, Node], feature: Feature, goods: Goods) -> Meter | None:
    """The meter that is named, or the feature's own."""
    if "meter" in f:
        return f["meter"].reference(goods.meters, "meter")
    if not feature.meter:
        node.problem(f"{feature.name!r} has no meter of its own", "write meter: …")
    return goods.meters.get(feature.meter)


def _rate(node: Node, feature: Feature, goods: Goods) -> RateTerms:
    f = node.fields("meter", "limit", "per", "burst", required=("limit", "per"))
    meter = find_meter(node, f, feature, goods)
    scale = meter.scale if meter else 6
    per = f["per"].span() if "per" in f else None
    if per is not None and not per.is_time:
        f["per"].problem("a month has no fixed length", "write days or less, or a limit with every: P1M")
        per = None
    if meter is not None and meter.aggregate not in {Aggregate.SUM, Aggregate.COUNT}:
        node.problem(
            f"{meter.name!r} aggregates by {meter.aggregate}", "a rate takes a meter with sum or count"
        )
    limit = f["limit"].scaled(scale) if "limit" in f else Decimal(0)
    return RateTerms(
        meter=meter.name if meter else "",
        limit=limit,
        per=per or Span.parse("PT1M"),
        burst=f["burst"].scaled(scale) if "burst" in f else limit,
    )
