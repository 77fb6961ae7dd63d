"""What a plan means, as one canonical text: two revisions in which it is equal hold the same version of the plan."""

import json
from typing import Any

from sidecar.engine.catalog import (
    Catalog,
    FeatureType,
    MeteredTerms,
    Plan,
    Terms,
)
from sidecar.engine.writing import (
    plan_terms,
    write_feature,
    write_meter,
    write_rate_card,
    write_unit,
)


def plan_meaning(catalog: Catalog, plan: str) -> str:
    """Canonical JSON of the plan with everything it uses: features, configs, meters, rate cards and units.

    Names for people and upgrade hints are not part of it. Raises KeyError: no such plan.
    """
    terms = catalog.plans[plan]
    features = _features(catalog, terms)
    meters: set[str] = set()
    cards: set[str] = {discount.rate_card for discount in terms.discounts}
    units = {grant.unit for grant in terms.grants} | {budget.unit for budget in terms.budgets}
    units |= {commitment.unit for commitment in terms.commitments}
    if terms.price is not None:
        units.add(terms.price.unit)
    for name in features:
        meters.add(catalog.features[name].meter)
        cards.add(catalog.features[name].rate_card)
        _uses(terms.entitlements.get(name), meters, cards, units)
    cards &= catalog.rate_cards.keys()
    units |= {catalog.rate_cards[name].unit for name in cards}
    document: dict[str, Any] = {
        "plan": {key: value for key, value in plan_terms(terms).items() if key != "upgrade_to"},
        "features": {name: _unnamed(write_feature(catalog.features[name])) for name in features},
        "meters": {name: write_meter(catalog.meters[name]) for name in meters & catalog.meters.keys()},
        "rate_cards": {name: write_rate_card(catalog.rate_cards[name]) for name in cards},
        "units": {name: _unnamed(write_unit(catalog.units[name])) for name in units & catalog.units.keys()},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _features(catalog: Catalog, plan: Plan) -> set[str]:
    used = set(plan.entitlements)
    if plan.price is not None and plan.price.for_each:
        used.add(plan.price.for_each)
    for name in tuple(used):
        feature = catalog.features[name]
        if feature.type is FeatureType.METERED:
            used |= {need.config for need in feature.requires}
    return used


def _uses(terms: Terms | None, meters: set[str], cards: set[str], units: set[str]) -> None:
    if not isinstance(terms, MeteredTerms):
        return
    if terms.allowance is not None:
        meters.add(terms.allowance.meter)
    meters |= {rate.meter for rate in terms.rates}
    cards |= {terms.charge, terms.overage.charge}
    units.add(terms.spends)


def _unnamed(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "name"}
