"""The feed's state machine: a message comes in, the view changes, messages go back. No thread, no clock, no socket."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import AmountOutOfRange
from sidecar.view.memory import Applied, View
from sidecar.view.pulse import Beat
from sidecar.view.states import BadState, reading

SUBSCRIBE_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Step:
    """What receiving one message asks of the shell: to send these, to obey this recall, to begin the stream anew."""

    send: tuple[feed.FollowRequest, ...] = ()
    obey: feed.Recall | None = None
    resume: bool = False
    problem: str = ""
    """Set when the message was bad: the old state stays."""


class Follower:
    """Follows one feed into one view. One call at a time, and what it says is sent before the next."""

    def __init__(self, view: View, wanted: Callable[[], Iterable[str]] = tuple) -> None:
        """Nothing is followed yet. `wanted()`: customers that every stream follows, whether they are held or not."""
        self._view = view
        self._wanted = wanted
        self._customers: set[str] = set()
        self._subjects: set[str] = set()
        self._fresh_start = False

    def start(self, holder: session.Holder, label: str) -> tuple[feed.FollowRequest, ...]:
        """The first messages of a stream: resume where the view stands, and subscribe what no chain of
        changes reaches.
        """
        customers, subjects, catalogs = self._view.held()
        self._customers, self._subjects = set(customers), set(subjects)
        first = feed.Start(
            holder=holder,
            label=label,
            generation=self._view.generation,
            revision=self._view.revision,
            customer_ids=[key for key, chained in customers.items() if chained],
            subject_ids=[key for key, chained in subjects.items() if chained],
            catalog_revisions=catalogs,
        )
        as_of = self._view.pulse.as_of()
        if as_of is not None:
            first.as_of.FromDatetime(as_of)
        self._fresh_start = self._view.revision == 0
        loose_customers = [key for key, chained in customers.items() if not chained]
        missing = [key for key in self._wanted() if key not in self._customers]
        self._customers.update(missing)
        loose_customers += missing
        loose_subjects = [key for key, chained in subjects.items() if not chained]
        return (feed.FollowRequest(start=first), *_subscriptions(loose_customers, loose_subjects))

    def subscribe(
        self, customer_ids: Sequence[str], subject_ids: Sequence[str]
    ) -> tuple[feed.FollowRequest, ...]:
        """Follow more."""
        self._customers.update(customer_ids)
        self._subjects.update(subject_ids)
        return tuple(_subscriptions(customer_ids, subject_ids))

    def receive(self, message: feed.FollowResponse, *, received_at: float) -> Step:
        """Takes one message over. `received_at`: monotonic seconds."""
        kind = message.WhichOneof("message")
        try:
            match kind:
                case "reset":
                    self._view.start_over(message.reset.generation)
                    self._fresh_start = True
                    return Step()
                case "snapshot":
                    self._hear_clock(message.snapshot, received_at)
                    return self._snapshot(message.snapshot)
                case "change":
                    self._hear_clock(message.change, received_at)
                    return self._change(message.change)
                case "hints":
                    self._view.apply_hints(
                        message.hints.hints,
                        counted_through=message.hints.counted_through,
                        complete=message.hints.complete,
                        earlier=message.hints.earlier_counted,
                        in_order=True,
                    )
                    return Step()
                case "recall":
                    return Step(obey=message.recall)
                case "heartbeat":
                    beat = message.heartbeat
                    self._view.pulse.beat(Beat(beat.revision, reading(beat.now), received_at))
                    return Step()
                case _:
                    return _bad(0, "a message of a kind that this version does not know")
        except (BadState, AmountOutOfRange) as error:
            return _bad(_revision_of(message), str(error))

    def _hear_clock(self, message: feed.Snapshot | feed.Change, received_at: float) -> None:
        """Before its states are compiled: what they say begins now must have begun here, too."""
        if message.HasField("now"):
            self._view.pulse.heard_clock(reading(message.now), received_at)

    def _snapshot(self, snapshot: feed.Snapshot) -> Step:
        customers = [state for state in snapshot.customers if state.customer_id in self._customers]
        subjects = [state for state in snapshot.subjects if state.subject_id in self._subjects]
        applied = self._view.apply(
            revision=snapshot.revision,
            catalogs=snapshot.catalogs,
            customers=customers,
            subjects=subjects,
            counted_through=snapshot.counted_through,
            advance=self._fresh_start,
        )
        self._fresh_start = False
        ack = feed.FollowRequest(ack=feed.Ack(revision=snapshot.revision))
        return Step(send=(ack, *self._dropped(applied)))

    def _change(self, change: feed.Change) -> Step:
        stands = self._view.revision
        # A change that leads nowhere is a part of a large one: its last part leads on.
        is_part = change.from_revision == change.to_revision
        if change.to_revision < stands or (change.to_revision == stands and not is_part):
            return Step(send=(feed.FollowRequest(ack=feed.Ack(revision=stands)),))
        if change.from_revision > stands:
            return Step(
                resume=True,
                problem=f"a change from {change.from_revision} came while the view stands at {stands}",
            )
        applied = self._view.apply(
            revision=change.to_revision,
            catalogs=change.catalogs,
            customers=[state for state in change.customers if state.customer_id in self._customers],
            subjects=[state for state in change.subjects if state.subject_id in self._subjects],
            counted_through=change.counted_through,
            advance=True,
        )
        ack = feed.FollowRequest(ack=feed.Ack(revision=change.to_revision))
        return Step(send=(ack, *self._dropped(applied)))

    def _dropped(self, applied: Applied) -> Iterator[feed.FollowRequest]:
        if not applied.evicted_customers and not applied.evicted_subjects:
            return
        self._customers.difference_update(applied.evicted_customers)
        self._subjects.difference_update(applied.evicted_subjects)
        yield feed.FollowRequest(
            unsubscribe=feed.Unsubscribe(
                customer_ids=applied.evicted_customers, subject_ids=applied.evicted_subjects
            )
        )


def _subscriptions(customer_ids: Iterable[str], subject_ids: Iterable[str]) -> Iterator[feed.FollowRequest]:
    wanted = [(True, key) for key in customer_ids] + [(False, key) for key in subject_ids]
    for first in range(0, len(wanted), SUBSCRIBE_MAX):
        part = wanted[first : first + SUBSCRIBE_MAX]
        yield feed.FollowRequest(
            subscribe=feed.Subscribe(
                customer_ids=[key for is_customer, key in part if is_customer],
                subject_ids=[key for is_customer, key in part if not is_customer],
            )
        )


def _bad(revision: int, problem: str) -> Step:
    nack = feed.FollowRequest(nack=feed.Nack(revision=revision, error=problem[:1000]))
    return Step(send=(nack,), problem=problem)


def _revision_of(message: feed.FollowResponse) -> int:
    if message.HasField("snapshot"):
        return message.snapshot.revision
    return message.change.to_revision if message.HasField("change") else 0
