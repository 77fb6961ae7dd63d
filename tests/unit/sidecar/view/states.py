"""States for tests of the view."""

import json
from datetime import UTC, datetime

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.view.memory import View
from sidecar.view.pulse import Pulse

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DOCUMENT = {
    "purser": "catalog/v1",
    "meters": {"calls": {"event": "call", "aggregate": "count"}},
    "features": {"calls": {"type": "metered", "meter": "calls"}, "sso": {"type": "switch"}},
    "plans": {"free": {"entitlements": {"calls": {"limit": 10, "every": "P1M"}, "sso": True}}},
}


def catalog(revision: int = 1, *, current: bool = True) -> feed.CatalogRevision:
    """A catalog with one plan."""
    return feed.CatalogRevision(revision=revision, document=json.dumps(DOCUMENT).encode(), current=current)


def customer(
    customer_id: str = "acme", *, revision: int = 1, suspended: bool = False, hint: int = 0
) -> feed.CustomerState:
    """A customer on that plan; `hint`: the version of its only hint."""
    subscription = feed.SubscriptionState(
        subscription_id=f"sub-{customer_id}", plan="free", catalog_revision=revision, state="active"
    )
    subscription.starts_at.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
    state = feed.CustomerState(
        customer_id=customer_id, exists=True, suspended=suspended, subscriptions=[subscription]
    )
    if hint:
        ref = session.BalanceRef(customer_id=customer_id, balance="allowance:calls")
        state.hints.add(ref=ref, version=hint, granted=10, used=hint, available=10 - hint)
    return state


def view(*, bound: int = 100, in_use_max: int = 100, pinned: frozenset[str] = frozenset()) -> View:
    """An empty view at a fixed instant."""
    return View(
        bound=bound,
        in_use_max=in_use_max,
        pulse=Pulse(),
        now=lambda: NOW,
        pinned=lambda customer_id: customer_id in pinned,
    )


def snapshot(revision: int, *customers: feed.CustomerState, catalogs: bool = True) -> feed.FollowResponse:
    """A snapshot message."""
    return feed.FollowResponse(
        snapshot=feed.Snapshot(
            revision=revision, catalogs=[catalog()] if catalogs else [], customers=customers
        )
    )


def change(from_revision: int, to_revision: int, *customers: feed.CustomerState) -> feed.FollowResponse:
    """A change message."""
    return feed.FollowResponse(
        change=feed.Change(from_revision=from_revision, to_revision=to_revision, customers=customers)
    )
