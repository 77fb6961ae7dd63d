"""What could be bought so that a refusal would not have been one."""

from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.engine.catalog import GaugeTerms, GrantTerms, MeteredTerms, SwitchTerms, Terms
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.evaluate import Shortfall
from sidecar.engine.values import BalanceKind, Reason

_NOT_FOR_SALE: Final = frozenset(
    {
        *(
            Reason.CUSTOMER_NOT_FOUND,
            Reason.SUBJECT_NOT_FOUND,
            Reason.CUSTOMER_SUSPENDED,
            Reason.FEATURE_NOT_FOUND,
        ),
        *(Reason.FEATURE_TYPE_MISMATCH, Reason.NO_PRICE, Reason.BUDGET_EXCEEDED, Reason.PAYMENT_PAST_DUE),
        *(Reason.VIEW_TOO_OLD, Reason.CONTROL_PLANE_UNREACHABLE),
    }
)


def upgrade_options(
    entitlements: Entitlements, reason: Reason, features: Iterable[str], shortfalls: tuple[Shortfall, ...]
) -> tuple[str, ...]:
    """Plans and add-ons that hold the features, best first: for an empty wallet what fills it, else the plans above."""
    wanted = tuple(dict.fromkeys(feature for feature in features if feature))
    if reason in _NOT_FOR_SALE or not reason.refuses or not wanted:
        return ()
    units = {s.spec.unit for s in shortfalls if s.refuses and s.spec.kind is BalanceKind.WALLET}
    catalog = entitlements.catalog
    fills = [name for name, add_on in catalog.add_ons.items() if _fills(add_on.grants, units, wanted)]
    holds = [name for name, add_on in catalog.add_ons.items() if _holds(add_on.entitlements, wanted)]
    plans = [name for name in _plans_above(entitlements) if _holds(catalog.plans[name].entitlements, wanted)]
    return tuple(dict.fromkeys((*fills, *plans, *holds)))


def _plans_above(entitlements: Entitlements) -> list[str]:
    catalog = entitlements.catalog
    if not entitlements.plans:
        return [name for name, plan in catalog.plans.items() if not plan.custom]
    present = [catalog.plans[name] for name in entitlements.plans if name in catalog.plans]
    return [name for plan in present for name in plan.upgrade_to if name not in entitlements.plans]


def _holds(entitlements: Mapping[str, Terms], wanted: tuple[str, ...]) -> bool:
    return all(_gives(entitlements.get(feature)) for feature in wanted)


def _gives(terms: Terms | None) -> bool:
    match terms:
        case None:
            return False
        case SwitchTerms():
            return terms.on
        case MeteredTerms():
            return terms.entitled
        case GaugeTerms():
            return terms.limit != 0
        case _:
            return True


def _fills(grants: tuple[GrantTerms, ...], units: set[str], wanted: tuple[str, ...]) -> bool:
    return any(grant.unit in units and (not grant.scope or grant.scope & set(wanted)) for grant in grants)
