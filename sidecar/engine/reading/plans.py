"""Plans, add-ons and partners."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from decimal import Decimal

from sidecar.engine.catalog import (
    AddOn,
    AllowanceTerms,
    Anchor,
    BalanceScope,
    BudgetTerms,
    Commitment,
    Discount,
    FeatureType,
    GrantTerms,
    Overage,
    Partner,
    Plan,
    PlanPrice,
    Share,
    Terms,
)
from sidecar.engine.customer import PastDuePolicy
from sidecar.engine.periods import Span
from sidecar.engine.reading.node import Node, did_you_mean
from sidecar.engine.reading.terms import (
    Goods,
    find_meter,
    read_anchor,
    read_entitlements,
    read_every,
    read_limit,
    read_overage,
)
from sidecar.engine.values import ZERO

_PLAN_KEYS = (
    *("name", "custom", "base", "price", "entitlements", "grants", "budgets", "upgrade_to"),
    *("discount", "commitments", "on_past_due", "trial"),
)
_HUNDRED = Decimal(100)
_INHERITED = ("price", "grants", "budgets", "upgrade_to", "discounts", "commitments", "on_past_due", "trial")
_KEY_OF = {"discounts": "discount"}


def read_plans(node: Node, goods: Goods) -> dict[str, Plan]:
    """All plans, each with what it takes from its base."""
    own = {name: _plan(name, below, goods) for name, below in node.entries()}
    for name, below in node.entries():
        for i, target in enumerate(own[name].upgrade_to):
            if target not in own:
                below.at("upgrade_to", None).at(i, None).problem(
                    f"there is no plan {target!r}", did_you_mean(target, own)
                )
    whole: dict[str, Plan] = {}
    for name, below in node.entries():
        _with_base(name, below, own, whole)
    return whole


def _with_base(name: str, node: Node, own: Mapping[str, Plan], whole: dict[str, Plan]) -> None:
    chain: list[str] = []
    at = name
    while at and at not in whole:
        if at in chain:
            node.at("base", None).problem(
                "the base comes back to this plan", "break the circle: " + " → ".join(chain[:9])
            )
            return
        if at not in own:
            node.at("base", None).problem(f"there is no plan {at!r}", did_you_mean(at, own))
            return
        chain.append(at)
        at = own[at].base
    for link in reversed(chain):
        whole[link] = inherit(own[link], whole[own[link].base]) if own[link].base else own[link]


def inherit(plan: Plan, base: Plan) -> Plan:
    """What the plan does not say itself is as in its base; entitlements feature by feature."""
    taken = {
        name: getattr(base, name)
        for name in (field.name for field in fields(Plan))
        if name in _INHERITED and _KEY_OF.get(name, name) not in plan.written
    }
    return replace(plan, **taken, entitlements={**base.entitlements, **plan.entitlements})


def _plan(name: str, node: Node, goods: Goods) -> Plan:
    f = node.fields(*_PLAN_KEYS)
    base = f["base"].text() if "base" in f else ""
    entitlements = read_entitlements(f["entitlements"], goods) if "entitlements" in f else {}
    written = {*f.keys(), *(f"entitlements.{feature}" for feature in entitlements)} - {
        "name",
        "base",
        "custom",
    }
    return Plan(
        name=name,
        title=f["name"].text() if "name" in f else name,
        custom=f["custom"].truth() if "custom" in f else False,
        base=base,
        price=_price(f["price"], goods) if "price" in f else None,
        entitlements=entitlements,
        grants=_grants(f, goods),
        budgets=_budgets(f, goods),
        upgrade_to=f["upgrade_to"].texts() if "upgrade_to" in f else (),
        discounts=tuple(_discount(item, goods) for item in f["discount"].one_or_more())
        if "discount" in f
        else (),
        commitments=tuple(_commitment(item, goods) for item in f["commitments"].items())
        if "commitments" in f
        else (),
        on_past_due=_past_due(f["on_past_due"]) if "on_past_due" in f else PastDuePolicy(allow=True),
        trial=f["trial"].span() if "trial" in f else None,
        written=frozenset(written - {"entitlements"}) if base else frozenset(),
    )


def read_add_on(name: str, node: Node, goods: Goods) -> AddOn:
    """What can be bought beside a plan."""
    f = node.fields("name", "once", "price", "entitlements", "grants", "budgets")
    entitlements: Mapping[str, Terms] = (
        read_entitlements(f["entitlements"], goods) if "entitlements" in f else {}
    )
    return AddOn(
        name=name,
        title=f["name"].text() if "name" in f else name,
        once=f["once"].truth() if "once" in f else False,
        price=_price(f["price"], goods) if "price" in f else None,
        entitlements=entitlements,
        grants=_grants(f, goods),
        budgets=_budgets(f, goods),
    )


def read_partner(name: str, node: Node, goods: Goods) -> Partner:
    """An ecosystem developer."""
    f = node.fields("name", "apps", "features", "limits", "share")
    limits: dict[str, AllowanceTerms] = {}
    for key, below in f["limits"].entries() if "limits" in f else ():
        feature = goods.features.get(key)
        inner = below.fields("meter", "limit", "every", "anchor", required=("limit",))
        if feature is None or feature.type is not FeatureType.METERED:
            below.problem(f"there is no metered feature {key!r}", did_you_mean(key, goods.features))
            continue
        meter = find_meter(below, inner, feature, goods)
        limits[key] = AllowanceTerms(
            meter=meter.name if meter else "",
            limit=read_limit(inner["limit"], meter.scale if meter else 6) if "limit" in inner else None,
            every=read_every(inner),
            anchor=read_anchor(inner),
        )
    return Partner(
        name=name,
        title=f["name"].text() if "name" in f else name,
        apps=f["apps"].texts() if "apps" in f else (),
        features=_known_features(f["features"], goods) if "features" in f else (),
        limits=limits,
        share=_share(f["share"]) if "share" in f else None,
    )


def _known_features(node: Node, goods: Goods) -> tuple[str, ...]:
    for item in node.one_or_more():
        item.reference(goods.features, "feature")
    return node.texts()


def _share(node: Node) -> Share:
    f = node.fields("of", "percent", "settle", required=("of", "percent", "settle"))
    return Share(
        of=f["of"].text() if "of" in f else "",
        percent=_percent(f["percent"]) if "percent" in f else ZERO,
        settle=(f["settle"].span() if "settle" in f else None) or Span.parse("P1M"),
    )


def _unit(f: Mapping[str, Node], goods: Goods) -> tuple[str, int]:
    unit = f["unit"].reference(goods.units, "unit") if "unit" in f else None
    return (unit.name, unit.scale) if unit else ("", 0 if "unit" not in f else 12)


def _price(node: Node, goods: Goods) -> PlanPrice:
    f = node.fields("amount", "unit", "every", "for_each", "included", required=("amount", "unit"))
    unit, scale = _unit(f, goods)
    gauge = f["for_each"].reference(goods.features, "feature") if "for_each" in f else None
    if gauge is not None and gauge.type is not FeatureType.GAUGE:
        f["for_each"].problem(f"{gauge.name!r} is not a gauge", "name one, such as seats")
    if "included" in f and "for_each" not in f:
        f["included"].problem("included of what?", "write for_each: GAUGE")
    return PlanPrice(
        amount=f["amount"].scaled(scale) if "amount" in f else ZERO,
        unit=unit,
        every=read_every(f),
        for_each=gauge.name if gauge else "",
        included=f["included"].scaled(0) if "included" in f else ZERO,
    )


def _grants(fields_: Mapping[str, Node], goods: Goods) -> tuple[GrantTerms, ...]:
    return tuple(_grant(item, goods) for item in fields_["grants"].items()) if "grants" in fields_ else ()


def _grant(node: Node, goods: Goods) -> GrantTerms:
    f = node.fields(
        *("unit", "amount", "every", "anchor", "rollover_max", "rollover_min", "priority"),
        *("expires_after", "scope", "cost_basis", "refund"),
        required=("unit", "amount"),
    )
    unit, scale = _unit(f, goods)
    every = read_every(f)
    for key in ("rollover_max", "rollover_min", "anchor"):
        if key in f and "every" not in f:
            f[key].problem(f"{key!r} of a grant that comes once", "write every: P1M, or take it away")
    refund = f["refund"].text("none") if "refund" in f else "none"
    if refund not in {"none", "unused"}:
        f["refund"].problem(f"{refund!r} is none of none, unused", "write refund: unused")
    return GrantTerms(
        unit=unit,
        amount=f["amount"].scaled(scale) if "amount" in f else ZERO,
        every=every,
        anchor=read_anchor(f),
        rollover_max=f["rollover_max"].scaled(scale) if "rollover_max" in f else ZERO,
        rollover_min=f["rollover_min"].scaled(scale) if "rollover_min" in f else ZERO,
        priority=f["priority"].whole(least=-1_000_000, most=1_000_000, default=0) if "priority" in f else 0,
        expires_after=f["expires_after"].span() if "expires_after" in f else None,
        scope=frozenset(_known_features(f["scope"], goods)) if "scope" in f else frozenset(),
        cost_basis=f["cost_basis"].number() if "cost_basis" in f else ZERO,
        refund=refund,
    )


def _budgets(fields_: Mapping[str, Node], goods: Goods) -> tuple[BudgetTerms, ...]:
    if "budgets" not in fields_:
        return ()
    found: list[BudgetTerms] = []
    for item in fields_["budgets"].items():
        budget = _budget(item, goods)
        if budget.name and budget.name in {other.name for other in found}:
            item.problem(f"the budget {budget.name!r} stands there twice", "give each a name of its own")
        found.append(budget)
    return tuple(found)


def _budget(node: Node, goods: Goods) -> BudgetTerms:
    f = node.fields(
        *("name", "scope", "unit", "limit", "every", "anchor", "overage"), required=("name", "unit", "limit")
    )
    unit, scale = _unit(f, goods)
    overage = read_overage(f["overage"], goods, scale) if "overage" in f else Overage()
    if overage.charge:
        f["overage"].problem("a budget only limits", "take `charge` away")
    return BudgetTerms(
        name=_name(f["name"]) if "name" in f else "",
        scope=f["scope"].choice(BalanceScope, BalanceScope.CUSTOMER)
        if "scope" in f
        else BalanceScope.CUSTOMER,
        unit=unit,
        limit=f["limit"].scaled(scale) if "limit" in f else ZERO,
        every=read_every(f),
        anchor=read_anchor(f) if "anchor" in f else Anchor.SUBSCRIPTION,
        overage=overage,
    )


def _name(node: Node) -> str:
    text = node.text()
    names: Iterable[tuple[str, Node]] = Node({text: None}, node.path, node.problems).entries() if text else ()
    return next((name for name, _ in names), "")


def _percent(node: Node) -> Decimal:
    percent = node.number()
    if percent > _HUNDRED:
        node.problem("more than 100 percent", "write a number from 0 to 100")
        return ZERO
    return percent


def _discount(node: Node, goods: Goods) -> Discount:
    f = node.fields("rate_card", "percent", required=("rate_card", "percent"))
    card = f["rate_card"].reference(goods.rate_cards, "rate card") if "rate_card" in f else None
    return Discount(card.name if card else "", _percent(f["percent"]) if "percent" in f else ZERO)


def _commitment(node: Node, goods: Goods) -> Commitment:
    f = node.fields("unit", "amount", "term", "true_up", required=("unit", "amount", "term"))
    unit, scale = _unit(f, goods)
    true_up = f["true_up"].text("term_end") if "true_up" in f else "term_end"
    if true_up != "term_end":
        f["true_up"].problem(f"{true_up!r} is not known", "write true_up: term_end")
    return Commitment(
        unit=unit,
        amount=f["amount"].scaled(scale) if "amount" in f else ZERO,
        term=(f["term"].span() if "term" in f else None) or Span.parse("P1Y"),
        true_up=true_up,
    )


def _past_due(node: Node) -> PastDuePolicy:
    if isinstance(node.value, Mapping):
        f = node.fields("allow_for", required=("allow_for",))
        return PastDuePolicy(allow=True, span=f["allow_for"].span() if "allow_for" in f else None)
    if node.value not in ("allow", "deny"):
        node.problem("it is none of allow, deny, {allow_for: P7D}", "write one of them")
    return PastDuePolicy(allow=node.value != "deny")
