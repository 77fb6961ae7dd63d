"""The trouble policies that need no balance: a view that is too old, and a customer that is not known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cachetools import LRUCache

from sidecar.engine.catalog import Catalog, Feature, FeatureType, OnStale, OnUnknownCustomer
from sidecar.engine.customer import Customer, Subscription, SubscriptionState
from sidecar.engine.decision import Freshness
from sidecar.engine.entitlement import Entitlements, FeatureEntitlement
from sidecar.engine.resolve import resolve
from sidecar.engine.values import Finding, Reason
from sidecar.view.memory import View

_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)
_GUESTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Staleness:
    """What the age of the view means for one question."""

    refuses: bool = False
    findings: tuple[Finding, ...] = ()


FRESH: Final = Staleness()


def staleness(
    features: Sequence[FeatureEntitlement], freshness: Freshness, asked_max: timedelta | None
) -> Staleness:
    """`asked_max`: of the request; None: each feature's own, which speaks for switches and configs only."""
    age = freshness.age
    findings: list[Finding] = []
    refuses = False
    if asked_max is not None and not features and (age is None or age > asked_max):
        return Staleness(refuses=True, findings=(_too_old("", age, asked_max),))
    for feature in features:
        bound = feature.trouble.max_staleness if asked_max is None else asked_max
        if age is not None and age <= bound:
            continue
        is_value = feature.type in {FeatureType.SWITCH, FeatureType.CONFIG}
        if is_value and feature.trouble.on_stale is OnStale.ALLOW:
            text = f"the view is {_age(age)} old, more than {bound}; on_stale: allow"
            findings.append(Finding("trouble", feature.name, text, Reason.OK_FALLBACK))
        elif is_value or asked_max is not None:
            refuses = True
            findings.append(_too_old(feature.name, age, bound))
    return Staleness(refuses, tuple(findings)) if findings else FRESH


def _too_old(about: str, age: timedelta | None, bound: timedelta) -> Finding:
    text = f"the view is {_age(age)} old, more than {bound}"
    return Finding("trouble", about, text, Reason.VIEW_TOO_OLD)


def _age(age: timedelta | None) -> str:
    return "of unknown age, and so counts as too" if age is None else str(age)


class Strangers:
    """What holds for customers that do not exist, or are not known here while the control plane is away."""

    def __init__(self, view: View) -> None:
        """Looks at the view's current catalog."""
        self._view = view
        self._guests: LRUCache[tuple[int, str], Entitlements] = LRUCache(_GUESTS_MAX)

    def policy(self, feature: str, event_name: str) -> OnUnknownCustomer:
        """The strictest policy of the feature named, or of those that the event would be charged to; `deny`
        without any.
        """
        known = self._view.current_catalog
        if known is None:
            return OnUnknownCustomer.DENY
        _, catalog = known
        concerned = self._concerned(catalog, feature, event_name)
        policies = [item.trouble.on_unknown_customer for item in concerned]
        for strict in (OnUnknownCustomer.DENY, OnUnknownCustomer.DEFAULT_PLAN):
            if strict in policies:
                return strict
        return OnUnknownCustomer.ALLOW if policies else OnUnknownCustomer.DENY

    def guest(self, customer_id: str, at: datetime) -> Entitlements | None:
        """Entitlements by the catalog's default plan; None: there is none."""
        known = self._view.current_catalog
        if known is None or not known[1].default_plan:
            return None
        revision, catalog = known
        key = (revision, customer_id)
        found = self._guests.get(key)
        if found is None:
            subscription = Subscription(
                subscription_id="default_plan",
                plan=catalog.default_plan,
                catalog_revision=revision,
                state=SubscriptionState.ACTIVE,
                starts_at=_BEGINNING,
                anchor_at=_BEGINNING,
            )
            customer = Customer(customer_id=customer_id, subscriptions=(subscription,))
            found = resolve(customer, {revision: catalog}, revision, at)
            self._guests[key] = found
        return found

    def _concerned(self, catalog: Catalog, feature: str, event_name: str) -> Iterable[Feature]:
        if feature:
            named = catalog.features.get(feature)
            return () if named is None else (named,)
        return [item for item in catalog.features.values() if _reads(catalog, item, event_name)]


def _reads(catalog: Catalog, feature: Feature, event_name: str) -> bool:
    """Would an event of this name be charged to the feature?"""
    meter, card = catalog.meters.get(feature.meter), catalog.rate_cards.get(feature.rate_card)
    return event_name in {feature.event, meter.event if meter else "", card.event if card else ""} - {""}
