"""Changes as the feed sends them: large ones in parts, and limits that change where no balance did."""

import json
from datetime import UTC, datetime, timedelta

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef, Reason
from sidecar.runtime.clock import ManualClock
from sidecar.view.follower import Follower
from sidecar.view.memory import View
from sidecar.view.pulse import Pulse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUOTA = BalanceRef("acme", "", "allowance:quota")


def _following() -> tuple[View, Follower]:
    view = View(bound=10, in_use_max=10, pulse=Pulse(), now=lambda: NOW, pinned=lambda _: False)
    follower = Follower(view)
    follower.start(session.Holder(), "")
    follower.subscribe(["acme", "bits"], [])
    catalog = feed.CatalogRevision(
        revision=1, document=json.dumps({"purser": "catalog/v1"}).encode(), current=True
    )
    first = feed.Snapshot(
        revision=1, catalogs=[catalog], customers=[_customer("acme", 500), _customer("bits", 500)]
    )
    follower.receive(feed.FollowResponse(snapshot=first), received_at=0)
    return view, follower


def _customer(name: str, granted: int) -> feed.CustomerState:
    ref = session.BalanceRef(customer_id=name, balance="allowance:quota")
    return feed.CustomerState(
        customer_id=name, exists=True, hints=[session.BalanceHint(ref=ref, granted=granted)]
    )


def _change(first: int, last: int, *states: feed.CustomerState) -> feed.FollowResponse:
    return feed.FollowResponse(change=feed.Change(from_revision=first, to_revision=last, customers=states))


def test_each_part_of_a_large_change_counts() -> None:
    """All but the last part lead from a revision to itself; they are applied, and the last one leads on."""
    view, follower = _following()
    suspended = feed.CustomerState(customer_id="acme", exists=True, suspended=True)
    follower.receive(_change(1, 1, suspended), received_at=1)
    assert view.revision == 1
    follower.receive(_change(1, 2, _customer("bits", 7)), received_at=1)
    assert view.revision == 2
    entry = view.customer("acme")
    assert entry is not None
    assert entry.state().suspended


def test_a_change_that_was_seen_is_only_acknowledged() -> None:
    """The same change again changes nothing."""
    view, follower = _following()
    follower.receive(_change(1, 2, _customer("acme", 7)), received_at=1)
    step = follower.receive(_change(1, 2, _customer("acme", 8)), received_at=1)
    assert [message.ack.revision for message in step.send] == [2]
    hint = view.hint(QUOTA)
    assert hint is not None
    assert hint.granted == 7


def test_a_limit_changes_where_no_balance_did() -> None:
    """A balance that nobody has touched keeps its version; a newer state of its customer still says the new limit."""
    view, follower = _following()
    follower.receive(_change(1, 2, _customer("acme", 40)), received_at=1)
    hint = view.hint(QUOTA)
    assert hint is not None
    assert hint.granted == 40


def test_what_begins_now_has_begun_here() -> None:
    """A state brings the control plane's clock along, however late the heartbeats came that told it before."""
    pulse = Pulse()
    view = View(
        bound=10,
        in_use_max=10,
        pulse=pulse,
        now=lambda: pulse.control_now(ManualClock(NOW, 10.0)),
        pinned=lambda _: False,
    )
    follower = Follower(view)
    follower.start(session.Holder(), "")
    follower.subscribe(["acme"], [])
    stale = feed.Heartbeat(revision=0)
    stale.now.FromDatetime(NOW - timedelta(seconds=1))
    follower.receive(feed.FollowResponse(heartbeat=stale), received_at=10.0)
    document = {
        "purser": "catalog/v1",
        "features": {"sso": {"type": "switch"}},
        "plans": {"pro": {"entitlements": {"sso": True}}},
    }
    catalog = feed.CatalogRevision(revision=1, document=json.dumps(document).encode(), current=True)
    subscription = feed.SubscriptionState(subscription_id="s", plan="pro", catalog_revision=1, state="active")
    subscription.starts_at.FromDatetime(NOW)
    subscription.anchor_at.FromDatetime(NOW)
    acme = feed.CustomerState(customer_id="acme", exists=True, subscriptions=[subscription])
    snapshot = feed.Snapshot(revision=1, catalogs=[catalog], customers=[acme])
    snapshot.now.FromDatetime(NOW)
    follower.receive(feed.FollowResponse(snapshot=snapshot), received_at=10.0)
    entry = view.customer("acme")
    assert entry is not None
    assert view.compiled(entry, NOW).entitlements.standing is Reason.OK
