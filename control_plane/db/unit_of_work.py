"""The only committer: a transaction, its instant, and the one revision that orders what it changed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

import structlog
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from control_plane.db.engine import READ_ONLY, system_now
from control_plane.db.tables import feed, revisions
from control_plane.db.types import from_micros

Result = TypeVar("Result")
Kept = TypeVar("Kept")
Clock = Callable[[], datetime]

CLOSE_SECONDS = 5.0
"""How long `Database.close` waits for transactions that still run."""

RETRIED_SQLSTATES = frozenset({"40P01", "40001"})  # deadlock, serialization failure: nothing has happened
ATTEMPTS = 5


class ChangeKind(StrEnum):
    """What a feed row is about; its key is the thing's id."""

    CATALOG = "catalog"
    CUSTOMER = "customer"
    SUBJECT = "subject"


class UnitOfWork:
    """One transaction. Made by `Database.begin`, which commits it when its block ends well.

    `connection` runs statements; `now` is the transaction's one instant, UTC.
    """

    def __init__(self, connection: AsyncConnection, now: datetime, database: "Database") -> None:
        self.connection = connection
        self.now = now
        self._database = database
        self._changes: dict[tuple[ChangeKind, str], None] = {}
        self._revision: int | None = None
        self._sealed = False
        self._after_commit: list[Callable[[], None]] = []

    @property
    def revision(self) -> int | None:
        """The revision that this transaction took; None as long as, or if, it took none."""
        return self._revision

    @property
    def is_alone(self) -> bool:
        """Does nobody else write before this transaction has ended? So it is on SQLite."""
        return self._database.is_sqlite

    def change(self, kind: ChangeKind, key: str) -> None:
        """Says that followers must hear of this thing again. Repeats count once."""
        assert not self._sealed, "a change after the revision was taken would be missed"
        self._changes[ChangeKind(kind), key] = None

    def kept(self, kind: type[Kept]) -> Kept:
        """As `Database.kept`. What this transaction has not committed does not belong in it."""
        return self._database.kept(kind)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Calls back once everything is committed, and not at all otherwise. It must neither block nor raise."""
        self._after_commit.append(callback)

    async def take_revision(self) -> int:
        """The transaction's revision; every other change waits from here to the commit.

        Only for a change that writes the number down. See the lock order in the README.
        """
        if self._revision is None:
            taken = (
                update(revisions).values(revision=revisions.c.revision + 1).returning(revisions.c.revision)
            )
            revision: int = (await self.connection.execute(taken)).scalar_one()
            self._revision = revision
        return self._revision

    async def read_revision(self) -> int:
        """The newest revision that this transaction can see."""
        if self._revision is not None:
            return self._revision
        revision: int = (await self.connection.execute(select(revisions.c.revision))).scalar_one()
        return revision

    async def seal(self) -> None:
        """Takes the revision, if anything changed, and writes the feed: the last act before the commit.

        The commit does it by itself. Only who writes an answer down together with its revision calls it before.
        """
        if (self._changes or self._revision is not None) and not self._sealed:
            revision = await self.take_revision()
            rows = [
                {"revision": revision, "kind": kind.value, "key": key, "at": self.now}
                for kind, key in self._changes
            ]
            if rows:
                await self.connection.execute(insert(feed), rows)
        self._sealed = True

    def _committed(self) -> None:
        for callback in self._after_commit:
            callback()


class Database:
    """A database as the control plane uses it. `clock` None: the database's own, or on SQLite that of the process."""

    def __init__(self, engine: AsyncEngine, *, clock: Clock | None = None) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._clock = clock or (system_now if self.is_sqlite else None)
        self._sqlite_writer = asyncio.Lock()
        self._on_revision: list[Callable[[int], None]] = []
        self._kept: dict[type, object] = {}
        self._running: set[asyncio.Future[object]] = set()

    def kept(self, kind: type[Kept]) -> Kept:
        """What this process keeps of this database between transactions: one of each kind (a cache, the bus), made when
        first asked for.
        """
        if kind not in self._kept:
            self._kept[kind] = kind()
        kept = self._kept[kind]
        assert isinstance(kept, kind)
        return kept

    def on_revision(self, callback: Callable[[int], None]) -> None:
        """Calls back after each commit of this process that took a revision. It must neither block nor raise."""
        self._on_revision.append(callback)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that writes: commits at the end of the block, rolls back on any exception."""
        if self.is_sqlite:
            async with self._sqlite_writer, self._transaction() as uow:
                yield uow
        else:
            async with self._transaction() as uow:
                yield uow

    @asynccontextmanager
    async def read(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that only reads, everything as of one moment. `change` has no place in it."""
        async with self._connection() as connection:
            options = {READ_ONLY: True} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
            await connection.execution_options(**options)
            async with connection.begin():
                if not self.is_sqlite:
                    await connection.execute(text("SET TRANSACTION READ ONLY"))
                yield UnitOfWork(connection, await self._now(connection), self)

    async def transact(self, work: Callable[[UnitOfWork], Awaitable[Result]]) -> Result:
        """Runs `work` in a transaction; again from its start where a deadlock undid it.

        It runs to its end even when the caller is cancelled (its client went away, its time is over): a connection that
        is torn away in mid-transaction can keep a SQLite file locked for long. Who asks again hears what became of it.
        """

        async def once() -> Result:
            async with self.begin() as uow:
                return await work(uow)

        attempts = AsyncRetrying(
            retry=retry_if_exception(_nothing_happened),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.01, max=0.2),
            reraise=True,
        )
        running: asyncio.Future[Result] = asyncio.ensure_future(attempts(once))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(_hear_for_who_is_gone)
            raise

    async def close(self) -> None:
        """Waits for transactions that still run (a call's that was cancelled, see `transact`), then lets go.

        A connection that came back to its pool after that would stay open.
        """
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
        if self._running:
            structlog.get_logger("control_plane").warning("transactions cut off", open=len(self._running))
        await self.engine.dispose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._running.add(ended)
        try:
            async with self.engine.connect() as connection:
                yield connection
        finally:
            self._running.discard(ended)
            ended.set_result(None)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[UnitOfWork]:
        async with self._connection() as connection, connection.begin():
            uow = UnitOfWork(connection, await self._now(connection), self)
            yield uow
            await uow.seal()
        uow._committed()  # noqa: SLF001 - the two classes are one: the committer
        if uow.revision is not None:
            for callback in self._on_revision:
                callback(uow.revision)

    async def _now(self, connection: AsyncConnection) -> datetime:
        if self._clock is not None:
            return self._clock()
        micros = text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)")
        return from_micros((await connection.execute(micros)).scalar_one())


def _hear_for_who_is_gone(ended: asyncio.Future[Result]) -> None:
    """How a transaction ended whose caller was cancelled."""
    if not ended.cancelled() and (error := ended.exception()) is not None:
        structlog.get_logger("control_plane").warning(
            "transaction of a cancelled call failed", error=repr(error)
        )


def _nothing_happened(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) in RETRIED_SQLSTATES
