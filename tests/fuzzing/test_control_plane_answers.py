"""Whatever a control plane answers, or whoever takes itself for one: a sidecar goes on, spends no more than it was
granted, and is as ever once the answers are sound again.
"""

import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

import purser
from control_plane.ledger.audit import audit
from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from tests.e2e.fleet import eventually
from tests.fuzzing.between import Between, Failure
from tests.fuzzing.calm import within_process_memory, without_traceback
from tests.fuzzing.effort import NowAndThen, cases
from tests.fuzzing.servers import ask_books
from tests.fuzzing.wire import Damage, damages, mangled
from tests.integration.whole.installation import Aboard, Installation

GROWTH_MIB: Final = 200
"""So much more memory may thousands of odd answers ever need. No message is larger than 4 MiB."""
AGAIN_SECONDS: Final = 30.0
"""So long it may take until what was spoiled is tried again: waits grow."""
KINDS: Final = ("reset", "snapshot", "change", "hints", "recall", "heartbeat")
CATALOG: Final = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 0}
meters:
  calls: {event: call, aggregate: count}
rate_cards:
  jobs: {event: job, unit: credit, prices: [{dimension: points, per: 1, price: "1"}]}
features:
  jobs: {type: metered, event: job, rate_card: jobs}
  calls: {type: metered, meter: calls}
  seats: {type: gauge}
  sso: {type: switch}
plans:
  paid:
    entitlements:
      jobs: {spends: credit}
      calls: {limit: 1000000, every: P1M, rate: [{limit: 1000, per: PT1M}]}
      seats: {limit: 5}
      sso: true
"""


class Spoken:
    """A sidecar, its control plane, and who spoils what that says."""

    def __init__(self, folder: Path) -> None:
        """A customer that must always be served as ever, one that uses a lot, and one that was suspended."""
        self.installation = Installation(folder)
        self.office = self.installation.office
        self.office.publish(CATALOG)
        for customer_id in ("good", "busy", "closed"):
            self.new_customer(customer_id, amount=1_000_000)
        self.office.post("/customers/closed/suspend")
        self.between = Between(self.office.sync_address)
        self.aboard: Aboard = self.installation.sidecar(control_plane=self.between.address)
        self.sidecar = self.aboard.sidecar
        self.threads = threads()
        self.numbers = itertools.count(1)
        self.served = 0
        self.starts = 0

    def close(self) -> None:
        """All end."""
        self.between.cut()
        self.installation.close()
        self.between.close()

    def new_customer(self, customer_id: str, *, amount: int) -> None:
        """One with so much to spend."""
        self.office.customer(customer_id, "paid")
        if amount:
            self.office.post(
                "/grants", id=customer_id, customer_id=customer_id, unit="credit", amount=str(amount)
            )

    def consume(self, customer_id: str, **event: Any) -> purser.Decision | None:
        """Decided in time, in a way that callers know; None: whether it was, is not known."""
        key = f"k{next(self.numbers)}"
        try:
            return self.aboard.client.consume(customer_id=customer_id, idempotency_key=key, **event)
        except purser.Unavailable:
            return None

    def stands(self) -> list[feed.FollowRequest]:
        """It listens to the feed, its keeper obeys, and no thread has ended. What it has said on the feed since it was
        last looked at, in order.
        """
        name = f"recall-{next(self.numbers)}"
        ref = session.BalanceRef(customer_id="nobody", balance="wallet:credit")
        recall = feed.FollowResponse(recall=feed.Recall(ref=ref, revision=1, recall_id=name))
        heard = self.between.heard
        self.starts = -1

        def is_obeyed() -> bool:
            starts = sum(message.HasField("start") for message in heard)
            if starts != self.starts:
                # What was said before it began anew is lost with its stream.
                self.starts = starts
                self.between.say(recall.SerializeToString())
            return any(message.recalled.recall_id == name for message in list(heard))

        eventually(is_obeyed, seconds=AGAIN_SECONDS, what="the recall is obeyed")
        assert threads() == self.threads
        said, self.between.heard = heard, []
        return said

    def is_connected(self) -> None:
        """With sound answers it is, sooner or later."""
        sessions, pulse, link = self.sidecar._sessions, self.sidecar._pulse, self.sidecar._link
        eventually(
            lambda: sessions.opened is not None and pulse.is_connected and not link.is_down,
            seconds=AGAIN_SECONDS,
            what="it is connected",
        )

    def is_well(self) -> None:
        """With sound answers, from a feed that begins anew, everything is as ever."""
        self.between.be_sound()
        eventually(
            lambda: any(message.HasField("start") for message in list(self.between.heard)),
            seconds=AGAIN_SECONDS,
            what="the feed begins anew",
        )
        eventually(
            lambda: self.sidecar._view.revision > 0,
            seconds=AGAIN_SECONDS,
            what="it has states of all customers",
        )
        self.stands()
        self.is_connected()
        self.serves_the_good_one()
        eventually(self.sidecar._is_uploaded, seconds=AGAIN_SECONDS, what="everything is uploaded")
        assert ask_books(self.office, audit) == []
        assert len(self.office.events("good")) == min(500, self.served)

    def serves_the_good_one(self) -> None:
        """It is decided as ever, and so is who may not."""
        eventually(
            lambda: bool(self.aboard.client.check(customer_id="good", feature="sso")),
            seconds=AGAIN_SECONDS,
            what="the good customer may",
        )
        assert not self.aboard.client.check(customer_id="closed", feature="sso")
        call: dict[str, Any] = {"customer_id": "good", "event_name": "job", "measures": {"points": 1}}
        self.served += 1
        key = f"good-{self.served}"
        first = self.aboard.client.consume(idempotency_key=key, **call)
        second = self.aboard.client.consume(idempotency_key=key, **call)
        assert (first.allowed, first.status) == (True, "ACCEPTED"), first
        assert (second.status, second.decision_id) == ("DUPLICATE", first.decision_id)

    def granted(self, customer_id: str) -> int:
        """What leases of a customer's credits the sidecar was ever told of, in answers that can be read."""
        found: dict[str, int] = {}
        for asked, answered in self.between.acquired:
            request = session.AcquireLeasesRequest.FromString(asked)
            try:
                reply = session.AcquireLeasesResponse.FromString(answered)
            except DecodeError:
                continue
            for want, acquired in zip(request.wants, reply.acquired, strict=False):
                for lease in acquired.leases if want.ref.customer_id == customer_id else ():
                    amount = sum(max(0, piece.amount) for piece in lease.slices)
                    found.setdefault(lease.lease_id, amount)
        return sum(found.values())


def threads() -> Counter[str]:
    """Those that a sidecar lives by; not those that come and go with its callers."""
    names = [thread.name for thread in threading.enumerate()]
    return Counter(name for name in names if re.fullmatch("(purser|outbox)-[a-z]+", name))


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Spoken]:
    """One for all answers of a test: what one leaves behind is what the next one meets."""
    with within_process_memory(mib=GROWTH_MIB), without_traceback():
        made = Spoken(tmp_path)
        try:
            made.is_well()
            yield made
            made.is_well()
        finally:
            made.close()


def as_it_stands(spoken: Spoken) -> object:
    """All that decisions rest on but hints, which come at any time."""
    view = spoken.sidecar._view
    customers, subjects, catalogs = view.held()
    states = {key: entry.raw for key in customers if (entry := view.customer(key)) is not None}
    return view.generation, view.revision, states, subjects, catalogs, view.current_catalog


def samples(spoken: Spoken) -> dict[str, bytes]:
    """A message of each kind, as the control plane says it."""
    said = spoken.between.said
    hint = session.BalanceHint(version=1, granted=9, available=9)
    hint.ref.CopyFrom(session.BalanceRef(customer_id="good", balance="wallet:credit"))
    hint.next_expiry_at.FromSeconds(2_000_000_000)
    snapshot = feed.FollowResponse.FromString(said["snapshot"]).snapshot
    change = feed.Change(
        from_revision=snapshot.revision,
        to_revision=snapshot.revision + 1,
        customers=snapshot.customers,
        now=snapshot.now,
    )
    made = (
        feed.FollowResponse(change=change),
        feed.FollowResponse(hints=feed.BalanceHints(hints=[hint], counted_through=1, complete=True)),
        feed.FollowResponse(recall=feed.Recall(ref=hint.ref, revision=9, recall_id="r")),
    )
    return {str(one.WhichOneof("message")): one.SerializeToString() for one in made} | said


def test_any_message_on_the_feed(spoken: Spoken) -> None:
    """Damaged, in the wrong order, or of nothing: taken over, or answered with NACK, or the feed begins anew; what
    is not taken over changes nothing.
    """
    looks = NowAndThen(25, spoken.is_well)
    refused = Counter[str]()
    kinds = st.sampled_from(KINDS)

    @cases(200, shrinks=False)
    @given(
        kinds,
        kinds,
        st.lists(damages, min_size=1, max_size=3),
        st.one_of(st.none(), st.none(), st.none(), st.binary(max_size=40)),
    )
    def say(kind: str, other: str, all_damage: list[Damage], instead: bytes | None) -> None:
        known = samples(spoken)
        raw = mangled(known[kind], all_damage, known[other]) if instead is None else instead
        passed_on = spoken.between.passed_on
        spoken.stands()
        before = as_it_stands(spoken)
        spoken.between.say(raw)
        heard = {message.WhichOneof("message") for message in spoken.stands()}
        if "nack" in heard and spoken.between.passed_on == passed_on:
            assert as_it_stands(spoken) == before
            refused["nack"] += 1
        refused["start"] += "start" in heard
        looks.tried()

    say()
    assert min(refused["nack"], refused["start"]) > 5, refused


class Call(NamedTuple):
    """What an app asks for, and how much of the customer's credits that takes."""

    points: int
    event: dict[str, Any]


CALLS: Final = (
    Call(10, {"event_name": "job", "measures": {"points": 10}}),
    Call(10, {"event_name": "job", "measures": {"points": 10}}),
    Call(0, {"event_name": "call"}),
    Call(0, {"event_name": "seat", "feature": "seats", "holder_id": "ann", "gauge_change": "ADD"}),
)
RPCS: Final = ("AcquireLeases", "AcquireLeases", "AcquireLeases", "ReportBatch", "OpenSession")


@st.composite
def failures(draw: st.DrawFn) -> Failure:
    """Any error, with details that may be damaged."""
    code = draw(st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]))
    status = status_pb2.Status(code=code.value[0], message="spoiled")
    reason = draw(st.sampled_from(["SUPERSEDED", "ANOTHER_INSTALLATION", "GAP", "SHUTTING_DOWN", "x" * 300]))
    expected = draw(st.sampled_from(["1", "0", "-1", "9" * 19, "9" * 5000, "\u0663", "x"]))
    info = error_details_pb2.ErrorInfo(
        reason=reason, domain="purser.dev", metadata={"expected_seq": expected}
    )
    status.details.add().Pack(info)
    raw = mangled(status.SerializeToString(), draw(st.lists(damages, max_size=2)), b"")
    return Failure(code, raw[:6_000])  # no more fits into the headers of a call


def test_any_answer(spoken: Spoken) -> None:
    """Damaged, of nothing, or an error with whatever details: callers are answered in time, and nothing is spent but
    what an answer that can be read has granted.
    """
    looks = NowAndThen(25, spoken.is_well)

    @cases(60, shrinks=False)
    @given(
        st.sampled_from(RPCS),
        st.sampled_from(CALLS),
        st.lists(damages, min_size=1, max_size=3),
        st.one_of(st.none(), st.none(), st.none(), st.binary(max_size=40), failures()),
        st.booleans(),
        st.integers(1, 2),
    )
    def answer(
        rpc: str,
        call: Call,
        all_damage: list[Damage],
        instead: bytes | Failure | None,
        is_rich: bool,
        times: int,
    ) -> None:
        customer_id = f"c{next(spoken.numbers)}"
        spoken.new_customer(customer_id, amount=100 if is_rich else 5)
        spoken.is_connected()
        spoilt = itertools.count(1)

        def spoil(reply: bytes) -> bytes | Failure:
            if next(spoilt) > times:
                return reply
            return mangled(reply, all_damage, spoken.between.said["snapshot"]) if instead is None else instead

        before = spoken.between.answers[rpc]
        spoken.between.spoil(rpc, spoil)
        if rpc == "OpenSession":
            spoken.sidecar._sessions.reconnected()
        decision = spoken.consume(customer_id, **call.event)
        if rpc == "ReportBatch":
            spoken.consume("busy", event_name="call")
        eventually(
            lambda: spoken.between.answers[rpc] > before, seconds=AGAIN_SECONDS, what=f"{rpc} was spoiled"
        )
        if decision:
            assert call.points <= spoken.granted(customer_id)
        assert threads() == spoken.threads
        looks.tried()

    answer()
