"""States as the feed carries them, typed for the engine. What can not be typed is a `BadState`: the message
is refused.
"""

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import Customer, PastDuePolicy, Subscription, SubscriptionState
from sidecar.engine.document import CatalogError, read_catalog
from sidecar.engine.values import BalanceRef

_CLOCKS_FROM: Final = datetime(2000, 1, 1, tzinfo=UTC)  # unset, it would be 1970
_CLOCKS_UNTIL: Final = datetime(3000, 1, 1, tzinfo=UTC)


class BadState(ValueError):
    """A state on the feed that can not be read."""


def instant(at: Timestamp) -> datetime:
    """An aware datetime in UTC, to the microsecond (what is finer is cut off). Raises BadState."""
    try:
        return datetime.fromtimestamp(at.seconds, UTC).replace(microsecond=at.nanos // 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise BadState(f"{at.seconds}s is no time") from error


def reading(at: Timestamp) -> datetime:
    """The same of a clock that is carried on from there, and reckoned with: none stands at an end of time. Raises
    BadState.
    """
    found = instant(at)
    if not _CLOCKS_FROM <= found < _CLOCKS_UNTIL:
        raise BadState(f"no clock shows {found:%Y-%m-%d}")
    return found


def catalog_of(state: feed.CatalogRevision) -> Catalog:
    """Raises BadState."""
    try:
        return read_catalog(json.loads(state.document, parse_float=Decimal))
    except (CatalogError, ValueError, RecursionError) as error:
        raise BadState(f"catalog revision {state.revision} can not be read: {error}") from error


def customer_of(state: feed.CustomerState) -> Customer:
    """Raises BadState."""
    return Customer(
        customer_id=state.customer_id,
        exists=state.exists,
        parent_id=state.parent_id,
        suspended=state.suspended,
        subscriptions=tuple(_subscription_of(item) for item in state.subscriptions),
    )


def ref_of(ref: session.BalanceRef) -> BalanceRef:
    """The engine's name of the same balance. Thousands of customers have balances of the same few names."""
    return BalanceRef(ref.customer_id, ref.subject_id, sys.intern(ref.balance))


def _subscription_of(state: feed.SubscriptionState) -> Subscription:
    try:
        return Subscription(
            subscription_id=state.subscription_id,
            plan=state.plan,
            catalog_revision=state.catalog_revision,
            state=SubscriptionState(state.state),
            starts_at=instant(state.starts_at),
            anchor_at=instant(state.anchor_at if state.HasField("anchor_at") else state.starts_at),
            ends_at=instant(state.ends_at) if state.HasField("ends_at") else None,
            trial_ends_at=instant(state.trial_ends_at) if state.HasField("trial_ends_at") else None,
            past_due_since=instant(state.past_due_since) if state.HasField("past_due_since") else None,
            on_past_due=PastDuePolicy.parse(state.on_past_due) if state.on_past_due else None,
            add_ons=tuple(state.add_ons),
        )
    except ValueError as error:
        raise BadState(f"subscription {state.subscription_id!r}: {error}") from error
