"""One reader of the database for all streams of a process: what changed, what is wanted back, how balances stand."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import and_, exists, select
from sqlalchemy.exc import SQLAlchemyError

from control_plane.customers.tables import customers
from control_plane.db.among import among
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.feed.bus import Bus
from control_plane.feed.connected import Connected
from control_plane.feed.cursors import Counted, read_cursors
from control_plane.feed.hints import OVERLAP, hints_of
from control_plane.feed.history import Changed, read_changed, read_standing
from control_plane.feed.states import catalog_state, catalogs_of, customer_states, subject_states
from control_plane.leases.tables import HolderKey, leases, recall_answers, recalls
from control_plane.ledger.balances import changed_since
from purser.sync.v1.feed_pb2 import CatalogRevision, CustomerState, Recall, SubjectState
from purser.sync.v1.session_pb2 import BalanceHint, BalanceRef

POLL_SECONDS = 0.2
HINTS_SECONDS = 1.0
AFTER_ERROR_SECONDS = 1.0
KEPT_STATES = 20_000
"""States in all kept batches together; older batches go, and streams that still want them read for themselves."""
KEPT_HINT_ROUNDS = 30
RECALLS_LIVE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed, with the states of all that was followed when it was read."""

    changed: Changed
    customers: Mapping[str, CustomerState]
    subjects: Mapping[str, SubjectState]
    catalogs: Mapping[int, CatalogRevision]
    now: datetime
    """When it was read."""
    cursors: Mapping[HolderKey, Counted]
    """How far each listener's records are counted in it."""


@dataclass(frozen=True, slots=True)
class HintRound:
    """How the balances stand that changed since the round before, by customer; all others stand as they stood."""

    number: int
    hints: Mapping[str, Sequence[BalanceHint]]
    cursors: Mapping[HolderKey, Counted]
    """How far each listener's records are counted now, in these and in all others."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The last sign of life of the database."""

    generation: int
    revision: int
    now: datetime
    at_monotonic: float


@dataclass(eq=False, slots=True)
class Listener:
    """A stream as the poller knows it: whose it is, what it follows, how to wake it."""

    holder: HolderKey
    wake: Callable[[], None]
    customers: set[str] = field(default_factory=set)
    subjects: set[str] = field(default_factory=set)


class Poller:
    """Run `run` as a task. Streams join, pull `after` their revision, and are woken when there is something."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._bus = database.kept(Bus)
        self._connected = database.kept(Connected)
        self.monotonic = monotonic
        self._listeners: set[Listener] = set()
        self._customers: Counter[str] = Counter()
        self._subjects: Counter[str] = Counter()
        self._batches: deque[Batch] = deque()
        self._reached: int | None = None
        self._hints_due = 0.0
        self._hints_since: datetime | None = None
        self._hinted: dict[str, int] = {}
        self._hint_rounds: deque[HintRound] = deque(maxlen=KEPT_HINT_ROUNDS)
        self._round = HintRound(0, {}, {})
        self._recalls: Mapping[HolderKey, Sequence[Recall]] = {}
        self.heard: Heard | None = None
        self.restarts = 0
        self.closed = False
        database.on_revision(lambda _: self._bus.wake_feed())

    @property
    def streams(self) -> int:
        """How many listen."""
        return len(self._listeners)

    @property
    def hint_round(self) -> int:
        """The number of the newest round of hints."""
        return self._round.number

    def close(self) -> None:
        """The process goes: streams end, so that their followers go elsewhere."""
        self.closed = True
        for listener in self._listeners:
            listener.wake()

    def join(self, listener: Listener) -> None:
        """From now on its changes are kept for it. Join first, then read the state to begin with."""
        self._listeners.add(listener)
        self._connected.join(listener.holder)

    def leave(self, listener: Listener) -> None:
        self.unfollow(listener, set(listener.customers), set(listener.subjects))
        if listener in self._listeners:
            self._listeners.remove(listener)
            self._connected.leave(listener.holder)

    def follow(self, listener: Listener, customers: Iterable[str], subjects: Iterable[str]) -> None:
        _add(set(customers), listener.customers, self._customers)
        _add(set(subjects), listener.subjects, self._subjects)

    def unfollow(self, listener: Listener, customers: Iterable[str], subjects: Iterable[str]) -> None:
        _remove(set(customers), listener.customers, self._customers)
        _remove(set(subjects), listener.subjects, self._subjects)

    def after(self, revision: int) -> Batch | None:
        """The batch that leads on from this revision. None: it is the newest that was read, or is too old for what is
        kept; `reached` tells which.
        """
        for batch in self._batches:
            if batch.changed.from_revision <= revision < batch.changed.to_revision:
                return batch
        return None

    @property
    def reached(self) -> int:
        """The newest revision that was read; 0: none yet."""
        return self._reached or 0

    def hints_after(self, number: int) -> Sequence[HintRound]:
        """Rounds after this one, oldest first, as far as they are kept."""
        return [one for one in self._hint_rounds if one.number > number]

    def recalls_of(self, holder: HolderKey) -> Sequence[Recall]:
        """Recalls that this holder has not answered."""
        return self._recalls.get(holder, ())

    async def run(self) -> None:
        """Polls until it is cancelled; goes on after errors of the database."""
        log = structlog.get_logger("control_plane.feed")
        while True:
            try:
                await self.poll()
                await self._bus.wait_feed(POLL_SECONDS)
            except (SQLAlchemyError, OSError) as error:
                log.warning("feed_poll_failed", error=str(error))
                await self._bus.wait_feed(AFTER_ERROR_SECONDS)
            except Exception:  # a bug must not end the feed for good: without polls no heartbeat goes out
                log.exception("feed_poll_failed")
                await self._bus.wait_feed(AFTER_ERROR_SECONDS)

    async def poll(self) -> None:
        """Reads once what is new, and wakes the streams."""
        async with self._database.read() as uow:
            standing = await read_standing(uow)
            reached = self._reached
            if reached is None or self._moved_back(standing.generation, standing.revision):
                self._batches.clear()
                self.restarts += 1
                self._reached = standing.revision
            elif standing.revision > reached:
                self._keep(await self._read_batch(uow, reached))
                self._reached = standing.revision
            if self._listeners:
                self._recalls = await self._read_recalls(uow)
            self.heard = Heard(standing.generation, standing.revision, uow.now, self.monotonic())
        self._wake()
        if self._listeners and self.monotonic() >= self._hints_due:
            # Apart, and last: a fault in what is only shown must not keep back changes, recalls and the heartbeat.
            self._hints_due = self.monotonic() + HINTS_SECONDS
            async with self._database.read() as uow:
                await self._read_hints(uow)
            self._wake()

    def _wake(self) -> None:
        for listener in self._listeners:
            listener.wake()

    def _moved_back(self, generation: int, revision: int) -> bool:
        return self.heard is not None and (
            generation != self.heard.generation or revision < self.heard.revision
        )

    async def _read_batch(self, uow: UnitOfWork, reached: int) -> Batch:
        changed = await read_changed(uow, after=reached)
        customers = await customer_states(uow, changed.customers & self._customers.keys())
        subjects = await subject_states(uow, changed.subjects & self._subjects.keys())
        wanted = catalogs_of(customers.values()) | changed.catalogs
        catalogs = {revision: await catalog_state(uow, revision) for revision in sorted(wanted)}
        cursors = await read_cursors(uow, self._holders())
        return Batch(changed, customers, subjects, catalogs, uow.now, cursors)

    def _holders(self) -> Collection[HolderKey]:
        return {listener.holder for listener in self._listeners}

    def _keep(self, batch: Batch) -> None:
        self._batches.append(batch)
        while len(self._batches) > 1 and sum(1 + len(kept.customers) for kept in self._batches) > KEPT_STATES:
            self._batches.popleft()

    async def _read_recalls(self, uow: UnitOfWork) -> Mapping[HolderKey, Sequence[Recall]]:
        answered = exists().where(
            recall_answers.c.recall_id == recalls.c.id,
            recall_answers.c.outbox_id == leases.c.outbox_id,
            recall_answers.c.incarnation_id == leases.c.incarnation_id,
        )
        held = and_(leases.c.balance_id == recalls.c.balance_id, leases.c.state.in_(("open", "quarantined")))
        rows = await uow.connection.execute(
            select(recalls, leases.c.outbox_id, leases.c.incarnation_id)
            .distinct()
            .join(leases, held)
            .where(recalls.c.created_at > uow.now - RECALLS_LIVE, ~answered)
            .order_by(recalls.c.id)
        )
        here = self._holders()
        found: dict[HolderKey, list[Recall]] = {}
        for row in rows:
            holder = (row.outbox_id, row.incarnation_id)
            if holder in here:
                ref = BalanceRef(customer_id=row.customer_id, subject_id=row.subject_id, balance=row.name)
                recall = Recall(ref=ref, revision=row.revision, idle_only=row.idle_only, recall_id=row.id)
                found.setdefault(holder, []).append(recall)
        return found

    async def _read_hints(self, uow: UnitOfWork) -> None:
        for name in self._hinted.keys() - self._customers.keys():
            del self._hinted[name]
        since = self._hints_since or uow.now
        cursors = await read_cursors(uow, self._holders())
        wanted = await self._with_children(uow, await changed_since(uow, since - OVERLAP))
        found: dict[str, Sequence[BalanceHint]] = {}
        for name, several in (await hints_of(uow, wanted)).items():
            content = hash(tuple(hint.SerializeToString(deterministic=True) for hint in several))
            if self._hinted.get(name) != content:
                self._hinted[name] = content
                found[name] = several
        if found or cursors != self._round.cursors:
            self._round = HintRound(self._round.number + 1, found, cursors)
            self._hint_rounds.append(self._round)
        self._hints_since = uow.now

    async def _with_children(self, uow: UnitOfWork, changed: Collection[str]) -> Sequence[str]:
        """Followed customers among these, and those whose parent is among them: they show its budgets too."""
        wanted = set(changed) & self._customers.keys()
        if changed:
            children = await uow.connection.execute(
                select(customers.c.id).where(among(customers.c.parent_id, changed))
            )
            wanted |= self._customers.keys() & set(children.scalars())
        return sorted(wanted)


def _add(wanted: set[str], mine: set[str], all_of_them: Counter[str]) -> None:
    new = wanted - mine
    mine |= new
    all_of_them.update(new)


def _remove(unwanted: set[str], mine: set[str], all_of_them: Counter[str]) -> None:
    gone = unwanted & mine
    mine -= gone
    for name in gone:
        all_of_them[name] -= 1
        if not all_of_them[name]:
            del all_of_them[name]
