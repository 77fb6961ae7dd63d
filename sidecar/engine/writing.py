"""The canonical form of a catalog and of its parts: JSON-able, decimals as strings, no defaults."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from sidecar.engine.catalog import (
    AddOn,
    Aggregate,
    AllowanceTerms,
    Anchor,
    BalanceScope,
    BudgetTerms,
    Catalog,
    ConfigTerms,
    ConfigValue,
    Feature,
    GaugeTerms,
    GrantTerms,
    JsonText,
    Meter,
    MeteredTerms,
    OnStale,
    OnUnknownCustomer,
    OnUnreachable,
    Overage,
    OveragePolicy,
    Partner,
    Plan,
    PlanPrice,
    RateCard,
    Requirement,
    Side,
    SwitchTerms,
    Terms,
    Trouble,
    Unit,
    Unknown,
)
from sidecar.engine.customer import PastDuePolicy
from sidecar.engine.periods import Span
from sidecar.engine.values import format_decimal

Document = dict[str, Any]
Value = TypeVar("Value")


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...


def catalog_document(catalog: Catalog) -> Document:
    """The sections of the document; empty ones are left out."""
    sections: Document = {
        "units": {key: write_unit(unit) for key, unit in _sorted(catalog.units)},
        "meters": {key: write_meter(meter) for key, meter in _sorted(catalog.meters)},
        "rate_cards": {key: write_rate_card(card) for key, card in _sorted(catalog.rate_cards)},
        "features": {key: write_feature(feature) for key, feature in _sorted(catalog.features)},
        "plans": {key: write_plan(plan) for key, plan in _sorted(catalog.plans)},
        "add_ons": {key: write_add_on(add_on) for key, add_on in _sorted(catalog.add_ons)},
        "partners": {key: _partner(partner) for key, partner in _sorted(catalog.partners)},
        "default_plan": catalog.default_plan,
    }
    return {key: section for key, section in sections.items() if section}


def write_unit(unit: Unit) -> Document:
    return {**_title(unit), "kind": unit.kind.value, "scale": unit.scale}


def write_meter(meter: Meter) -> Document:
    usual = 0 if meter.aggregate in {Aggregate.COUNT, Aggregate.UNIQUE} else 6
    return _without_empty(
        event=meter.event,
        aggregate=meter.aggregate.value,
        of=list(meter.of),
        filter={key: sorted(values) for key, values in _sorted(meter.where)},
        scale=None if meter.scale == usual else meter.scale,
    )


def write_rate_card(card: RateCard) -> Document:
    return _without_empty(
        event=card.event,
        unit=card.unit,
        side="" if card.side is Side.PRICE else card.side.value,
        by=list(card.by),
        unknown="" if card.unknown is Unknown.DENY else card.unknown.value,
        parts=dict(_sorted(card.parts)),
    ) | {
        "prices": _nest(
            (
                key,
                [{"dimension": r.dimension, "per": _number(r.per), "price": _number(r.price)} for r in rows],
            )
            for key, rows in _sorted(card.prices)
        ),
        **_without_empty(
            multipliers=_nest(
                (
                    key,
                    [
                        _without_empty(measure=m.measure, else_sum=list(m.else_sum))
                        | {
                            "tiers": [
                                {
                                    **({} if t.up_to is None else {"up_to": _number(t.up_to)}),
                                    "times": _number(t.times),
                                }
                                for t in m.tiers
                            ]
                        }
                        for m in multipliers
                    ],
                )
                for key, multipliers in _sorted(card.multipliers)
            )
        ),
    }


def write_feature(feature: Feature) -> Document:
    return _without_empty(
        **_title(feature),
        type=feature.type.value,
        value=feature.value.value if feature.value else "",
        event=feature.event,
        meter=feature.meter,
        rate_card=feature.rate_card,
        requires=[_requirement(need) for need in feature.requires],
        trouble=_trouble(feature.trouble),
    )


def write_plan(plan: Plan) -> Document:
    """The plan's own text: of one with a base, only what it says itself."""
    document = plan_terms(plan)
    if not plan.base:
        document = _without_empty(**document)
    else:
        own = {
            name.removeprefix("entitlements.") for name in plan.written if name.startswith("entitlements.")
        }
        document["entitlements"] = {k: v for k, v in document["entitlements"].items() if k in own}
        document = {k: v for k, v in document.items() if k in plan.written or (k == "entitlements" and own)}
    if document.get("on_past_due") == "allow" and not plan.base:
        del document["on_past_due"]
    return {**_title(plan), **_without_empty(custom=plan.custom, base=plan.base), **document}


def plan_terms(plan: Plan) -> Document:
    """Everything that the plan means by itself, its base's part included, defaults and empty lists too."""
    document: Document = {
        "entitlements": {key: write_terms(terms) for key, terms in _sorted(plan.entitlements)},
        "grants": [_grant(grant) for grant in plan.grants],
        "budgets": [_budget(budget) for budget in plan.budgets],
        "upgrade_to": list(plan.upgrade_to),
        "discount": [{"rate_card": d.rate_card, "percent": _number(d.percent)} for d in plan.discounts],
        "commitments": [
            {"unit": c.unit, "amount": _number(c.amount), "term": str(c.term), "true_up": c.true_up}
            for c in plan.commitments
        ],
        "on_past_due": _past_due(plan.on_past_due),
    }
    if plan.price is not None:
        document["price"] = _price(plan.price)
    if plan.trial is not None:
        document["trial"] = str(plan.trial)
    return document


def write_add_on(add_on: AddOn) -> Document:
    return _without_empty(
        **_title(add_on),
        once=add_on.once,
        price=_price(add_on.price) if add_on.price else {},
        entitlements={key: write_terms(terms) for key, terms in _sorted(add_on.entitlements)},
        grants=[_grant(grant) for grant in add_on.grants],
        budgets=[_budget(budget) for budget in add_on.budgets],
    )


def write_terms(terms: Terms) -> Any:
    """The long form of an entitlement."""
    if isinstance(terms, SwitchTerms):
        return terms.on
    if isinstance(terms, ConfigTerms):
        return _config(terms.value)
    if isinstance(terms, GaugeTerms):
        return {"limit": _limit(terms.limit), **_overage(terms.overage)}
    if terms == MeteredTerms(entitled=terms.entitled):
        return terms.entitled
    return {
        **(_allowance(terms.allowance) if terms.allowance else {}),
        **_without_empty(spends=terms.spends, charge=terms.charge),
        **_overage(terms.overage),
        **_without_empty(
            rate=[
                {"meter": r.meter, "limit": _number(r.limit), "per": str(r.per), "burst": _number(r.burst)}
                for r in terms.rates
            ]
        ),
    }


def _config(value: ConfigValue) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, JsonText):
        return {"json": str(value)}
    return _number(value) if isinstance(value, Decimal) else value


def _allowance(terms: AllowanceTerms) -> Document:
    return {
        "meter": terms.meter,
        "limit": _limit(terms.limit),
        **_every(terms.every),
        **_anchor(terms.anchor),
    }


def _overage(overage: Overage) -> Document:
    if overage == Overage():
        return {}
    charge = {"charge": overage.charge} if overage.charge else {}
    if overage.policy is OveragePolicy.ALLOW_UP_TO:
        return {"overage": {"allow_up_to": _number(overage.cap), **charge}}
    return {"overage": {"allow": charge} if charge else overage.policy.value}


def _grant(grant: GrantTerms) -> Document:
    return {"amount": _number(grant.amount)} | _without_empty(
        unit=grant.unit,
        **_every(grant.every),
        **_anchor(grant.anchor),
        rollover_max=_number(grant.rollover_max) if grant.rollover_max else "",
        rollover_min=_number(grant.rollover_min) if grant.rollover_min else "",
        priority=grant.priority,
        expires_after=str(grant.expires_after) if grant.expires_after else "",
        scope=sorted(grant.scope),
        cost_basis=_number(grant.cost_basis) if grant.cost_basis else "",
        refund="" if grant.refund == "none" else grant.refund,
    )


def _budget(budget: BudgetTerms) -> Document:
    return {
        "name": budget.name,
        **({} if budget.scope is BalanceScope.CUSTOMER else {"scope": budget.scope.value}),
        "unit": budget.unit,
        "limit": _number(budget.limit),
        **_every(budget.every),
        **_anchor(budget.anchor),
        **_overage(budget.overage),
    }


def _price(price: PlanPrice) -> Document:
    return {
        "amount": _number(price.amount),
        "unit": price.unit,
        **_every(price.every),
        **_without_empty(for_each=price.for_each, included=_number(price.included) if price.included else ""),
    }


def _partner(partner: Partner) -> Document:
    share = partner.share
    return _without_empty(
        **_title(partner),
        apps=list(partner.apps),
        features=list(partner.features),
        limits={key: _allowance(terms) for key, terms in _sorted(partner.limits)},
        share={"of": share.of, "percent": _number(share.percent), "settle": str(share.settle)}
        if share
        else {},
    )


def _requirement(need: Requirement) -> Document:
    if need.attribute:
        return {"attribute": need.attribute, "in": need.config}
    return {"measure": need.measure, "at_most": need.config}


def _trouble(trouble: Trouble) -> Document:
    usual = Trouble()
    unreachable: Any = trouble.on_unreachable.value
    if trouble.on_unreachable is OnUnreachable.ALLOW_UP_TO:
        unreachable = {"allow_up_to": _number(trouble.unreachable_cap)}
    staleness = "" if trouble.max_staleness == usual.max_staleness else str(Span(0, trouble.max_staleness))
    return _without_empty(
        max_staleness=staleness,
        on_stale="" if trouble.on_stale is OnStale.DENY else trouble.on_stale.value,
        on_unknown_customer=(
            "" if trouble.on_unknown_customer is OnUnknownCustomer.DENY else trouble.on_unknown_customer.value
        ),
        on_unreachable="" if trouble.on_unreachable is OnUnreachable.FINISH_LEASE else unreachable,
    )


def _past_due(policy: PastDuePolicy) -> Any:
    if policy.span is not None:
        return {"allow_for": str(policy.span)}
    return "allow" if policy.allow else "deny"


def _every(every: Span | None) -> Document:
    return {"every": str(every)} if every else {}


def _anchor(anchor: Anchor) -> Document:
    return {} if anchor is Anchor.SUBSCRIPTION else {"anchor": anchor.value}


def _limit(limit: Decimal | None) -> str:
    return "unlimited" if limit is None else _number(limit)


def _number(value: Decimal) -> str:
    return format_decimal(value)


def _title(thing: _Named) -> Document:
    return {} if thing.title in {"", thing.name} else {"name": thing.title}


def _without_empty(**document: Any) -> Document:
    return {
        key: value
        for key, value in document.items()
        if value not in ("", None, False, 0) and value not in ([], {})
    }


def _nest(ends: Iterable[tuple[tuple[str, ...], Any]]) -> Any:
    whole: Any = {}
    for key, end in ends:
        if not key:
            return end
        inner = whole
        for step in key[:-1]:
            inner = inner.setdefault(step, {})
        inner[key[-1]] = end
    return whole


def _sorted(mapping: Mapping[Any, Value]) -> list[tuple[Any, Value]]:
    return sorted(mapping.items())
