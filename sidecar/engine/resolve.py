"""From what a customer has subscribed to, to what it may do: compiled once, so that deciding only looks things up."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sidecar.engine.catalog import (
    BudgetTerms,
    Catalog,
    Feature,
    FeatureType,
    GrantTerms,
    Meter,
    Overage,
    Terms,
)
from sidecar.engine.customer import Customer
from sidecar.engine.entitlement import (
    BalanceSpec,
    Entitlements,
    EventProgram,
    FeatureEntitlement,
    FeatureProgram,
    GrantSpec,
    Requires,
)
from sidecar.engine.merging import Given, Source, merge_feature, more_lenient, period, wallet
from sidecar.engine.subscribed import InForce, subscribed
from sidecar.engine.values import BalanceKind, BalanceRef, Reason, to_scaled_exactly


def resolve(
    customer: Customer, catalogs: Mapping[int, Catalog], current_revision: int, at: datetime
) -> Entitlements:
    """A customer's rights at an instant. `catalogs` holds the current revision and every one that is pinned.

    Raises UnknownPlan where a pinned catalog, plan or add-on is missing, KeyError where the current catalog is.
    """
    assert at.tzinfo is not None, "instants are aware"
    current = catalogs[current_revision]
    if not customer.exists:
        return Entitlements(
            customer_id=customer.customer_id,
            parent_id="",
            standing=Reason.CUSTOMER_NOT_FOUND,
            catalog=current,
            catalog_revision=current_revision,
        )
    standing = subscribed(customer, catalogs, at)
    offers = [offer for found in standing.in_force for offer in _offers(found)]
    features = _features(offers)
    budgets = _budgets(offers)
    wallets = _wallets(offers, features)
    specs = [spec for feature in features.values() for spec in (*feature.allowances, *feature.rates)]
    specs += [feature.gauge for feature in features.values() if feature.gauge is not None]
    return Entitlements(
        customer_id=customer.customer_id,
        parent_id=customer.parent_id,
        standing=standing.reason,
        catalog=current,
        catalog_revision=current_revision,
        features=features,
        by_event=_programs(customer.customer_id, features, offers),
        budgets=budgets,
        wallets=wallets,
        balances={spec.name: spec for spec in (*specs, *budgets, *wallets.values())},
        grants=tuple(_grants(standing.in_force)),
        valid_until=standing.valid_until,
        warnings=standing.warnings,
        plans=tuple(dict.fromkeys(found.plan.name for found in standing.in_force)),
        add_ons=tuple(
            dict.fromkeys(name for found in standing.in_force for name in found.subscription.add_ons)
        ),
    )


class _Offer(NamedTuple):
    """What a plan or an add-on brings."""

    source: Source
    entitlements: Mapping[str, Terms]
    budgets: tuple[BudgetTerms, ...]
    grants: tuple[GrantTerms, ...]


def _offers(found: InForce) -> Iterable[_Offer]:
    subscription, revision = found.subscription, found.subscription.catalog_revision
    plan = Source(
        label=f"plan {found.plan.name}@{revision}",
        catalog=found.catalog,
        revision=revision,
        plan=found.plan,
        subscription_id=subscription.subscription_id,
        anchor_at=subscription.anchor_at,
    )
    yield _Offer(plan, found.plan.entitlements, found.plan.budgets, found.plan.grants)
    for name in subscription.add_ons:
        add_on = found.catalog.add_ons[name]
        source = replace(plan, label=f"add_on {name}@{revision}")
        yield _Offer(source, add_on.entitlements, add_on.budgets, add_on.grants)


def _features(offers: list[_Offer]) -> dict[str, FeatureEntitlement]:
    given: dict[str, list[Given]] = {}
    for source, entitlements, _, _ in offers:
        for name, terms in entitlements.items():
            given.setdefault(name, []).append(Given(source, terms))
    found: dict[str, FeatureEntitlement] = {}
    for name in sorted(given):
        feature: Feature = given[name][0].source.catalog.features[name]
        same = [g for g in given[name] if g.source.catalog.features[name].type is feature.type]
        merged = merge_feature(feature, same)
        if merged is not None:
            found[name] = merged
    return {name: _with_requirements(entitlement, found) for name, entitlement in found.items()}


def _with_requirements(
    entitlement: FeatureEntitlement, features: Mapping[str, FeatureEntitlement]
) -> FeatureEntitlement:
    """A config that the customer is not entitled to does not restrict."""
    compiled: list[Requires] = []
    for need in entitlement.feature.requires:
        config = features.get(need.config)
        if config is None or config.type is not FeatureType.CONFIG:
            continue
        source = config.sources[0] if config.sources else ""
        value = config.value
        if need.attribute and isinstance(value, frozenset):
            compiled.append(Requires(need.attribute, "", need.config, value, None, source))
        elif need.measure and isinstance(value, Decimal):
            compiled.append(Requires("", need.measure, need.config, None, value, source))
    return replace(entitlement, requires=tuple(compiled)) if compiled else entitlement


def _budgets(offers: list[_Offer]) -> tuple[BalanceSpec, ...]:
    found: dict[str, BalanceSpec] = {}
    for source, _, budgets, _ in offers:
        for terms in budgets:
            spec = _budget(source, terms)
            other = found.get(spec.name)
            alike = other is not None and (other.scope, other.unit, other.period) == (
                spec.scope,
                spec.unit,
                spec.period,
            )
            if other is not None and not alike:
                spec = replace(spec, name=f"{spec.name}/{source.subscription_id}")
                other = found.get(spec.name)
            if other is None or (spec.limit or 0) > (other.limit or 0):
                found[spec.name] = spec
    return tuple(found[name] for name in sorted(found))


def _budget(source: Source, terms: BudgetTerms) -> BalanceSpec:
    scale = source.catalog.units[terms.unit].scale
    return BalanceSpec(
        name=f"budget:{terms.name}",
        kind=BalanceKind.BUDGET,
        unit=terms.unit,
        scale=scale,
        limit=to_scaled_exactly(terms.limit, scale),
        period=period(terms.every, terms.anchor, source.anchor_at),
        scope=terms.scope,
        overage=terms.overage.policy,
        cap=to_scaled_exactly(terms.overage.cap, scale),
        sources=(source.label,),
    )


def _wallets(offers: list[_Offer], features: Mapping[str, FeatureEntitlement]) -> dict[str, BalanceSpec]:
    found: dict[str, BalanceSpec] = {}
    for entitlement in features.values():
        spec = entitlement.wallet
        if spec is not None:
            other = found.get(spec.unit)
            found[spec.unit] = spec if other is None else more_lenient(spec, other)
    for source, _, _, grants in offers:
        for grant in grants:
            if grant.unit not in found:
                found[grant.unit] = wallet(
                    source.catalog, grant.unit, overage=Overage(), sources=(source.label,)
                )
    return found


def _grants(in_force: tuple[InForce, ...]) -> Iterable[GrantSpec]:
    for found in in_force:
        subscription = found.subscription
        for i, terms in enumerate(found.plan.grants):
            key = f"{subscription.subscription_id}/plan/{found.plan.name}/{i}"
            yield _grant(found, terms, key, f"plan {found.plan.name}@{subscription.catalog_revision}")
        seen: dict[str, int] = {}
        for name in subscription.add_ons:
            seen[name] = seen.get(name, 0) + 1
            for i, terms in enumerate(found.catalog.add_ons[name].grants):
                key = f"{subscription.subscription_id}/add_on/{name}#{seen[name]}/{i}"
                yield _grant(found, terms, key, f"add_on {name}@{subscription.catalog_revision}")


def _grant(found: InForce, terms: GrantTerms, key: str, source: str) -> GrantSpec:
    scale = found.catalog.units[terms.unit].scale
    return GrantSpec(
        key=key,
        subscription_id=found.subscription.subscription_id,
        source=source,
        balance=f"wallet:{terms.unit}",
        unit=terms.unit,
        scale=scale,
        amount=to_scaled_exactly(terms.amount, scale),
        period=period(terms.every, terms.anchor, found.subscription.anchor_at),
        starts_at=found.subscription.starts_at,
        ends_at=found.subscription.ends_at,
        expires_after=terms.expires_after,
        rollover_max=to_scaled_exactly(terms.rollover_max, scale),
        rollover_min=to_scaled_exactly(terms.rollover_min, scale),
        priority=terms.priority,
        scope=terms.scope,
        cost_basis=terms.cost_basis,
        refund=terms.refund,
    )


def _programs(
    customer_id: str, features: Mapping[str, FeatureEntitlement], offers: list[_Offer]
) -> dict[str, EventProgram]:
    meters: dict[str, list[Meter]] = {}
    programs: dict[str, list[FeatureProgram]] = {}
    for entitlement in features.values():
        if entitlement.type is not FeatureType.METERED:
            continue
        own = _own_meter(entitlement, offers)
        for event in _events(entitlement, own):
            program = _program(customer_id, entitlement, event, own, meters.setdefault(event, []))
            programs.setdefault(event, []).append(program)
    return {event: EventProgram(tuple(meters[event]), tuple(found)) for event, found in programs.items()}


def _own_meter(entitlement: FeatureEntitlement, offers: list[_Offer]) -> Meter | None:
    name = entitlement.feature.meter
    first = next(offer.source for offer in offers if entitlement.name in offer.entitlements)
    return first.catalog.meters[name] if name else None


def _events(entitlement: FeatureEntitlement, own: Meter | None) -> list[str]:
    names = {entitlement.feature.event, own.event if own else ""}
    names |= {spec.meter.event for spec in (*entitlement.allowances, *entitlement.rates) if spec.meter}
    if entitlement.pricing is not None:
        names.add(entitlement.pricing.card.event)
    return sorted(names - {""})


def _program(
    customer_id: str, entitlement: FeatureEntitlement, event: str, own: Meter | None, meters: list[Meter]
) -> FeatureProgram:
    def place(meter: Meter | None) -> int:
        if meter is None or meter.event != event:
            return -1
        if meter not in meters:
            meters.append(meter)
        return meters.index(meter)

    def compiled(specs: tuple[BalanceSpec, ...]) -> tuple[tuple[BalanceSpec, BalanceRef, int], ...]:
        placed = ((spec, BalanceRef(customer_id, "", spec.name), place(spec.meter)) for spec in specs)
        return tuple(found for found in placed if found[2] >= 0)

    pricing = entitlement.pricing
    priced = pricing is not None and pricing.card.event == event
    spec = entitlement.wallet
    return FeatureProgram(
        entitlement=entitlement,
        allowances=compiled(entitlement.allowances),
        rates=compiled(entitlement.rates),
        pricing=pricing if priced else None,
        wallet=(spec, BalanceRef(customer_id, "", spec.name)) if spec is not None and priced else None,
        meter=place(own),
    )
