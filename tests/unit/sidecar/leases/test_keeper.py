"""The keeper, step by step, against a control plane that answers when the test says so."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.book import LeaseBook
from sidecar.leases.held import FRESH_SECONDS
from sidecar.leases.keeper import Keeper
from sidecar.leases.ports import Answered
from sidecar.leases.requests import Waiter, wire_ref
from sidecar.leases.terms import Grade, RemoteVerdict
from sidecar.runtime.clock import ManualClock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import NotWritten, Refused, Unreachable

WALLET = BalanceRef("acme", "", "wallet:usd")
OTHER = BalanceRef("acme", "", "allowance:chat")


class Short(NamedTuple):
    """As the engine's Shortfall."""

    ref: BalanceRef
    feature: str
    missing: int
    needed: int


class Draw(NamedTuple):
    """As the engine's."""

    ref: BalanceRef
    feature: str
    within: int
    beyond: int = 0


@dataclass
class FakePort:
    """Keeps what was sent until the test answers."""

    is_down: bool = False
    sent: list[tuple[session.AcquireLeasesRequest, Answered]] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)

    def acquire(
        self, request: session.AcquireLeasesRequest, timeout_seconds: float, answered: Answered
    ) -> None:
        """Sends nothing."""
        assert timeout_seconds > 0
        self.sent.append((request, answered))
        self.timeouts.append(timeout_seconds)


@dataclass
class FakeJournal:
    """Remembers what was written, or refuses."""

    failing: bool = False
    leases: list[str] = field(default_factory=list)
    returned: list[tuple[str, int]] = field(default_factory=list)

    def record_leases(self, leases: Sequence[session.PresentedLease]) -> None:
        """Writes leases."""
        self._check()
        self.leases += [lease.lease_id for lease in leases]

    def record_returns(self, amounts: Sequence[session.LeaseAmount]) -> Sequence[session.LeaseReturn]:
        """Writes returns."""
        self._check()
        written = []
        for a in amounts:
            self.returned.append((a.lease_id, a.amount))
            uid = session.RecordUid(outbox_id="o", incarnation_id="i", seq=len(self.returned))
            written.append(session.LeaseReturn(uid=uid, lease_id=a.lease_id, amount=a.amount))
        return written

    def _check(self) -> None:
        if self.failing:
            raise NotWritten("full")


@dataclass
class FakeSessions:
    """An open session, or none."""

    holder: session.Holder = field(default_factory=lambda: session.Holder(outbox_id="o", incarnation_id="i"))
    epoch: int | None = 1
    is_fenced: bool = False
    superseded_times: int = 0

    @property
    def opened(self) -> tuple[session.Holder, int] | None:
        """The session."""
        return None if self.epoch is None else (self.holder, self.epoch)

    def superseded(self) -> None:
        """The epoch does not hold any more."""
        self.superseded_times += 1
        self.epoch = None


@dataclass
class FakeUploads:
    """Counts kicks."""

    kicks: int = 0

    def kick(self) -> None:
        """One more."""
        self.kicks += 1


class Rig:
    """A keeper with everything around it in the test's hands."""

    def __init__(self) -> None:
        """All is well."""
        self.clock = ManualClock()
        self.book = LeaseBook()
        self.port = FakePort()
        self.journal = FakeJournal()
        self.sessions = FakeSessions()
        self.uploads = FakeUploads()
        self.answers: list[feed.Recalled] = []
        numbers = itertools.count(1)
        self.keeper = Keeper(
            self.book,
            port=self.port,
            journal=self.journal,
            sessions=self.sessions,
            uploads=self.uploads,
            clock=self.clock,
            random=Random(1),
            make_id=lambda: f"r{next(numbers)}",
            metrics=Metrics(CollectorRegistry()),
        )

    def ask(self, ref: BalanceRef = WALLET, needed: int = 75, *, seconds: float = 2.0) -> Waiter:
        """A call is short of all that it needs."""
        short = Short(ref, "chat", needed, needed)
        return self.keeper.ask([short], self.clock.monotonic() + seconds)

    def reply(self, index: int, reply: session.AcquireLeasesResponse | Unreachable | Refused) -> None:
        """The control plane answers, and the keeper steps."""
        self.port.sent[index][1](reply)
        self.keeper.step()

    def recall(self, *, revision: int = 4, idle_only: bool = True) -> None:
        """The control plane wants the wallet's leases back, and the keeper steps."""
        recall = feed.Recall(ref=wire_ref(WALLET), revision=revision, idle_only=idle_only, recall_id="x")
        self.keeper.recall(recall, self.answers.append)
        self.keeper.step()

    def fund(self, ref: BalanceRef = WALLET) -> int:
        """What may be spent."""
        found = self.book.funds([ref], "chat", self.clock.monotonic()).get(ref)
        return 0 if found is None else found.within

    def grade(self, waiter: Waiter, ref: BalanceRef = WALLET) -> Grade:
        """What the call was told."""
        return waiter.outcome[ref, "chat"].grade


@pytest.fixture
def rig() -> Rig:
    """A fresh one."""
    return Rig()


def granted(
    *amounts: int,
    revision: int = 1,
    ref: BalanceRef = WALLET,
    lease_id: str = "l",
    version: int = 1,
    available: int = 0,
) -> session.AcquireLeasesResponse:
    """A lease per want; 0: exhausted."""
    reply = session.AcquireLeasesResponse(revision=revision)
    for n, amount in enumerate(amounts):
        acquired = reply.acquired.add()
        acquired.hint.CopyFrom(session.BalanceHint(ref=wire_ref(ref), version=version, available=available))
        if amount:
            lease = acquired.leases.add(lease_id=f"{lease_id}{n}")
            lease.slices.add(grant_id="g", amount=amount)
            lease.ttl.FromSeconds(60)
            lease.ends_at.FromSeconds(1_000_060)
        else:
            acquired.refusal.kind = session.REFUSAL_KIND_EXHAUSTED
    return reply


def test_callers_of_one_balance_wait_together_and_several_balances_go_in_one_request(rig: Rig) -> None:
    """Two calls for one balance and one for another are one request with two wants. What is wanted is enough
    for all; the
    need is the smallest call's, so that none is refused because of the others.
    """
    first, second, third = rig.ask(needed=75), rig.ask(needed=25), rig.ask(OTHER, 5)
    rig.keeper.step()
    assert len(rig.port.sent) == 1
    wants = {w.ref.balance: w for w in rig.port.sent[0][0].wants}
    assert wants["wallet:usd"].need == 25
    assert wants["wallet:usd"].amount == 100
    assert wants["wallet:usd"].feature == "chat"
    assert wants["allowance:chat"].need == 5
    assert wants["allowance:chat"].feature == ""
    rig.ask(needed=10)
    rig.keeper.step()
    assert len(rig.port.sent) == 1
    rig.reply(0, granted(100, 5))
    assert first.is_done
    assert second.is_done
    assert third.is_done
    assert rig.grade(first) is Grade.GRANTED
    assert rig.fund() == 100


def test_what_a_call_lacks_is_asked_for_though_it_seems_to_be_there(rig: Rig) -> None:
    """Of one call another feature spends what is free for this one, too: it needs what it lacks, not the rest."""
    rig.ask(needed=30)
    rig.keeper.step()
    rig.reply(0, granted(30))
    rig.keeper.ask([Short(WALLET, "chat", 10, 30)], rig.clock.monotonic() + 2.0)
    rig.keeper.step()
    assert rig.port.sent[1][0].wants[0].need == 10


def test_a_refusal_is_for_those_that_it_was_asked_for(rig: Rig) -> None:
    """Who came while a larger request, or one for another feature, was on its way is asked for next."""
    large = rig.ask(needed=75)
    rig.keeper.step()
    small = rig.ask(needed=5)
    other = rig.keeper.ask([Short(WALLET, "image", 90, 90)], rig.clock.monotonic() + 2.0)
    rig.reply(0, granted(0, available=10))
    assert rig.grade(large) is Grade.EXHAUSTED
    assert not small.is_done
    assert rig.port.sent[1][0].wants[0].need == 5
    rig.reply(1, granted(5, lease_id="m"))
    assert rig.grade(small) is Grade.GRANTED
    assert other.outcome[WALLET, "image"].grade is Grade.GRANTED, "something came: it may decide again"


def test_what_was_asked_ahead_refuses_nobody(rig: Rig) -> None:
    """A renewal that gets nothing has recalled nothing: a call that came meanwhile is asked for itself."""
    rig.ask(needed=75)
    rig.keeper.step()
    rig.reply(0, granted(75))
    with rig.book.lock:
        rig.book.take([Draw(WALLET, "chat", 75)], rig.clock.monotonic())
    for _ in range(20):
        rig.clock.advance(0.3)
        rig.keeper.step()
        if len(rig.port.sent) > 1:
            break
    assert rig.port.sent[1][0].wants[0].need == 0
    waiter = rig.ask(needed=5)
    rig.reply(1, granted(0))
    assert not waiter.is_done
    assert rig.port.sent[2][0].wants[0].need == 5


def test_a_lease_is_in_the_outbox_before_it_is_spent(rig: Rig) -> None:
    """While the outbox takes nothing, nothing is installed; the request is repeated under its id until it can be."""
    waiter = rig.ask()
    rig.keeper.step()
    rig.journal.failing = True
    rig.reply(0, granted(75))
    assert rig.fund() == 0
    assert rig.grade(waiter) is Grade.UNREACHABLE
    rig.journal.failing = False
    rig.clock.advance(1)
    rig.keeper.step()
    assert rig.port.sent[1][0] == rig.port.sent[0][0]
    rig.reply(1, granted(75))
    assert rig.journal.leases == ["l0"]
    assert rig.fund() == 75


def test_a_lost_reply_is_asked_for_again_and_does_not_stretch_the_lease(rig: Rig) -> None:
    """The same request id brings the same leases, and their time counts from the first sending."""
    waiter = rig.ask()
    rig.keeper.step()
    rig.port.is_down = True
    rig.reply(0, Unreachable("UNAVAILABLE"))
    assert rig.grade(waiter) is Grade.UNREACHABLE
    rig.port.is_down = False
    rig.clock.advance(40)
    rig.keeper.step()
    assert rig.port.sent[1][0].request_id == rig.port.sent[0][0].request_id
    rig.reply(1, granted(75))
    assert rig.fund() == 75
    rig.clock.advance(19.3)
    assert rig.fund() == 75
    rig.clock.advance(0.2)
    assert rig.fund() == 0
    rig.keeper.step()
    assert rig.journal.returned == [("l0", 75)]


def test_a_slow_control_plane_is_waited_for(rig: Rig) -> None:
    """As long as it is not known to be away, callers get what the repeat brings; from then on they are told at once."""
    waiter, other = rig.ask(seconds=30), rig.ask(OTHER, seconds=30)
    rig.keeper.step()
    for tried in range(2):
        rig.clock.advance(2)
        rig.reply(tried, Unreachable("DEADLINE_EXCEEDED"))
        assert not waiter.is_done
        rig.clock.advance(1)
        rig.keeper.step()
        assert rig.port.sent[tried + 1][0] == rig.port.sent[0][0]
    reply = granted(75)
    reply.acquired.add().refusal.kind = session.REFUSAL_KIND_EXHAUSTED
    rig.reply(2, reply)
    assert rig.grade(waiter) is Grade.GRANTED
    assert rig.grade(other, OTHER) is Grade.EXHAUSTED


def test_an_impatient_caller_leaves_others_their_time(rig: Rig) -> None:
    """The repeat of a request has a time of its own: where each way takes longer than the first caller had, it could
    never be answered, and nobody else would get anything.
    """
    rig.ask(seconds=0.1)
    rig.keeper.step()
    patient = rig.ask(seconds=30)
    rig.clock.advance(0.1)
    rig.reply(0, Unreachable("DEADLINE_EXCEEDED"))
    rig.clock.advance(1)
    rig.keeper.step()
    assert rig.port.timeouts == [pytest.approx(0.1), 2.0]
    rig.reply(1, granted(75))
    assert rig.grade(patient) is Grade.GRANTED


def test_a_control_plane_in_trouble_is_not_waited_for_and_asked_again_once_it_is_well(rig: Rig) -> None:
    """It said that it can not: callers are told at once, also those who come before it is asked again. When it is back
    nobody waits for the end of a pause.
    """
    waiter = rig.ask(seconds=30)
    rig.keeper.step()
    for tried in range(6):
        rig.reply(tried, Unreachable("UNAVAILABLE"))
        assert rig.grade(waiter) is Grade.UNREACHABLE
        waiter = rig.ask(seconds=30)
        assert rig.grade(waiter) is Grade.UNREACHABLE
        rig.clock.advance(6)
        rig.keeper.step()
    rig.reply(6, Unreachable("UNAVAILABLE"))
    sent = len(rig.port.sent)
    rig.keeper.reconnected()
    waiter = rig.ask(seconds=30)
    rig.keeper.step()
    assert len(rig.port.sent) == sent + 1
    rig.reply(sent, granted(75))
    assert rig.grade(waiter) is Grade.GRANTED


def test_what_is_known_to_be_away_is_not_waited_for(rig: Rig) -> None:
    """Known down: answered at once, nothing sent; and who already waits is told with the next step."""
    waiting = rig.ask()
    rig.port.is_down = True
    assert rig.grade(rig.ask()) is Grade.UNREACHABLE
    rig.keeper.step()
    assert rig.grade(waiting) is Grade.UNREACHABLE
    assert rig.port.sent == []


def test_a_final_refusal_is_remembered_until_the_balance_changes(rig: Rig) -> None:
    """The next call hears it from memory; a newer hint, a recall, or a change of the customer ends that."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(0, version=5))
    assert rig.grade(rig.ask()) is Grade.EXHAUSTED
    rig.keeper.hints([session.BalanceHint(ref=wire_ref(WALLET), version=5)])
    assert rig.grade(rig.ask()) is Grade.EXHAUSTED
    rig.keeper.hints([session.BalanceHint(ref=wire_ref(WALLET), version=6)])
    assert not rig.ask().is_done
    rig.keeper.step()
    assert len(rig.port.sent) == 2
    rig.reply(1, granted(0, version=6))
    rig.keeper.forget(["acme"])
    assert not rig.ask().is_done


def test_a_refusal_that_a_hint_has_overtaken_is_not_remembered(rig: Rig) -> None:
    """The balance grew while the reply was under way: the next call asks again."""
    rig.ask()
    rig.keeper.step()
    rig.keeper.hints([session.BalanceHint(ref=wire_ref(WALLET), version=9)])
    rig.reply(0, granted(0, version=5))
    assert not rig.ask().is_done


def test_held_by_others_is_honoured_for_its_time(rig: Rig) -> None:
    """Until `retry_after` has passed, it is answered from memory; then the control plane is asked again."""
    rig.ask()
    rig.keeper.step()
    reply = granted(0)
    reply.acquired[0].refusal.kind = session.REFUSAL_KIND_HELD_BY_OTHERS
    reply.acquired[0].refusal.retry_after.FromMilliseconds(500)
    rig.reply(0, reply)
    again = rig.ask()
    assert again.outcome[WALLET, "chat"].grade is Grade.HELD_BY_OTHERS
    assert again.outcome[WALLET, "chat"].retry_after_seconds == pytest.approx(0.5)
    rig.clock.advance(0.6)
    assert not rig.ask().is_done


def test_a_cut_is_obeyed_and_overtakes_a_reply_that_is_older(rig: Rig) -> None:
    """What is free goes into the outbox and up at once; a lease of an older revision is given back on arrival."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(75, revision=3))
    with rig.book.lock:
        rig.book.take([Draw(WALLET, "chat", 25)], rig.clock.monotonic())
    rig.ask(needed=100)
    rig.keeper.step()
    rig.recall(revision=4, idle_only=False)
    assert [answer.last_seq for answer in rig.answers] == [1]
    assert rig.journal.returned == [("l0", 50)]
    assert rig.uploads.kicks == 1
    assert rig.fund() == 0
    rig.reply(1, granted(100, revision=3, lease_id="m"))
    assert rig.fund() == 0
    assert rig.journal.returned == [("l0", 50), ("m0", 100)]
    rig.ask(needed=10)
    rig.keeper.step()
    rig.reply(2, granted(10, revision=4, lease_id="n"))
    assert rig.fund() == 10


def test_a_recall_of_idle_slices_takes_them_whatever_their_revision(rig: Rig) -> None:
    """Somebody else needs them now; what is in use stays, and the answer names the leases it speaks of."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(75, revision=4))
    with rig.book.lock:
        rig.book.take([Draw(WALLET, "chat", 25)], rig.clock.monotonic())
    rig.clock.advance(1)
    rig.recall(revision=4)
    assert rig.journal.returned == [("l0", 50)]
    assert [(list(answer.lease_ids), answer.last_seq) for answer in rig.answers] == [(["l0"], 1)]


def test_what_others_wait_for_is_not_asked_for_ahead(rig: Rig) -> None:
    """What was given back for a caller elsewhere would not reach it: only a call that waits here asks for it."""
    rig.ask(needed=75)
    rig.keeper.step()
    rig.reply(0, granted(90))
    with rig.book.lock:
        rig.book.take([Draw(WALLET, "chat", 75)], rig.clock.monotonic())
    rig.clock.advance(0.3)
    rig.recall()
    assert rig.journal.returned == [("l0", 15)]
    for _ in range(5):
        rig.clock.advance(0.3)
        rig.keeper.step()
    assert len(rig.port.sent) == 1
    rig.ask(needed=10)
    rig.keeper.step()
    assert len(rig.port.sent) == 2
    rig.reply(1, granted(10, lease_id="m"))
    with rig.book.lock:
        rig.book.take([Draw(WALLET, "chat", 10)], rig.clock.monotonic())
    rig.clock.advance(1.0)
    rig.keeper.step()
    assert len(rig.port.sent) == 3, "after a while, demand is met ahead again"


def test_a_recall_leaves_what_has_just_come_to_those_who_waited_for_it(rig: Rig) -> None:
    """It is answered at once without that lease, and again once what is left of it was returned."""
    rig.ask(needed=30)
    rig.keeper.step()
    rig.recall()
    assert [list(answer.lease_ids) for answer in rig.answers] == [[]]
    rig.reply(0, granted(100))
    assert rig.fund() == 100
    with rig.book.lock:
        rig.book.take([Draw(WALLET, "chat", 30)], rig.clock.monotonic())
    assert rig.journal.returned == []
    assert rig.keeper.step() < FRESH_SECONDS, "it must be looked at again soon"
    rig.clock.advance(FRESH_SECONDS)
    rig.keeper.step()
    assert rig.journal.returned == [("l0", 70)]
    assert [(list(answer.lease_ids), answer.last_seq) for answer in rig.answers] == [([], 0), (["l0"], 1)]
    rig.clock.advance(FRESH_SECONDS)
    rig.keeper.step()
    assert len(rig.answers) == 2, "nothing new is to be said"


def test_a_recall_that_can_not_be_written_is_not_answered(rig: Rig) -> None:
    """The amount stays spendable here."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(75))
    rig.clock.advance(1)
    rig.journal.failing = True
    rig.recall()
    assert rig.answers == []
    assert rig.fund() == 75


def test_returns_travel_with_the_next_request(rig: Rig) -> None:
    """Crumbs of a lease that ended are named by uid, so that the control plane counts them before it decides."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(75))
    rig.clock.advance(60)
    rig.ask()
    rig.keeper.step()
    returns = rig.port.sent[1][0].returns
    assert [(r.lease_id, r.amount, r.uid.seq) for r in returns] == [("l0", 75, 1)]


def test_while_cut_off_ended_leases_stay_for_finish_lease(rig: Rig) -> None:
    """Nothing is returned while the control plane is away; when it is back, the rest goes home."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(75))
    rig.port.is_down = True
    rig.clock.advance(120)
    rig.keeper.step()
    assert rig.journal.returned == []
    finishing = rig.book.funds([WALLET], "chat", rig.clock.monotonic(), rig.clock.monotonic() + 100)
    assert finishing[WALLET].within == 75
    rig.port.is_down = False
    rig.keeper.step()
    assert rig.journal.returned == [("l0", 75)]


def test_a_superseded_epoch_is_renewed_while_callers_wait(rig: Rig) -> None:
    """The session is opened anew, and the same callers are asked for again under the new epoch."""
    waiter = rig.ask()
    rig.keeper.step()
    rig.reply(0, Refused("FAILED_PRECONDITION", "superseded"))
    assert rig.sessions.superseded_times == 1
    assert not waiter.is_done
    rig.sessions.epoch = 2
    rig.keeper.step()
    assert rig.port.sent[1][0].epoch == 2
    assert rig.port.sent[1][0].request_id != rig.port.sent[0][0].request_id


def test_an_outbox_that_meets_its_installation_keeps_what_it_leased(rig: Rig) -> None:
    """The same incarnation under a name that now says more: nothing is dropped."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(75))
    rig.sessions.holder = session.Holder(outbox_id="o", incarnation_id="i", installation_id="home")
    rig.keeper.step()
    assert rig.fund() == 75


def test_another_incarnation_spends_nothing_of_the_earlier_one(rig: Rig) -> None:
    """When the outbox was set aside the book is empty, and a late reply to the old holder installs nothing."""
    rig.ask()
    rig.keeper.step()
    rig.reply(0, granted(75))
    rig.ask(OTHER, 5)
    rig.keeper.step()
    rig.sessions.holder = session.Holder(outbox_id="new", incarnation_id="j")
    rig.reply(1, granted(5, ref=OTHER, lease_id="m"))
    assert rig.fund() == 0
    assert rig.fund(OTHER) == 0
    assert rig.journal.leases == ["l0"]


def test_leases_are_renewed_ahead_of_their_callers(rig: Rig) -> None:
    """Below half of about ten seconds of the recent rate, more is asked for though nobody waits."""
    rig.ask(needed=10)
    rig.keeper.step()
    rig.reply(0, granted(200))
    for _ in range(100):
        with rig.book.lock:
            rig.book.take([Draw(WALLET, "chat", 1)], rig.clock.monotonic())
        rig.clock.advance(0.1)
        rig.keeper.step()
        if len(rig.port.sent) > 1:
            break
    want = rig.port.sent[1][0].wants[0]
    assert want.need == 0
    assert 0 < want.amount <= 100


def test_idle_leases_shrink_and_then_go_home(rig: Rig) -> None:
    """Without demand the rest is returned before the lease ends."""
    rig.ask(needed=10)
    rig.keeper.step()
    rig.reply(0, granted(200))
    with rig.book.lock:
        rig.book.take([Draw(WALLET, "chat", 10)], rig.clock.monotonic())
    for _ in range(50):
        rig.clock.advance(1)
        rig.keeper.step()
    assert sum(amount for _, amount in rig.journal.returned) == 190
    assert rig.fund() == 0


def test_a_process_that_stops_gives_back_everything_that_is_free(rig: Rig) -> None:
    """What is spent or held stays; all else is in the outbox as a return, and nothing can be spent any more."""
    rig.ask()
    rig.ask(OTHER, 5)
    rig.keeper.step()
    rig.reply(0, granted(75, 5))
    with rig.book.lock:
        rig.book.hold(rig.book.take([Draw(WALLET, "chat", 30)], rig.clock.monotonic()))
    assert rig.keeper.return_everything() == 2
    assert sorted(rig.journal.returned) == [("l0", 45), ("l1", 5)]
    assert rig.fund() == 0
    assert rig.keeper.return_everything() == 0


def test_a_process_that_stops_waits_for_what_it_asked_for(rig: Rig) -> None:
    """It asks for nothing more; what is on its way arrives, and goes back with the rest."""
    rig.ask()
    rig.keeper.step()
    rig.keeper.finish()
    late = rig.ask(OTHER, 5)
    rig.keeper.step()
    assert len(rig.port.sent) == 1
    assert rig.grade(late, OTHER) is Grade.UNREACHABLE
    assert rig.keeper.is_waiting()
    rig.reply(0, granted(100))
    assert not rig.keeper.is_waiting()
    assert rig.keeper.return_everything() == 1
    assert rig.journal.returned == [("l0", 100)]


def test_a_verdict_is_the_control_planes(rig: Rig) -> None:
    """A gauge is decided there; without an answer in time it is unreachable, and given up: it may have been allowed."""
    failure = _decide(rig, reply=None)
    assert failure == Grade.UNREACHABLE
    asked, given_up = (request for request, _ in rig.port.sent[-2:])
    assert [one.request_id for one in given_up.given_up] == [asked.request_id]
    reply = session.AcquireLeasesResponse()
    reply.acquired.add().verdict.CopyFrom(session.Verdict(allowed=True, used=3, limit=5))
    assert _decide(rig, reply=reply) is True
    want = rig.port.sent[-1][0].wants[0]
    assert (want.holder_id, want.need, want.adds, want.idempotency_key) == ("ann", 1, True, "k")


def test_a_verdict_that_came_to_nothing_is_given_up(rig: Rig) -> None:
    """By the request that asked for it; one that holds nothing is not."""
    gauge = BalanceRef("acme", "", "gauge:seats")
    allowed = RemoteVerdict(allowed=True, used=1, limit=2, request_id="r")
    rig.keeper.give_up_remote({gauge: allowed})
    (given_up,) = rig.port.sent[-1][0].given_up
    assert (given_up.ref.balance, given_up.request_id) == ("gauge:seats", "r")
    sent = len(rig.port.sent)
    rig.keeper.give_up_remote({gauge: RemoteVerdict(allowed=True, used=1, limit=2)})
    assert len(rig.port.sent) == sent


def test_nobody_waits_where_no_session_will_open(rig: Rig) -> None:
    """The control plane has declared this process dead: a call that is short hears at once that nothing can be had."""
    rig.sessions.epoch, rig.sessions.is_fenced = None, True
    waiter = rig.ask()
    rig.keeper.step()
    assert rig.grade(waiter) is Grade.UNREACHABLE
    assert not rig.port.sent


def test_giving_up_is_said_until_it_was_heard(rig: Rig) -> None:
    """Lost on the way, or while no session is open, it is said again; one message is under way at a time, and the
    next one names all that has come meanwhile.
    """
    gauge = BalanceRef("acme", "", "gauge:seats")

    def come_to_nothing(request_id: str) -> None:
        verdict = RemoteVerdict(allowed=True, used=1, limit=2, request_id=request_id)
        rig.keeper.give_up_remote({gauge: verdict})

    def said() -> list[list[str]]:
        return [[one.request_id for one in request.given_up] for request, _ in rig.port.sent]

    come_to_nothing("a")
    come_to_nothing("b")
    assert said() == [["a"]]
    assert rig.keeper.is_waiting(), "a process that stops waits for it"
    rig.port.sent[0][1](Unreachable("UNAVAILABLE"))
    rig.keeper.step()
    assert said() == [["a"]], "not at once"
    rig.clock.advance(2)
    rig.keeper.step()
    assert said() == [["a"], ["a", "b"]]
    rig.port.sent[1][1](Refused("FAILED_PRECONDITION", "open anew"))
    rig.clock.advance(2)
    rig.keeper.step()
    assert rig.sessions.superseded_times == 1
    assert len(said()) == 2, "no session is open"
    assert not rig.keeper.is_waiting(), "there is nobody to tell"
    rig.sessions.epoch = 2
    rig.keeper.step()
    assert said()[2] == ["a", "b"]
    rig.port.sent[2][1](session.AcquireLeasesResponse())
    rig.clock.advance(2)
    rig.keeper.step()
    assert len(said()) == 3
    assert not rig.keeper.is_waiting()


def test_another_incarnation_gives_nothing_of_it_up(rig: Rig) -> None:
    """The outbox was set aside meanwhile: what the old one asked for is let go when its session is closed."""
    rig.port.is_down = True
    gauge = BalanceRef("acme", "", "gauge:seats")
    rig.keeper.give_up_remote({gauge: RemoteVerdict(allowed=True, used=1, limit=2, request_id="r")})
    rig.port.is_down = False
    rig.sessions.holder = session.Holder(outbox_id="o2", incarnation_id="i2")
    rig.keeper.step()
    assert not [request for request, _ in rig.port.sent if request.given_up]
    assert not rig.keeper.is_waiting()


def _decide(rig: Rig, reply: session.AcquireLeasesResponse | None) -> object:
    original = rig.port.acquire

    def answering(request: session.AcquireLeasesRequest, timeout_seconds: float, answered: Answered) -> None:
        original(request, timeout_seconds, answered)
        answered(reply if reply is not None else Unreachable("UNAVAILABLE"))

    rig.port.acquire = answering  # type: ignore[method-assign]
    verdict = rig.keeper.decide_remote(
        BalanceRef("acme", "", "gauge:seats"),
        needed=1,
        holder_id="ann",
        adds=True,
        occurred_at=rig.clock.now(),
        idempotency_key="k",
        deadline=rig.clock.monotonic() + 1,
    )
    rig.port.acquire = original  # type: ignore[method-assign]
    return getattr(verdict, "allowed", None) or getattr(verdict, "grade", None)
