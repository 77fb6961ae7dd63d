"""The control plane: replicas of the real one on one SQLite file, which may die, and whose backup may be put back."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final
from unittest import mock

import httpx
from fastapi import FastAPI
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import CollectorRegistry
from sqlalchemy import event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import await_only

from control_plane.config import Settings
from control_plane.db.engine import create_engine
from control_plane.db.migrate import make_ready
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.faults import Faults
from control_plane.feed.poller import Poller
from control_plane.leases.installation import read_installation
from control_plane.leases.restored import mark_restored
from control_plane.metrics import Metrics
from control_plane.rest.app import create_app
from control_plane.rpc.service import SyncService
from control_plane.sweeper import Sweeper
from purser.sync.v1 import feed_pb2, sync_service_pb2
from tests.simulation.network import ServerContext, Stream
from tests.simulation.story import CUSTOMERS, Limits, catalog
from tests.simulation.threads import Hub

BASE: Final = datetime(2030, 1, 31, 23, 59, 52, tzinfo=UTC)
"""When every simulation begins: soon before an hour, a day and a month that was longer than the next end."""
HOUR_ENDS: Final = 8.0
"""When they do."""


class DirectCursor(sqlite3.Cursor):
    """What SQLAlchemy asks of an awaited cursor."""

    async def _async_soft_close(self) -> None:
        """Everything was fetched."""


class DirectConnection(sqlite3.Connection):
    """Whose cursors these are."""

    def cursor(self, factory: Any = DirectCursor) -> Any:
        """See sqlite3."""
        return super().cursor(factory)


class DirectDialect(SQLiteDialect_pysqlite):
    """SQLite without a thread in between: what is awaited is there at once, and always in the same order."""

    driver = "aiosqlite"
    is_async = True
    supports_statement_cache = True

    def connect(self, *args: Any, **options: Any) -> Any:
        """See SQLAlchemy."""
        return super().connect(*args, **options, factory=DirectConnection)

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        """See SQLAlchemy, which insists on something being awaited."""
        await_only(_nothing())
        cursor.execute(statement, parameters)

    def do_executemany(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        """See SQLAlchemy."""
        await_only(_nothing())
        cursor.executemany(statement, parameters)

    @classmethod
    def get_pool_class(cls, url: Any) -> type[AsyncAdaptedQueuePool]:
        """See SQLAlchemy."""
        return AsyncAdaptedQueuePool


async def _nothing() -> None:
    """Is there at once."""


def use_direct_sqlite() -> None:
    """For this process, from now on."""
    registry.register("sqlite.aiosqlite", __name__, DirectDialect.__name__)


class Broken(sqlite3.OperationalError):
    """The process of this connection is dead."""


class SlowDatabase(Database):
    """Its transactions take a while, one after the other: who comes meanwhile waits."""

    def __init__(self, engine: Any, *, clock: Callable[[], datetime], seconds: Callable[[], float]) -> None:
        super().__init__(engine, clock=clock)
        self._seconds = seconds
        self._busy = asyncio.Lock()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[UnitOfWork]:
        """Waits before it begins: the file's lock, held meanwhile, would block the thread that everybody shares."""
        async with self._busy:
            await asyncio.sleep(self._seconds())
            async with super().begin() as uow:
                yield uow


class Replica:
    """One process of the control plane."""

    def __init__(self, hub: Hub, path: Path, settings: Settings, commit_seconds: float) -> None:
        self.is_dead = False
        self._hub = hub
        self._tasks: set[asyncio.Task[Any]] = set()
        self.engine = create_engine(f"sqlite:///{path}")
        self._connections: list[Any] = []
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._before)
        event.listen(self.engine.sync_engine, "connect", lambda made, _: self._connections.append(made))
        clock = lambda: BASE + timedelta(seconds=hub.time())  # noqa: E731 read each time
        random = Random(f"{commit_seconds} {hub.time()}")
        self.database: Database
        if commit_seconds:
            self.database = SlowDatabase(
                self.engine, clock=clock, seconds=lambda: random.random() * commit_seconds
            )
        else:
            self.database = Database(self.engine, clock=clock)
        self.poller = Poller(self.database, monotonic=hub.time)
        self._settings = settings
        self.service: SyncService

    def _before(self, *_: object) -> None:
        if self.is_dead:
            raise Broken("the process is dead")

    async def start(self) -> None:
        """Serves from now on."""
        async with self.database.read() as uow:
            installation_id = await read_installation(uow)
        self._installation_id = installation_id
        self.service = SyncService(self.database, self.poller, self._settings.leases, installation_id)
        await self.poller.poll()
        metrics = Metrics(CollectorRegistry(), self.poller, self.database.kept(Faults))
        self.run(self.poller.run())
        self.run(Sweeper(self.database, self._settings, metrics).run())

    def run(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Until it dies."""
        task = self._hub.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.is_dead:
            self._hub.failures.append(f"control plane: {error!r}")

    async def answer(self, method: str, raw: bytes, context: ServerContext) -> bytes:
        """One unary call."""
        described = sync_service_pb2.DESCRIPTOR.services_by_name["SyncService"].methods_by_name[method]
        request = _message(described.input_type)
        request.ParseFromString(raw)
        response = await getattr(self.service, method)(request, context)
        answer: bytes = response.SerializeToString()
        return answer

    async def follow(self, stream: Stream, context: ServerContext) -> None:
        """The feed."""
        requests = stream.listen(feed_pb2.FollowRequest.FromString)
        await self.service.Follow(requests, context)  # type: ignore[arg-type]

    def close_connections(self) -> None:
        """As the machine does when a process is gone."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def kill(self) -> None:
        """Everything it does ends, wherever it stands."""
        self.is_dead = True
        for task in list(self._tasks):
            task.cancel()


@cache
def _rest_app() -> FastAPI:
    """Making one takes a tenth of a second; its database is set before each use."""
    database: Any = None
    return create_app(database, ready=lambda: None, registry=CollectorRegistry())


def _message(described: Any) -> Any:
    return GetMessageClass(described)()


class Plane:
    """All replicas and their database."""

    def __init__(
        self, hub: Hub, folder: Path, template: Path, settings: Settings, commit_seconds: float = 0.0
    ) -> None:
        """`template`: a migrated, empty database. `commit_seconds`: the longest that a transaction takes."""
        self._hub = hub
        self._commit_seconds = commit_seconds
        self._settings = settings
        self.path = folder / "control-plane.sqlite3"
        self._backup = folder / "backup.sqlite3"
        shutil.copy(template, self.path)
        self.replicas: list[Replica] = []
        self._all: list[Replica] = []
        self.restores = 0

    @property
    def alive(self) -> list[Replica]:
        """Those that serve."""
        return [replica for replica in self.replicas if not replica.is_dead]

    async def start_replica(self) -> Replica:
        """One more."""
        replica = Replica(self._hub, self.path, self._settings, self._commit_seconds)
        await replica.start()
        self.replicas.append(replica)
        self._all.append(replica)
        return replica

    def kill(self, replica: Replica) -> None:
        """`kill -9`."""
        replica.kill()
        self.replicas.remove(replica)

    async def close(self) -> None:
        """Ends everything that ever ran here."""
        for replica in list(self.alive):
            self.kill(replica)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for replica in self._all:
            replica.is_dead = False  # its connections can be ended
            await replica.engine.dispose()

    @staticmethod
    def instant(seconds: float) -> str:
        """So long after the beginning, as REST takes it."""
        return (BASE + timedelta(seconds=seconds)).isoformat()

    def back_up(self) -> None:
        """A copy of the books as they stand."""
        with closing(sqlite3.connect(self.path)) as books, closing(sqlite3.connect(self._backup)) as copy:
            books.backup(copy)

    async def restore(self) -> bool:
        """Puts the last copy back while no replica runs, and says so. False: there is no copy."""
        if not self._backup.exists():
            return False
        assert not self.alive
        for _ in range(10):  # what was under way ends
            await asyncio.sleep(0)
        for replica in self._all:
            replica.close_connections()
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(self._backup, self.path)
        engine = create_engine(f"sqlite:///{self.path}")
        database = Database(engine, clock=lambda: BASE + timedelta(seconds=self._hub.time()))
        await database.transact(mark_restored)
        await database.close()
        self.restores += 1
        return True

    def generation(self) -> int:
        """Of the books: another after each restore."""
        with closing(sqlite3.connect(self.path)) as books:
            found: int = books.execute("SELECT generation FROM revisions").fetchone()[0]
        return found

    async def has_seen_more(self, outbox_id: str, known: Mapping[str, int]) -> bool:
        """Than a disk that was put back knows of itself?"""
        with closing(sqlite3.connect(self.path)) as books:
            rows = books.execute(
                "SELECT incarnation_id, max(cursor, highest_seq) FROM sessions "
                "WHERE outbox_id = ? AND state != 'ended'",
                (outbox_id,),
            ).fetchall()
        return any(seen > known.get(incarnation_id, -1) for incarnation_id, seen in rows)

    def booked(self) -> dict[str, int]:
        """What is in the books at this instant: keys, and how many points of each."""
        with closing(sqlite3.connect(self.path)) as books:
            rows = books.execute(
                "SELECT idempotency_key, measures FROM events WHERE status != 'duplicate'"
            ).fetchall()
        return {key: int(json.loads(measures).get("points", "0")) for key, measures in rows}

    async def post(self, path: str, **body: Any) -> Any:
        """A change through REST, on some replica; what is None is left out."""
        return await _post(self._hub.random.choice(self.alive).database, path, **body)

    async def publish(self, text: str, **params: str) -> Any:
        """A catalog."""
        return await _publish(self._hub.random.choice(self.alive).database, text, **params)


def _rest(database: Database) -> httpx.AsyncClient:
    app = _rest_app()
    app.state.database = database
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://purser/v1")


async def _post(database: Database, path: str, **body: Any) -> Any:
    body = {name: value for name, value in body.items() if value is not None}
    return _body(await _rest(database).post(path, json=body or None))


async def _publish(database: Database, text: str, **params: str) -> Any:
    headers = {"Content-Type": "application/yaml"}
    return _body(
        await _rest(database).post("/catalog/revisions", content=text, headers=headers, params=params)
    )


def _body(answer: httpx.Response) -> Any:
    if not answer.is_success:
        raise RuntimeError(f"{answer.request.url}: {answer.status_code} {answer.text}")
    return answer.json()


def make_template(path: Path) -> None:
    """A database in which the catalog and its customers are, the same every time, for `Plane`."""

    async def make() -> None:
        engine = create_engine(f"sqlite:///{path}")
        await make_ready(engine)
        database = Database(engine, clock=lambda: BASE)
        await _publish(database, catalog(Limits()))
        for customer_id, sold in CUSTOMERS.items():
            await _post(database, "/customers", id=customer_id, name=customer_id)
            await _post(
                database, "/subscriptions", id=f"sub_{customer_id}", customer_id=customer_id, plan=sold.plan
            )
        await database.close()

    with ids_of("template"):
        asyncio.run(make())


@contextmanager
def ids_of(seed: str) -> Iterator[None]:
    """Inside the block the control plane draws the ids of a seed."""
    ids = Random(seed)
    with mock.patch(
        "control_plane.ledger.identity.secrets.token_hex",
        lambda size: f"{ids.getrandbits(8 * size):0{2 * size}x}",
    ):
        yield
