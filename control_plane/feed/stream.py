"""One follower's side of the feed: a state machine that says what to send next. It knows nothing of gRPC."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from control_plane.catalog.revisions import current_revision
from control_plane.db.types import EPOCH
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.errors import FieldProblem, Invalid
from control_plane.feed.cursors import Counted, read_cursors
from control_plane.feed.hints import missed_hints
from control_plane.feed.history import Changed, Standing, read_changed, read_standing
from control_plane.feed.poller import Batch, Listener, Poller
from control_plane.feed.states import catalog_state, catalogs_of, customer_states, subject_states, timestamp
from control_plane.leases.tables import holder_key
from purser.sync.v1.feed_pb2 import (
    BalanceHints,
    CatalogRevision,
    Change,
    CustomerState,
    FollowResponse,
    Heartbeat,
    Reset,
    Snapshot,
    Start,
    SubjectState,
)
from purser.sync.v1.session_pb2 import BalanceHint

MAX_FOLLOWED = 100_000
"""Customers and subjects of one stream."""
STATES_PER_MESSAGE = 500
HEARTBEAT_SECONDS = 1.0
HINTS_LATE = timedelta(seconds=5)
"""A heartbeat may be heard so much sooner than the balances as of that instant."""


class Stream:
    """Begin it once; then `subscribe`, `unsubscribe`, and `pull` when woken. Whatever they answer is sent in order."""

    def __init__(self, database: Database, poller: Poller, start: Start, wake: Callable[[], None]) -> None:
        self._database = database
        self._poller = poller
        self._start = start
        self._listener = Listener(holder_key(start.holder), wake)
        self._revision = start.revision
        self._restarts = poller.restarts
        self._catalogs = set(start.catalog_revisions)
        self._recalled: set[str] = set()
        self._hint_round = poller.hint_round
        self._counted_so_far = Counted()
        self._away_since: datetime | None = None
        self._heartbeat_at = float("-inf")
        self.acknowledged_revision = 0

    async def begin(self) -> Sequence[FollowResponse]:
        """Resumes where the follower was, with a change, or starts over with a reset and snapshots."""
        self._poller.join(self._listener)  # before anything is read: no change can fall between
        start = self._start
        self._follow(start.customer_ids, start.subject_ids)
        async with self._database.read() as uow:
            standing = await read_standing(uow)
            cause = _why_not_resumed(start.generation, start.revision, standing)
            if cause is None:
                as_of = start.as_of.ToDatetime(UTC) if start.HasField("as_of") else EPOCH
                self._away_since = as_of - HINTS_LATE
                return await self._catch_up(uow, even_if_empty=True)
            return await self._start_over(uow, standing, cause)

    def end(self) -> None:
        """Nothing is kept for it any more."""
        self._poller.leave(self._listener)

    async def subscribe(
        self, customer_ids: Sequence[str], subject_ids: Sequence[str]
    ) -> Sequence[FollowResponse]:
        """Follows these too; answers their states, as of the revision that the stream has then reached.

        Raises Invalid when it would follow too many.
        """
        self._follow(customer_ids, subject_ids)
        async with self._database.read() as uow:
            caught_up = await self._catch_up(uow)
            return [*caught_up, *await self._snapshots(uow, customer_ids, subject_ids)]

    def unsubscribe(self, customer_ids: Iterable[str], subject_ids: Iterable[str]) -> None:
        self._poller.unfollow(self._listener, customer_ids, subject_ids)

    def acknowledged(self, revision: int) -> None:
        """The follower has applied everything up to this revision."""
        self.acknowledged_revision = max(self.acknowledged_revision, revision)

    async def pull(self, monotonic: float) -> Sequence[FollowResponse]:
        """Everything that is due: changes, recalls, hints, the heartbeat."""
        heard = self._poller.heard
        if heard is None:
            return []
        messages: list[FollowResponse] = []
        if self._restarts != self._poller.restarts:
            messages += await self._restart()
        messages += await self._changes()
        messages += self._recalls()
        messages += await self._missed_hints()
        messages += self._hints()
        if heard.at_monotonic > self._heartbeat_at and monotonic - self._heartbeat_at >= HEARTBEAT_SECONDS:
            self._heartbeat_at = monotonic
            beat = Heartbeat(revision=max(heard.revision, self._revision), now=timestamp(heard.now))
            messages.append(FollowResponse(heartbeat=beat))
        return messages

    def _follow(self, customer_ids: Collection[str], subject_ids: Collection[str]) -> None:
        followed = len(self._listener.customers) + len(self._listener.subjects)
        if followed + len(customer_ids) + len(subject_ids) > MAX_FOLLOWED:
            problem = f"a stream follows at most {MAX_FOLLOWED} customers and subjects"
            raise Invalid(FieldProblem("customer_ids", problem))
        self._poller.follow(self._listener, customer_ids, subject_ids)

    async def _restart(self) -> Sequence[FollowResponse]:
        self._restarts = self._poller.restarts
        async with self._database.read() as uow:
            return await self._start_over(uow, await read_standing(uow), "the control plane was restored")

    async def _start_over(self, uow: UnitOfWork, standing: Standing, cause: str) -> Sequence[FollowResponse]:
        self._revision = standing.revision
        self._catalogs.clear()
        followed = self._listener
        return [
            FollowResponse(reset=Reset(generation=standing.generation, cause=cause)),
            *await self._snapshots(uow, followed.customers, followed.subjects, even_if_empty=True),
        ]

    async def _changes(self) -> Sequence[FollowResponse]:
        messages: list[FollowResponse] = []
        while self._poller.reached > self._revision:
            batch = self._poller.after(self._revision)
            if batch is None or not self._is_whole(batch):
                async with self._database.read() as uow:
                    messages += await self._catch_up(uow)
                break
            messages += self._from_batch(batch)
        return messages

    def _is_whole(self, batch: Batch) -> bool:
        """Was everything followed when the batch was read that this stream follows now?"""
        return (
            self._listener.customers & batch.changed.customers <= batch.customers.keys()
            and self._listener.subjects & batch.changed.subjects <= batch.subjects.keys()
        )

    def _from_batch(self, batch: Batch) -> Sequence[FollowResponse]:
        changed = batch.changed
        customers = [batch.customers[name] for name in sorted(self._listener.customers & changed.customers)]
        subjects = [batch.subjects[name] for name in sorted(self._listener.subjects & changed.subjects)]
        new = (changed.catalogs | catalogs_of(customers)) - self._catalogs
        self._catalogs |= new
        catalogs = [batch.catalogs[revision] for revision in sorted(new)]
        counted = batch.cursors.get(self._listener.holder, Counted())
        return self._lead_to(changed.to_revision, (batch.now, counted), catalogs, customers, subjects)

    async def _catch_up(self, uow: UnitOfWork, *, even_if_empty: bool = False) -> Sequence[FollowResponse]:
        changed: Changed = await read_changed(uow, after=self._revision)
        if changed.to_revision == self._revision and not even_if_empty:
            return []
        customers = list((await customer_states(uow, self._listener.customers & changed.customers)).values())
        subjects = list((await subject_states(uow, self._listener.subjects & changed.subjects)).values())
        catalogs = await self._new_catalogs(uow, customers)
        counted = await self._counted(uow)
        return self._lead_to(changed.to_revision, (uow.now, counted), catalogs, customers, subjects)

    async def _counted(self, uow: UnitOfWork) -> Counted:
        """How far the follower's records are counted in what this transaction reads."""
        holder = self._listener.holder
        return (await read_cursors(uow, [holder]))[holder]

    def _lead_to(
        self,
        revision: int,
        as_of: tuple[datetime, Counted],
        catalogs: Sequence[CatalogRevision],
        customers: Sequence[CustomerState],
        subjects: Sequence[SubjectState],
    ) -> Sequence[FollowResponse]:
        """Changes to `revision`. If the states need several messages, all but the last lead nowhere yet.

        `as_of`: when they were read, and how far the follower's records are counted in them.
        """
        messages = []
        now, counted = as_of
        first = self._revision
        parts = list(_parts(customers, subjects))
        for number, (some_customers, some_subjects) in enumerate(parts, start=1):
            change = Change(
                from_revision=first,
                to_revision=revision if number == len(parts) else first,
                catalogs=catalogs if number == 1 else (),
                customers=some_customers,
                subjects=some_subjects,
                now=timestamp(now),
                counted_through=counted.through,
            )
            messages.append(FollowResponse(change=change))
        self._revision = revision
        return messages

    async def _snapshots(
        self,
        uow: UnitOfWork,
        customer_ids: Collection[str],
        subject_ids: Collection[str],
        *,
        even_if_empty: bool = False,
    ) -> Sequence[FollowResponse]:
        customers = list((await customer_states(uow, customer_ids)).values())
        subjects = list((await subject_states(uow, subject_ids)).values())
        if not customers and not subjects and not even_if_empty:
            return []
        catalogs = await self._new_catalogs(uow, customers)
        counted = await self._counted(uow)
        return [
            FollowResponse(
                snapshot=Snapshot(
                    revision=self._revision,
                    catalogs=catalogs if number == 0 else (),
                    customers=some_customers,
                    subjects=some_subjects,
                    now=timestamp(uow.now),
                    counted_through=counted.through,
                )
            )
            for number, (some_customers, some_subjects) in enumerate(_parts(customers, subjects))
        ]

    async def _new_catalogs(
        self, uow: UnitOfWork, customers: Collection[CustomerState]
    ) -> Sequence[CatalogRevision]:
        newest = await current_revision(uow)
        wanted = catalogs_of(customers) | ({newest} if newest else set())
        new = sorted(wanted - self._catalogs)
        self._catalogs.update(new)
        return [await catalog_state(uow, revision) for revision in new]

    def _recalls(self) -> Sequence[FollowResponse]:
        open_recalls = self._poller.recalls_of(self._listener.holder)
        new = [recall for recall in open_recalls if recall.recall_id not in self._recalled]
        self._recalled = {recall.recall_id for recall in open_recalls}
        return [FollowResponse(recall=recall) for recall in new]

    def _hints(self) -> Sequence[FollowResponse]:
        newest: dict[str, Sequence[BalanceHint]] = {}
        counted = Counted()
        for one in self._poller.hints_after(self._hint_round):
            self._hint_round = one.number
            counted = one.cursors.get(self._listener.holder, counted)
            for customer_id in self._listener.customers & one.hints.keys():
                newest[customer_id] = one.hints[customer_id]
        return self._told(newest, counted)

    async def _missed_hints(self) -> Sequence[FollowResponse]:
        """Rounds say what has changed since the one before; who was away has not heard those."""
        since, self._away_since = self._away_since, None
        if since is None:
            return []
        async with self._database.read() as uow:
            missed = await missed_hints(uow, self._listener.customers, since)
            return self._told(missed, await self._counted(uow))

    def _told(self, hints: Mapping[str, Sequence[BalanceHint]], counted: Counted) -> Sequence[FollowResponse]:
        found = iter([hint for several in hints.values() for hint in several])
        messages: list[FollowResponse] = []
        while some := list(islice(found, STATES_PER_MESSAGE)):
            messages.append(FollowResponse(hints=BalanceHints(hints=some, counted_through=counted.through)))
        if messages or counted > self._counted_so_far:
            self._counted_so_far = counted
            messages = messages or [FollowResponse(hints=BalanceHints(counted_through=counted.through))]
            messages[-1].hints.complete = True
            messages[-1].hints.earlier_counted = counted.earlier
        return messages


def _why_not_resumed(generation: int, revision: int, standing: Standing) -> str | None:
    if generation == 0 or revision == 0:
        return "no view is held yet"
    if generation != standing.generation:
        return f"generation {generation} is over: the control plane was restored from a backup"
    if revision > standing.revision:
        return f"revision {revision} is not known here"
    if revision < standing.history_from:
        return f"the changes after revision {revision} are not kept any more"
    return None


def _parts(
    customers: Sequence[CustomerState], subjects: Sequence[SubjectState]
) -> Iterable[tuple[Sequence[CustomerState], Sequence[SubjectState]]]:
    """At most STATES_PER_MESSAGE of each at a time, and one empty part if there are none."""
    step = STATES_PER_MESSAGE
    for start in range(0, max(len(customers), len(subjects), 1), step):
        yield customers[start : start + step], subjects[start : start + step]
