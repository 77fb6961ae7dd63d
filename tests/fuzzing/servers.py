"""A control plane that is sent bytes, and what its books say meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from unittest.mock import patch

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from sqlalchemy import func, select

from control_plane.db.metadata import all_tables
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.audit import audit
from control_plane.sweeper import Sweeper
from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from tests.integration.control_plane.leases.holder import content_hash, event, ref
from tests.integration.whole.installation import Office

SERVICE: Final = "purser.sync.v1.SyncService"
DEADLINE_SECONDS: Final = 10.0
"""Of any call: what takes longer hangs."""
COUNTED: Final = ("events", "postings", "leases", "dead_letters", "sessions", "refusals", "facts", "grants")

CATALOG: Final = """\
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  calls: {event: call, aggregate: count}
  peak: {event: call, aggregate: max, of: [size]}
rate_cards:
  api: {event: call, unit: credit, prices: [{dimension: size, per: 1, price: "0.5"}]}
features:
  api: {type: metered, meter: calls, rate_card: api}
  peak: {type: metered, meter: peak}
  sso: {type: switch}
  seats: {type: gauge}
plans:
  free: {entitlements: {api: {limit: 100, every: P1M, rate: [{limit: 60, per: PT1M}]}, peak: {limit: 9, every: P1M}}}
  paid:
    entitlements: {api: {spends: credit, rate: [{limit: 60, per: PT1M}]}, seats: {limit: 5}, sso: true}
    budgets: [{name: daily, unit: credit, limit: "50", every: P1D, anchor: calendar, overage: allow}]
"""

Answer = TypeVar("Answer")


class Target:
    """A control plane on a real port, customers with something to lose, and one sidecar that behaves."""

    def __init__(self, office: Office, sweeping: asyncio.Lock) -> None:
        """Publishes, subscribes, and opens the good sidecar's session. Each sweep takes the lock."""
        self.office = office
        self._sweeping = sweeping
        self.channel = grpc.insecure_channel(office.sync_address)
        self.leases: list[str] = []
        self.cursors: dict[tuple[str, str], int] = {}
        self.sent = 0
        office.publish(CATALOG)
        for customer_id, plan in (("acme", "paid"), ("free", "free"), ("good", "paid")):
            office.customer(customer_id, plan)
        office.post("/grants", id="paid", customer_id="acme", unit="credit", amount="100000")
        office.post("/grants", id="good", customer_id="good", unit="credit", amount="100000")
        self._stub = SyncServiceStub(self.channel)
        self._holder = session.Holder(outbox_id="good-outbox", incarnation_id="good-inc")
        opening = session.OpenSessionRequest(
            holder=self._holder, open_incarnations=[session.IncarnationState(incarnation_id="good-inc")]
        )
        self._epoch = self._stub.OpenSession(opening, timeout=DEADLINE_SECONDS).epoch

    def call(self, method: str, raw: bytes) -> tuple[grpc.StatusCode, bytes, status_pb2.Status | None]:
        """What these bytes are answered with."""
        rpc: Callable[..., bytes] = self.channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            return grpc.StatusCode.OK, rpc(raw, timeout=DEADLINE_SECONDS), None
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)
            return failed.code(), b"", cast("status_pb2.Status | None", rpc_status.from_call(failed))

    def follow(self, raws: Sequence[bytes]) -> tuple[grpc.StatusCode, list[bytes], status_pb2.Status | None]:
        """What a follower hears that says these things and then ends."""
        rpc: Callable[..., Iterator[bytes]] = self.channel.stream_stream(f"/{SERVICE}/Follow")
        heard: list[bytes] = []
        try:
            heard.extend(rpc(iter(raws), timeout=DEADLINE_SECONDS))
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)
            return failed.code(), heard, cast("status_pb2.Status | None", rpc_status.from_call(failed))
        return grpc.StatusCode.OK, heard, None

    def note(self, method: str, raw: bytes, answer: bytes) -> None:
        """Keeps what later requests need: which leases there are, and how far each outbox is."""
        if method == "AcquireLeases":
            for acquired in session.AcquireLeasesResponse.FromString(answer).acquired:
                self.leases += [lease.lease_id for lease in acquired.leases]
            del self.leases[:-40]
        elif method == "ReportBatch":
            holder = sync.ReportBatchRequest.FromString(raw).holder
            cursor = sync.ReportBatchResponse.FromString(answer).cursor
            self.cursors[holder.outbox_id, holder.incarnation_id] = cursor

    def is_well(self) -> None:
        """The good sidecar leases, spends and reports, and is answered as ever."""
        self.sent += 1
        wanted = session.Want(ref=ref("good"), feature="api", need=500, amount=500)
        acquiring = session.AcquireLeasesRequest(
            holder=self._holder, epoch=self._epoch, request_id=f"good-{self.sent}", wants=[wanted]
        )
        (acquired,) = self._stub.AcquireLeases(acquiring, timeout=DEADLINE_SECONDS).acquired
        assert not acquired.HasField("refusal"), acquired
        (lease,) = acquired.leases
        assert sum(piece.amount for piece in lease.slices) >= 500
        at = datetime.now(UTC)
        made = event("good", key=f"good-{self.sent}", at=at, measures={"size": "1"})
        used = sync.Usage(
            event=made, content_hash=content_hash(made), decided=True, decision_id=f"good-{self.sent}"
        )
        used.decided_at.FromDatetime(at)
        covered = [session.LeaseAmount(lease_id=lease.lease_id, amount=500)]
        used.charges.add(ref=ref("good"), covered=covered, exact="0.5", feature="api")
        batch = sync.ReportBatchRequest(
            holder=self._holder,
            first_seq=self.sent,
            last_seq=self.sent,
            records=[sync.Record(seq=self.sent, usage=used)],
        )
        response = self._stub.ReportBatch(batch, timeout=DEADLINE_SECONDS)
        assert response.cursor == self.sent
        assert not response.dead_letters, response

    def is_followed_well(self) -> None:
        """Who follows as it should hears of the customer that it asked for."""
        start = feed.Start(holder=self._holder, customer_ids=["good"])
        code, heard, _ = self.follow([feed.FollowRequest(start=start).SerializeToString()])
        assert code is grpc.StatusCode.OK
        reset, snapshot = (feed.FollowResponse.FromString(raw) for raw in heard[:2])
        assert reset.HasField("reset")
        (customer,) = snapshot.snapshot.customers
        assert (customer.customer_id, customer.subscriptions[0].plan) == ("good", "paid")

    def hold_good(self) -> None:
        """Every equation of the books, and the good customer's own numbers."""
        assert self.ask_books(audit) == []
        balance = self.office.balance("good", "wallet:credit")
        assert balance["overage"] == 0
        unsettled = balance["leased"] + balance["quarantined"]
        assert balance["available"] + unsettled + balance["spent"] == 100_000
        events = self.office.get("/events", customer_id="good", limit=500)["items"]
        assert len(events) == min(500, self.sent)

    @contextmanager
    def out_of_time(self) -> Iterator[None]:
        """What time alone brings about is booked before the block or after it."""
        lock, loop = self._sweeping, self.office._loop
        asyncio.run_coroutine_threadsafe(lock.acquire(), loop).result(60)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(lock.release)

    def counts(self) -> dict[str, int]:
        """How many rows the tables have that a refused request must not touch."""
        return self.ask_books(_counts)

    def ask_books(self, work: Callable[[UnitOfWork], Awaitable[Answer]]) -> Answer:
        """Reads."""
        return ask_books(self.office, work)

    def write_books(self, work: Callable[[UnitOfWork], Awaitable[None]]) -> None:
        """Changes them, as a command of an operator does."""
        database = self.office._running.database
        asyncio.run_coroutine_threadsafe(database.transact(work), self.office._loop).result(60)


def ask_books(office: Office, work: Callable[[UnitOfWork], Awaitable[Answer]]) -> Answer:
    """Reads a control plane's database, on its own loop."""

    async def read() -> Answer:
        async with office._running.database.read() as uow:
            return await work(uow)

    return asyncio.run_coroutine_threadsafe(read(), office._loop).result(60)


async def _counts(uow: UnitOfWork) -> dict[str, int]:
    tables = all_tables().tables
    columns = [
        select(func.count()).select_from(tables[name]).scalar_subquery().label(name) for name in COUNTED
    ]
    row = (await uow.connection.execute(select(*columns))).one()
    return dict(row._mapping)


def reason_of(status: status_pb2.Status | None) -> str:
    """The reason that ErrorInfo gives; it must be there, and ours."""
    assert status is not None, "every error has a status with details"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "purser.dev"
    return str(info.reason)


@contextmanager
def target(folder: Path, *, database: str | None = None, **flags: Any) -> Iterator[Target]:
    """One inside the block."""
    sweeping = asyncio.Lock()
    sweep = Sweeper.sweep

    async def sweep_alone(self: Sweeper, *, clean_up: bool) -> None:
        async with sweeping:
            await sweep(self, clean_up=clean_up)

    with ExitStack() as ending:
        ending.enter_context(patch.object(Sweeper, "sweep", sweep_alone))
        office = Office(folder, database=database, **flags)
        ending.callback(office.stop)
        ending.callback(office.rest.close)
        made = Target(office, sweeping)
        ending.callback(made.channel.close)
        yield made
