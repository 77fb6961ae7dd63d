"""The feed's state machine: what each message makes of the view."""

from collections.abc import Iterable
from datetime import timedelta

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef, Reason
from sidecar.runtime.clock import ManualClock
from sidecar.view.follower import Follower
from sidecar.view.hints import Hint
from tests.unit.sidecar.view.states import NOW, catalog, change, customer, snapshot, view

REF = BalanceRef("acme", "", "allowance:calls")


def follower(*customer_ids: str, bound: int = 100) -> Follower:
    """A follower at the start of a stream, which has asked for these customers."""
    found = Follower(view(bound=bound))
    found.start(session.Holder(outbox_id="o", incarnation_id="i"), "test")
    found.subscribe(customer_ids, ())
    return found


def test_wanted_customers_are_followed_from_the_first() -> None:
    """Who is wanted is subscribed on every stream, held or not, and taken over when it comes."""
    following = Follower(view(), lambda: ["acme"])
    for _ in range(2):
        first, *rest = following.start(session.Holder(outbox_id="o", incarnation_id="i"), "test")
        assert not first.start.customer_ids
        assert [list(message.subscribe.customer_ids) for message in rest] == [["acme"]]
    following.receive(snapshot(5, customer()), received_at=1.0)
    assert following._view.customer("acme") is not None
    first, *rest = following.start(session.Holder(outbox_id="o", incarnation_id="i"), "test")
    assert list(first.start.customer_ids) == ["acme"]
    assert not rest


def test_a_snapshot_is_taken_over_and_acknowledged() -> None:
    """After a snapshot the customer is known, the view stands at its revision, and an ACK goes back."""
    following = follower("acme")
    step = following.receive(snapshot(5, customer(hint=3)), received_at=1.0)
    held = following._view
    assert held.revision == 5
    entry = held.customer("acme")
    assert entry is not None
    assert held.compiled(entry, NOW).entitlements.standing is Reason.OK
    hint = held.hint(REF)
    assert hint is not None
    assert hint.used == 3
    assert [message.ack.revision for message in step.send] == [5]


def test_changes_chain() -> None:
    """A change from the revision reached is applied; one that is older changes nothing and is acknowledged."""
    following = follower("acme")
    following.receive(snapshot(5, customer()), received_at=1.0)
    following.receive(change(5, 7, customer(suspended=True)), received_at=1.0)
    held = following._view
    entry = held.customer("acme")
    assert entry is not None
    assert held.compiled(entry, NOW).entitlements.standing is Reason.CUSTOMER_SUSPENDED
    following.receive(change(5, 6, customer()), received_at=1.0)
    assert held.customer("acme") is entry
    assert held.revision == 7


def test_a_gap_resumes() -> None:
    """A change that starts above the revision reached means that something was missed: nothing is applied."""
    following = follower("acme")
    following.receive(snapshot(5, customer()), received_at=1.0)
    step = following.receive(change(6, 7, customer(suspended=True)), received_at=1.0)
    assert step.resume
    assert following._view.revision == 5


def test_a_bad_message_keeps_the_old_state() -> None:
    """A customer that refers to an unknown catalog is answered with NACK, and nothing of the message counts."""
    following = follower("acme", "bob")
    following.receive(snapshot(5, customer()), received_at=1.0)
    step = following.receive(change(5, 6, customer("bob"), customer(revision=99)), received_at=1.0)
    assert step.problem
    assert [message.WhichOneof("message") for message in step.send] == ["nack"]
    assert following._view.revision == 5
    assert following._view.customer("bob") is None


def test_states_that_nobody_asked_for_are_ignored() -> None:
    """A state that was under way when its customer was unsubscribed would never be brought up to date."""
    following = follower("acme")
    following.receive(snapshot(5, customer("bob")), received_at=1.0)
    assert following._view.customer("bob") is None


def test_who_makes_room_is_unsubscribed() -> None:
    """Above its bound the view forgets a cold customer, and says so on the feed."""
    following = follower("a", "b", "c", bound=2)
    following.receive(snapshot(5, customer("a"), customer("b")), received_at=1.0)
    step = following.receive(snapshot(6, customer("c"), catalogs=False), received_at=1.0)
    gone = [list(m.unsubscribe.customer_ids) for m in step.send if m.HasField("unsubscribe")]
    assert gone == [["a"]]


def test_a_reset_keeps_answers_until_newer_ones_come() -> None:
    """After a restore states stay, at no revision; the next snapshot sets the revision, also a lower one."""
    following = follower("acme")
    following.receive(snapshot(50, customer()), received_at=1.0)
    following.receive(feed.FollowResponse(reset=feed.Reset(generation=2)), received_at=1.0)
    held = following._view
    assert (held.generation, held.revision) == (2, 0)
    assert held.customer("acme") is not None
    following.receive(snapshot(20, customer(suspended=True)), received_at=1.0)
    entry = held.customer("acme")
    assert entry is not None
    assert held.revision == 20
    assert held.compiled(entry, NOW).entitlements.standing is Reason.CUSTOMER_SUSPENDED


def test_a_recall_is_for_the_shell() -> None:
    """A recall changes nothing here: the shell obeys it."""
    recall = feed.Recall(recall_id="r")
    assert follower().receive(feed.FollowResponse(recall=recall), received_at=1.0).obey == recall


def test_only_newer_hints_count() -> None:
    """A hint with an older version than the one held is passed over."""
    following = follower("acme")
    following.receive(snapshot(5, customer(hint=4)), received_at=1.0)
    older = customer(hint=2).hints
    following.receive(feed.FollowResponse(hints=feed.BalanceHints(hints=older)), received_at=1.0)
    hint = following._view.hint(REF)
    assert hint is not None
    assert hint.version == 4


def test_heartbeats_reach_the_pulse() -> None:
    """A heartbeat confirms the view whose revision it carries."""
    following = follower("acme")
    following.receive(snapshot(5, customer()), received_at=1.0)
    beat = feed.Heartbeat(revision=5)
    beat.now.FromDatetime(NOW)
    following.receive(feed.FollowResponse(heartbeat=beat), received_at=10.0)
    pulse = following._view.pulse
    assert pulse.age_seconds(12.0) == 2.0
    assert pulse.control_now(ManualClock(NOW - timedelta(days=1), 11.0)) == NOW + timedelta(seconds=1)


def test_resuming_names_what_is_held() -> None:
    """A new stream resumes at the revision, and subscribes what no chain of changes reaches."""
    following = follower("acme")
    following.receive(snapshot(5, customer()), received_at=1.0)
    following._view.apply(
        revision=3, catalogs=[catalog()], customers=[customer("loose")], chained=False, advance=False
    )
    first, second = following.start(session.Holder(), "test")
    assert (first.start.revision, list(first.start.customer_ids)) == (5, ["acme"])
    assert list(first.start.catalog_revisions) == [1]
    assert list(second.subscribe.customer_ids) == ["loose"]


def test_a_hint_of_the_same_version_counts_by_its_way() -> None:
    """Usage of leases raises no version: on the feed, which is in order, the later hint stands; one in an answer
    may have been overtaken by the feed, and stands only with a later version or if it counts more records.
    """
    held = view()
    following = Follower(held)
    following.receive(snapshot(5, customer(hint=4)), received_at=1.0)
    later = customer(hint=4).hints
    later[0].used = 6
    following.receive(feed.FollowResponse(hints=feed.BalanceHints(hints=later)), received_at=2.0)
    hint = held.hint(REF)
    assert hint is not None
    assert hint.used == 6
    held.apply_hints(customer(hint=4).hints, counted_through=0)
    assert held.hint(REF) == hint
    held.apply_hints(customer(hint=4).hints, counted_through=1)
    newer = held.hint(REF)
    assert newer is not None
    assert newer.used == 4
    following.receive(feed.FollowResponse(hints=feed.BalanceHints(hints=later)), received_at=3.0)
    assert held.hint(REF) is newer  # it was read before the answer, and came after it
    held.apply_hints(customer(hint=5).hints, counted_through=1)
    newest = held.hint(REF)
    assert newest is not None
    assert newest.used == 5


def test_what_hints_count_is_told_as_they_stand() -> None:
    """Of the balances in a message, by the hint that is held; of all others, if the message is complete."""
    held = view()
    following = Follower(held)
    told: list[tuple[dict[BalanceRef, int], int, bool]] = []

    def counted(hints: Iterable[Hint], rest: int, earlier: bool) -> None:
        told.append(({hint.ref: hint.counted_through for hint in hints}, rest, earlier))

    held.on_counted(counted)
    following.subscribe(["acme"], [])
    first = snapshot(5, customer(hint=4))
    first.snapshot.counted_through = 3
    following.receive(first, received_at=1.0)
    hints = feed.BalanceHints(hints=customer(hint=4).hints, counted_through=2)
    following.receive(feed.FollowResponse(hints=hints), received_at=2.0)
    complete = feed.BalanceHints(counted_through=7, complete=True, earlier_counted=True)
    following.receive(feed.FollowResponse(hints=complete), received_at=3.0)
    assert told == [({REF: 3}, 0, False), ({REF: 3}, 0, False), ({}, 7, True)]


def test_it_says_when_its_view_was_confirmed() -> None:
    """So that it hears of the balances that changed while it was away; a view that never was confirmed says nothing."""
    held = view()
    following = Follower(held)
    (never,) = following.start(session.Holder(), "test")
    assert not never.start.HasField("as_of")
    following.receive(snapshot(5, customer()), received_at=1.0)
    beat = feed.Heartbeat(revision=5)
    beat.now.FromSeconds(1_900_000_000)
    following.receive(feed.FollowResponse(heartbeat=beat), received_at=2.0)
    (again,) = following.start(session.Holder(), "test")
    assert again.start.as_of.ToSeconds() == 1_900_000_000
