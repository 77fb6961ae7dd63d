"""Compiled entitlements as JSON."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from control_plane.rest.forms import amount, instant
from sidecar.engine.entitlement import BalanceSpec, Entitlements, FeatureEntitlement
from sidecar.engine.values import format_decimal


def shown_entitlements(entitled: Entitlements) -> dict[str, Any]:
    """Standing, features with values and sources, balances, warnings."""
    return {
        "customer_id": entitled.customer_id,
        "standing": entitled.standing.name,
        "catalog_revision": entitled.catalog_revision,
        "plans": list(entitled.plans),
        "add_ons": list(entitled.add_ons),
        "items": [_feature(entitled.features[name]) for name in sorted(entitled.features)],
        "balances": [_balance(entitled.balances[name]) for name in sorted(entitled.balances)],
        "warnings": list(entitled.warnings),
        "valid_until": instant(entitled.valid_until),
        "next_cursor": None,
    }


def _feature(entitlement: FeatureEntitlement) -> dict[str, Any]:
    return {
        "feature": entitlement.name,
        "type": entitlement.type.value,
        "value": _plain(entitlement.value),
        "sources": list(entitlement.sources),
        "balances": [spec.name for spec in entitlement.balances],
        "rate_card": entitlement.pricing.card.name if entitlement.pricing else None,
        "bills": entitlement.bills,
    }


def _balance(spec: BalanceSpec) -> dict[str, Any]:
    return {
        "balance": spec.name,
        "kind": spec.kind.name,
        "unit": spec.unit,
        "limit": amount(spec.limit, spec.scale),
        "every": str(spec.period.every) if spec.period else None,
        "per": str(spec.per) if spec.per else None,
        "scope": spec.scope.value,
        "overage": spec.overage.value,
        "cap": amount(spec.cap, spec.scale) if spec.cap else None,
        "sources": list(spec.sources),
    }


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return format_decimal(value)
        case frozenset():
            return sorted(value)
        case Mapping():
            return {name: _plain(one) for name, one in value.items()}
        case tuple():
            return [_plain(one) for one in value]
        case _:
            return value
