"""Which of a customer's subscriptions count at an instant, and until when that holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sidecar.engine.catalog import Catalog, Plan
from sidecar.engine.customer import Customer, PastDuePolicy, Subscription, SubscriptionState
from sidecar.engine.values import Reason

PAYMENT_PAST_DUE = "PAYMENT_PAST_DUE"


class UnknownPlan(LookupError):
    """A subscription names a catalog revision, a plan or an add-on that is not at hand."""

    def __init__(self, subscription: Subscription, what: str) -> None:
        super().__init__(f"subscription {subscription.subscription_id!r} names {what}, which is not at hand")
        self.subscription = subscription


@dataclass(frozen=True, slots=True)
class InForce:
    """A subscription with the texts that it is pinned to."""

    subscription: Subscription
    catalog: Catalog
    plan: Plan


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What all subscriptions come to."""

    reason: Reason
    """OK, or why nothing is allowed."""
    in_force: tuple[InForce, ...]
    """Those in good order; where none is, those whose time has come: facts are charged to them all the same."""
    valid_until: datetime | None
    warnings: tuple[str, ...]


def subscribed(customer: Customer, catalogs: Mapping[int, Catalog], at: datetime) -> Subscribed:
    """Raises UnknownPlan."""
    good: list[InForce] = []
    poor: list[InForce] = []
    reasons: list[Reason] = []
    changes: list[datetime] = []
    warnings: list[str] = []
    for subscription in sorted(customer.subscriptions, key=lambda s: (s.starts_at, s.subscription_id)):
        changes += (t for t in (subscription.starts_at, subscription.ends_at) if t is not None and t > at)
        if at < subscription.starts_at or (subscription.ends_at is not None and at >= subscription.ends_at):
            continue
        if subscription.state is SubscriptionState.CANCELED:
            continue
        found = _pinned(subscription, catalogs)
        reason, until = _state(subscription, found.plan, at)
        if until is not None and until > at:
            changes.append(until)
        if reason is Reason.OK:
            good.append(found)
            if subscription.state is SubscriptionState.PAST_DUE:
                warnings.append(PAYMENT_PAST_DUE)
        else:
            poor.append(found)
            reasons.append(reason)
    if good:
        standing = Reason.OK
    else:
        telling = [reason for reason in reasons if reason is not Reason.NO_ACTIVE_SUBSCRIPTION]
        standing = min(telling, default=Reason.NO_ACTIVE_SUBSCRIPTION)
    if customer.suspended:
        standing = Reason.CUSTOMER_SUSPENDED
    return Subscribed(
        standing, tuple(good or poor), min(changes, default=None), tuple(dict.fromkeys(warnings))
    )


def _pinned(subscription: Subscription, catalogs: Mapping[int, Catalog]) -> InForce:
    catalog = catalogs.get(subscription.catalog_revision)
    if catalog is None:
        raise UnknownPlan(subscription, f"catalog revision {subscription.catalog_revision}")
    plan = catalog.plans.get(subscription.plan)
    if plan is None:
        raise UnknownPlan(subscription, f"plan {subscription.plan!r}")
    for name in subscription.add_ons:
        if name not in catalog.add_ons:
            raise UnknownPlan(subscription, f"add-on {name!r}")
    return InForce(subscription, catalog, plan)


def _state(subscription: Subscription, plan: Plan, at: datetime) -> tuple[Reason, datetime | None]:
    """OK or why not, and the instant at which that changes by itself."""
    state = subscription.state
    if state is SubscriptionState.ACTIVE:
        return Reason.OK, None
    if state is SubscriptionState.TRIALING:
        ends = subscription.trial_ends_at
        return (Reason.TRIAL_ENDED, None) if ends is not None and at >= ends else (Reason.OK, ends)
    if state is SubscriptionState.PAST_DUE:
        policy: PastDuePolicy = subscription.on_past_due or plan.on_past_due
        if policy.span is None:
            return (Reason.OK if policy.allow else Reason.PAYMENT_PAST_DUE), None
        ends = policy.span.after(subscription.past_due_since or subscription.starts_at)
        return (Reason.PAYMENT_PAST_DUE, None) if at >= ends else (Reason.OK, ends)
    return Reason.NO_ACTIVE_SUBSCRIPTION, None
