"""A control plane that serves inside the test, and followers of its feed over real gRPC streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx

from control_plane.app import Running, running
from control_plane.config import settings_from
from control_plane.db.migrate import upgrade
from purser.sync.v1 import feed_pb2
from purser.sync.v1.session_pb2 import Holder
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceStub

PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def serving(database_url: str, **flags: object) -> AsyncIterator[Running]:
    """A control plane on free ports; the database is brought up first."""
    await upgrade(database_url)
    values = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "stop_seconds": 1} | flags
    async with running(settings_from(database=database_url, **values)) as control_plane:
        yield control_plane


@asynccontextmanager
async def rest_of(control_plane: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{control_plane.http_address}/v1", timeout=15) as client:
        yield client


@dataclass
class Follower:
    """A stream, and all that came on it. It checks the chain of revisions as a sidecar would."""

    call: "grpc.aio.StreamStreamCall[feed_pb2.FollowRequest, feed_pb2.FollowResponse]"
    messages: list[feed_pb2.FollowResponse] = field(default_factory=list)
    customers: dict[str, feed_pb2.CustomerState] = field(default_factory=dict)
    subjects: dict[str, feed_pb2.SubjectState] = field(default_factory=dict)
    catalogs: dict[int, feed_pb2.CatalogRevision] = field(default_factory=dict)
    recalls: list[feed_pb2.Recall] = field(default_factory=list)
    revision: int = 0
    generation: int = 0

    async def next(self) -> feed_pb2.FollowResponse:
        message = await asyncio.wait_for(self.call.read(), PATIENCE_SECONDS)
        if not isinstance(message, feed_pb2.FollowResponse):
            raise AssertionError(f"the stream ended: {await self.call.code()} {await self.call.details()}")  # noqa: TRY004
        self.messages.append(message)
        match message.WhichOneof("message"):
            case "reset":
                self.customers.clear()
                self.subjects.clear()
                self.catalogs.clear()
                self.generation = message.reset.generation
            case "snapshot":
                self._take(message.snapshot)
                self.revision = message.snapshot.revision
            case "change":
                assert message.change.from_revision == self.revision, "the chain is broken"
                self._take(message.change)
                self.revision = message.change.to_revision
            case "recall":
                self.recalls.append(message.recall)
            case _:
                pass
        return message

    def _take(self, states: feed_pb2.Snapshot | feed_pb2.Change) -> None:
        self.catalogs |= {catalog.revision: catalog for catalog in states.catalogs}
        self.subjects |= {state.subject_id: state for state in states.subjects}
        for state in states.customers:
            for held in state.subscriptions:
                assert held.catalog_revision in self.catalogs, "a catalog comes before what refers to it"
            self.customers[state.customer_id] = state

    async def until(self, holds: Callable[[], bool]) -> None:
        """Reads on until something holds of what has come."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                await self.next()

    async def subscribe(self, *customer_ids: str, subjects: tuple[str, ...] = ()) -> None:
        wanted = feed_pb2.Subscribe(customer_ids=customer_ids, subject_ids=subjects)
        await self.call.write(feed_pb2.FollowRequest(subscribe=wanted))


@asynccontextmanager
async def following(
    control_plane: Running, *customer_ids: str, incarnation: str = "i1", seen: Follower | None = None
) -> AsyncIterator[Follower]:
    """A follower of these customers; with `seen` it resumes from what that one had."""
    async with grpc.aio.insecure_channel(control_plane.grpc_address) as channel:
        call = SyncServiceStub(channel).Follow()
        start = feed_pb2.Start(
            holder=Holder(outbox_id="o1", incarnation_id=incarnation),
            label="test",
            generation=seen.generation if seen else 0,
            revision=seen.revision if seen else 0,
            customer_ids=[*customer_ids, *(seen.customers if seen else ())],
            catalog_revisions=list(seen.catalogs) if seen else (),
        )
        await call.write(feed_pb2.FollowRequest(start=start))
        follower = Follower(call)
        if seen is not None:
            follower.revision, follower.generation = seen.revision, seen.generation
            follower.catalogs, follower.customers = dict(seen.catalogs), dict(seen.customers)
        await follower.next()
        yield follower
        call.cancel()
