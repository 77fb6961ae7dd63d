"""Random feeds, with gaps, repeats, losses, reconnects and restores, against a log that is applied from zero."""

from dataclasses import dataclass, field
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.view.follower import Follower
from sidecar.view.memory import View
from tests.unit.sidecar.view.states import NOW, catalog, customer, view

WHO: Final = ("acme", "bolt", "cube")
HOLDER: Final = session.Holder(outbox_id="o", incarnation_id="i")
Log = tuple[tuple[str, bool], ...]
"""Every change there was: who, and whether it is suspended from then on."""


changes = st.tuples(st.sampled_from(WHO), st.booleans())


def replayed(log: Log) -> dict[str, bool]:
    """What a log comes to: who exists, and whether it is suspended."""
    return dict(log)


@dataclass
class Office:
    """A control plane, as far as the feed goes: its log, and one stream."""

    generation: int = 1
    revision: int = 1
    log: Log = ()
    history: dict[int, Log] = field(default_factory=lambda: {1: ()})
    """The log as it was at each revision; a restore takes a new number, and an old log."""
    followed: set[str] = field(default_factory=set)
    sent: int = 0
    """The revision that the stream has reached."""
    queue: list[feed.FollowResponse] = field(default_factory=list)

    def write(self, log: Log, *, skip: int = 1) -> None:
        """The log is this from now on."""
        self.revision += skip
        self.log = log
        self.history[self.revision] = log

    def state(self, who: str) -> feed.CustomerState:
        """As the feed carries it."""
        stands = replayed(self.log)
        if who not in stands:
            return feed.CustomerState(customer_id=who, exists=False)
        return customer(who, suspended=stands[who])

    def begin(self, start: feed.Start) -> None:
        """A new stream; what was on its way on the old one is gone."""
        self.queue.clear()
        self.followed = set(start.customer_ids)
        if start.generation == self.generation and start.revision in self.history:
            self.sent = start.revision
            self.catch_up(even_if_empty=True)
        else:
            self.start_over()

    def start_over(self) -> None:
        """What is held is of no use."""
        self.queue.append(feed.FollowResponse(reset=feed.Reset(generation=self.generation)))
        self.sent = self.revision
        self.snapshot(self.followed)

    def snapshot(self, whom: set[str]) -> None:
        """States of these, as of now."""
        states = [self.state(who) for who in sorted(whom)]
        made = feed.Snapshot(revision=self.revision, catalogs=[catalog()], customers=states)
        self.queue.append(feed.FollowResponse(snapshot=made))

    def catch_up(self, *, even_if_empty: bool = False) -> None:
        """The change from what the stream has reached."""
        if self.sent == self.revision and not even_if_empty:
            return
        before = len(self.history[self.sent])
        changed = sorted({who for who, _ in self.log[before:]} & self.followed)
        made = feed.Change(
            from_revision=self.sent,
            to_revision=self.revision,
            catalogs=[catalog()],
            customers=[self.state(who) for who in changed],
        )
        self.queue.append(feed.FollowResponse(change=made))
        self.sent = self.revision


class FollowerMachine(RuleBasedStateMachine):
    """One follower, three customers, and a network that does what it likes with the messages."""

    @initialize(
        bound=st.sampled_from([2, 100, 100]),
        in_use_max=st.sampled_from([1, 100]),
        log=st.lists(changes, max_size=4),
    )
    def begin(self, bound: int, in_use_max: int, log: list[tuple[str, bool]]) -> None:
        """The stream is new; most is known already, or there is no room for all, or all but one are at rest."""
        self.office = Office()
        self.office.write(tuple(log))
        self.held: View = view(bound=bound, in_use_max=in_use_max)
        self.follower = Follower(self.held)
        self.delivered: list[feed.FollowResponse] = []
        self.is_whole = True
        """Nothing was lost since the stream began."""
        self.reconnect()
        for who in WHO:
            self.subscribe(who)
        self.deliver(len(self.office.queue))

    @rule()
    def reconnect(self) -> None:
        """The stream breaks and begins anew."""
        self.delivered.clear()
        self.is_whole = True
        first, *rest = self.follower.start(HOLDER, "test")
        self.office.begin(first.start)
        for message in rest:
            self._said(message)

    def _said(self, message: feed.FollowRequest) -> None:
        """What the follower says reaches the control plane."""
        match message.WhichOneof("message"):
            case "subscribe":
                self.office.catch_up()
                whom = set(message.subscribe.customer_ids)
                self.office.followed |= whom
                self.office.snapshot(whom)
            case "unsubscribe":
                self.office.followed -= set(message.unsubscribe.customer_ids)
            case "nack":
                self.is_whole = False
            case _:
                pass

    @rule(who=st.sampled_from(WHO))
    def subscribe(self, who: str) -> None:
        """Somebody asks for a customer who is not known here, or, by then, is."""
        for message in self.follower.subscribe([who], []):
            self._said(message)

    @rule(
        whom=st.lists(changes, min_size=1, max_size=2),
        skip=st.integers(1, 3),
        is_told=st.sampled_from([True, True, True, False]),
    )
    def write(self, whom: list[tuple[str, bool]], skip: int, is_told: bool) -> None:
        """Customers change; the stream is told at once, or later of several changes in one."""
        self.office.write((*self.office.log, *whom), skip=skip)
        if is_told:
            self.office.catch_up()

    @rule(kept=st.integers(0, 10), is_told=st.booleans())
    def restore(self, kept: int, is_told: bool) -> None:
        """The control plane is restored from a backup: the end of the log is gone, numbers go on."""
        self.office.generation += 1
        self.office.write(self.office.log[:kept], skip=10)
        if is_told:
            self.office.start_over()
        else:
            self.reconnect()

    @precondition(lambda self: self.office.queue)
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        """The next messages arrive."""
        for _ in range(count):
            if self.office.queue:
                self._receive(self.office.queue.pop(0))

    def _receive(self, message: feed.FollowResponse) -> None:
        if message.HasField("reset"):
            self.delivered.clear()
        self.delivered.append(message)
        step = self.follower.receive(message, received_at=1.0)
        for said in step.send:
            self._said(said)
        if step.resume:
            self.reconnect()

    @precondition(lambda self: self.delivered)
    @rule(pick=st.integers(0, 30))
    def deliver_again(self, pick: int) -> None:
        """A message arrives once more, however old."""
        message = self.delivered[pick % len(self.delivered)]
        if not message.HasField("reset"):
            self._receive(message)

    @precondition(lambda self: self.office.queue)
    @rule(pick=st.integers(0, 5))
    def lose(self, pick: int) -> None:
        """A message does not arrive."""
        self.office.queue.pop(pick % len(self.office.queue))
        self.is_whole = False

    @precondition(lambda self: len(self.office.queue) > 1)
    @rule()
    def overtake(self) -> None:
        """The next but one arrives first."""
        queue = self.office.queue
        queue[0], queue[1] = queue[1], queue[0]
        self.is_whole = False

    @precondition(lambda self: self.office.queue)
    @rule()
    def spoil(self) -> None:
        """One state of the next message can not be read: nothing of the message is taken over."""
        message = feed.FollowResponse()
        message.CopyFrom(self.office.queue[0])
        part = message.snapshot if message.HasField("snapshot") else message.change
        if message.HasField("reset") or not part.customers:
            return
        part.customers[-1].subscriptions.add(state="nonsense")
        before = self._known()
        step = self.follower.receive(message, received_at=1.0)
        stands = self.held.revision
        assert self._known() == before
        assert step.resume or step.problem or message.change.to_revision <= stands
        self.office.queue.pop(0)
        self.is_whole = False
        if step.resume:
            self.reconnect()

    def _known(self) -> tuple[int, dict[str, int]]:
        entries = {who: self.held.customer(who) for who in WHO}
        return self.held.revision, {who: one.revision for who, one in entries.items() if one is not None}

    @rule()
    def settle(self) -> None:
        """Everything arrives; where something was lost, the stream begins anew. Then all that is followed is known."""
        if not self.is_whole:
            self.reconnect()
        self.office.catch_up()
        while self.office.queue:
            self._receive(self.office.queue.pop(0))
        assert (self.held.generation, self.held.revision) == (self.office.generation, self.office.revision)
        stands = replayed(self.office.log)
        for who in self.office.followed:
            entry = self.held.customer(who)
            assert entry is not None
            assert entry.exists == (who in stands)
            assert entry.state().suspended == stands.get(who, False)

    @invariant()
    def what_is_held_is_what_was(self) -> None:
        """Whatever came: a customer is as the log has it at the revision that is said, and never a mixture."""
        if not hasattr(self, "held"):
            return
        for who in WHO:
            entry = self.held.customer(who)
            if entry is None or entry.revision == 0:
                continue  # not known; or from before a restore, and said to be unconfirmed
            stands = replayed(self.office.history[max(entry.revision, self.held.revision)])
            assert entry.exists == (who in stands), who
            assert entry.state().suspended == stands.get(who, False), who
            standing = self.held.compiled(entry, NOW).entitlements.standing
            assert (standing.name == "OK") == (stands.get(who) is False)


FollowerMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, derandomize=True
)
TestFollower = FollowerMachine.TestCase
TestFollower.__doc__ = (
    "However the feed comes, the view is what the log says at the revision that it stands at."
)
