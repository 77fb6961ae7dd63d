"""A feature's right from all sources: switch = any, number = largest, set = union, allowance = sum, rate = largest."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from sidecar.engine.catalog import (
    AllowanceTerms,
    Anchor,
    Catalog,
    ConfigTerms,
    ConfigValue,
    Feature,
    FeatureType,
    GaugeTerms,
    MeteredTerms,
    Overage,
    OveragePolicy,
    Plan,
    RateTerms,
    SwitchTerms,
    Terms,
)
from sidecar.engine.entitlement import BalanceSpec, FeatureEntitlement, Pricing
from sidecar.engine.periods import Period, Span, calendar
from sidecar.engine.values import ZERO, BalanceKind, to_scaled_exactly

GAUGE_UNIT: Final = "holders"


@dataclass(frozen=True, slots=True)
class Source:
    """A plan or add-on as one subscription brings it."""

    label: str
    """`plan pro@12`"""
    catalog: Catalog
    revision: int
    plan: Plan
    """The subscription's plan, whose discounts hold for its add-ons too."""
    subscription_id: str
    anchor_at: datetime


@dataclass(frozen=True, slots=True)
class Given:
    """What one source gives of a feature."""

    source: Source
    terms: Terms


def period(every: Span | None, anchor: Anchor, anchor_at: datetime) -> Period | None:
    """The period of something that repeats; None: it does not."""
    if every is None:
        return None
    return calendar(every) if anchor is Anchor.CALENDAR else Period(every, anchor_at)


def merge_feature(feature: Feature, given: list[Given]) -> FeatureEntitlement | None:
    """The right to a feature; None: its sources take it away or leave it off."""
    return _MERGES[feature.type](feature, given)


def _switch(feature: Feature, given: list[Given]) -> FeatureEntitlement | None:
    on = [g for g in given if isinstance(g.terms, SwitchTerms) and g.terms.on]
    return FeatureEntitlement(feature=feature, value=True, sources=_labels(on)) if on else None


def _config(feature: Feature, given: list[Given]) -> FeatureEntitlement | None:
    values = [g.terms.value for g in given if isinstance(g.terms, ConfigTerms)]
    numbers = [value for value in values if isinstance(value, Decimal)]
    sets = [value for value in values if isinstance(value, frozenset)]
    value: ConfigValue = values[0]
    if numbers:
        value = max(numbers)
    elif sets:
        value = frozenset().union(*sets)
    return FeatureEntitlement(feature=feature, value=value, sources=_labels(given))


def _gauge(feature: Feature, given: list[Given]) -> FeatureEntitlement | None:
    terms = [g.terms for g in given if isinstance(g.terms, GaugeTerms)]
    limits = [t.limit for t in terms]
    overage = _most_lenient([t.overage for t in terms])
    known = [limit for limit in limits if limit is not None]
    spec = BalanceSpec(
        name=f"gauge:{feature.name}",
        kind=BalanceKind.GAUGE,
        unit=GAUGE_UNIT,
        scale=0,
        limit=to_scaled_exactly(sum(known, ZERO), 0) if len(known) == len(limits) else None,
        overage=overage.policy,
        cap=to_scaled_exactly(overage.cap, 0),
        feature=feature.name,
        sources=_labels(given),
    )
    return FeatureEntitlement(feature=feature, gauge=spec, sources=_labels(given))


def _metered(feature: Feature, given: list[Given]) -> FeatureEntitlement | None:
    terms = [(g.source, g.terms) for g in given if isinstance(g.terms, MeteredTerms) and g.terms.entitled]
    if not terms:
        return None
    for_nothing = any(t.allowance is None and not t.spends and not t.charge for _, t in terms)
    spends = [(source, t) for source, t in terms if t.spends and not for_nothing]
    tail = bool(spends) or any(t.charge and t.allowance is None for _, t in terms)
    allowances = () if for_nothing else _allowances(feature, terms, tail=tail)
    pricing, bills = _pricing(feature, terms)
    wallet = _wallet(spends) if spends else None
    return FeatureEntitlement(
        feature=feature,
        sources=tuple(dict.fromkeys(source.label for source, _ in terms)),
        allowances=allowances,
        rates=_rates(feature, terms),
        pricing=pricing,
        wallet=wallet,
        bills=bills and wallet is None and not for_nothing,
    )


_MERGES: Final[Mapping[FeatureType, Callable[[Feature, list[Given]], FeatureEntitlement | None]]] = {
    FeatureType.SWITCH: _switch,
    FeatureType.CONFIG: _config,
    FeatureType.GAUGE: _gauge,
    FeatureType.METERED: _metered,
}


def _allowances(
    feature: Feature, terms: list[tuple[Source, MeteredTerms]], *, tail: bool
) -> tuple[BalanceSpec, ...]:
    found: list[BalanceSpec] = []
    for source, term in terms:
        if term.allowance is None:
            continue
        overage = Overage(OveragePolicy.ALLOW) if tail else _with_charge(term)
        spec = _allowance(feature, source, term.allowance, overage)
        for i, other in enumerate(found):
            if other.meter == spec.meter and other.period == spec.period:
                found[i] = _sum(other, spec)
                break
        else:
            found.append(replace(spec, name=_free_name(spec, source, {other.name for other in found})))
    # What starts anew sooner is used first: so a larger share of what was given is of use.
    return tuple(sorted(found, key=_period_length))


def _with_charge(term: MeteredTerms) -> Overage:
    return replace(term.overage, charge=term.overage.charge or term.charge)


def _allowance(feature: Feature, source: Source, terms: AllowanceTerms, overage: Overage) -> BalanceSpec:
    meter = source.catalog.meters[terms.meter]
    return BalanceSpec(
        name=f"allowance:{feature.name}",
        kind=BalanceKind.ALLOWANCE,
        unit=meter.name,
        scale=meter.scale,
        limit=None if terms.limit is None else to_scaled_exactly(terms.limit, meter.scale),
        period=period(terms.every, terms.anchor, source.anchor_at),
        overage=overage.policy,
        cap=to_scaled_exactly(overage.cap, meter.scale),
        charge=overage.charge,
        meter=meter,
        feature=feature.name,
        sources=(source.label,),
    )


def _sum(one: BalanceSpec, other: BalanceSpec) -> BalanceSpec:
    lenient = max(one, other, key=lambda spec: (_LENIENCE[spec.overage], not spec.charge))
    return replace(
        one,
        limit=None if one.limit is None or other.limit is None else one.limit + other.limit,
        overage=lenient.overage,
        charge=lenient.charge,
        cap=one.cap + other.cap,
        sources=tuple(dict.fromkeys((*one.sources, *other.sources))),
    )


def _free_name(spec: BalanceSpec, source: Source, taken: set[str]) -> str:
    every = str(spec.period.every) if spec.period else "once"
    names = (spec.name, f"{spec.name}/{every}", f"{spec.name}/{spec.unit}/{every}")
    whole = f"{spec.name}/{spec.unit}/{every}/{source.subscription_id}"
    return next((name for name in names if name not in taken), whole)


def _period_length(spec: BalanceSpec) -> tuple[bool, int, float, str]:
    if spec.period is None:
        return (True, 0, 0, spec.name)
    return (False, spec.period.every.months, spec.period.every.time.total_seconds(), spec.name)


def _rates(feature: Feature, terms: list[tuple[Source, MeteredTerms]]) -> tuple[BalanceSpec, ...]:
    found: dict[str, BalanceSpec] = {}
    for source, term in terms:
        for rate in term.rates:
            spec = _rate(feature, source, rate)
            other = found.get(spec.name)
            if other is None or (spec.limit or 0, spec.burst) > (other.limit or 0, other.burst):
                found[spec.name] = spec
    return tuple(found[name] for name in sorted(found))


def _rate(feature: Feature, source: Source, rate: RateTerms) -> BalanceSpec:
    meter = source.catalog.meters[rate.meter]
    return BalanceSpec(
        name=f"rate:{feature.name}/{meter.name}/{rate.per}",
        kind=BalanceKind.RATE,
        unit=meter.name,
        scale=meter.scale,
        limit=to_scaled_exactly(rate.limit, meter.scale),
        meter=meter,
        per=rate.per,
        burst=to_scaled_exactly(rate.burst, meter.scale),
        feature=feature.name,
        sources=(source.label,),
    )


def _pricing(feature: Feature, terms: list[tuple[Source, MeteredTerms]]) -> tuple[Pricing | None, bool]:
    """The card that prices, and whether it bills: what a source charges by goes before the feature's own card."""
    charges = [(source, t.charge or t.overage.charge) for source, t in terms]
    billing = next(((source, card) for source, card in charges if card), None)
    spending = next((source for source, t in terms if t.spends), None)
    source, name = billing if billing and spending is None else (spending or terms[0][0], feature.rate_card)
    if not name:
        return None, False
    discount = next((d.percent for d in source.plan.discounts if d.rate_card == name), ZERO)
    return Pricing(source.catalog.rate_cards[name], source.revision, discount), billing is not None


def _wallet(spends: list[tuple[Source, MeteredTerms]]) -> BalanceSpec:
    source, first = spends[0]
    same = [(s, t) for s, t in spends if t.spends == first.spends]
    overage = _most_lenient([t.overage for _, t in same])
    return wallet(
        source.catalog, first.spends, overage=overage, sources=tuple(dict.fromkeys(s.label for s, _ in same))
    )


def wallet(catalog: Catalog, unit: str, *, overage: Overage, sources: tuple[str, ...]) -> BalanceSpec:
    """The wallet of a unit."""
    scale = catalog.units[unit].scale
    return BalanceSpec(
        name=f"wallet:{unit}",
        kind=BalanceKind.WALLET,
        unit=unit,
        scale=scale,
        overage=overage.policy,
        cap=to_scaled_exactly(overage.cap, scale),
        sources=sources,
    )


_LENIENCE: Final = {OveragePolicy.DENY: 0, OveragePolicy.ALLOW_UP_TO: 1, OveragePolicy.ALLOW: 2}


def more_lenient(one: BalanceSpec, other: BalanceSpec) -> BalanceSpec:
    """Of two specs of one balance the one that lets more pass."""
    return max(one, other, key=lambda spec: (_LENIENCE[spec.overage], spec.cap))


def _most_lenient(overages: list[Overage]) -> Overage:
    best = max(overages, key=lambda overage: (_LENIENCE[overage.policy], not overage.charge))
    return replace(best, cap=sum((overage.cap for overage in overages), ZERO))


def _labels(given: Iterable[Given]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(g.source.label for g in given))
