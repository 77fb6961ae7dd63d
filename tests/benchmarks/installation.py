"""A control plane with customers in it, and sidecars: real processes, as users start them."""

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import purser
from tests.benchmarks import payloads
from tests.benchmarks.catalog import PLAN, catalog
from tests.benchmarks.load import Load
from tests.benchmarks.processes import ProcessFailed, Server
from tests.servers.process import free_port

_PREFIX = "cus_bench_"
CUSTOMERS = [f"{_PREFIX}{number:07}" for number in range(payloads.BATCH)]
CUSTOMER = CUSTOMERS[0]
_SEEDING_AT_ONCE = 16
_SQLITE = "control-plane.sqlite3"
_IDS = frozenset({"id", "name", "customer_id", "subscription_id"})
_ROWS_OF_A_CUSTOMER = (
    ("customers", "t.id = ?1"),
    ("subscriptions", "t.customer_id = ?1"),
    ("subscription_pins", "t.subscription_id = 'sub_' || ?1"),
)


@dataclass(slots=True)
class ControlPlane:
    """On SQLite, on the load's core, whenever nothing else wants that: the generator must not wait for it.

    Unless it is what is measured.
    """

    server: Server
    grpc_address: str
    rest_url: str
    folder: Path
    rest: httpx.Client

    @classmethod
    def start(cls, folder: Path, *, core: int, database: str = "", yields: bool = True) -> "ControlPlane":
        """Started, ready, with the catalog published; on SQLite, the default, `CUSTOMERS` are subscribed."""
        folder.mkdir(exist_ok=True)
        grpc_address, http_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
        server = Server(
            "clients.cli",
            "control-plane",
            "serve",
            f"--database={database or f'sqlite:///{folder / _SQLITE}'}",
            f"--grpc={grpc_address}",
            f"--http={http_address}",
            core=core,
            log=folder / "control-plane.log",
            yields=yields,
        )
        rest = httpx.Client(base_url=f"http://{http_address}/v1", timeout=60)
        plane = cls(server, grpc_address, f"http://{http_address}", folder, rest)
        server.wait_until(lambda: _is_ready(plane.rest_url))
        plane.publish()
        if not database:
            plane.populate(_PREFIX, len(CUSTOMERS))
        return plane

    def stop(self) -> None:
        self.rest.close()
        self.server.stop()

    def publish(self, level: int = 1, *, move: bool = False) -> int:
        """A new catalog, in which this is the level; `move`: for everybody. Its revision."""
        answer = self.post(f"/catalog/revisions?move={'all' if move else 'none'}", content=catalog(level))
        return int(answer["revision"])

    def post(self, path: str, *, content: str | None = None, **body: Any) -> Any:
        """One change, and what is answered."""
        form: dict[str, Any] = (
            {"json": body}
            if content is None
            else {"content": content, "headers": {"Content-Type": "application/yaml"}}
        )
        return self.rest.post(path, **form).raise_for_status().json()

    def populate(self, prefix: str, customers: int, plan: str = PLAN) -> list[str]:
        """Customers `prefix0000000`, … on the plan, straight into the tables: a million take seconds.

        Their rows are copies of those that the API made for one customer. Only on SQLite.
        """
        template = f"{prefix}template"
        self.subscribe([template], plan)
        with closing(sqlite3.connect(self.folder / _SQLITE, timeout=60)) as database, database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA cache_size = -400000")  # KiB
            for table, named_by in _ROWS_OF_A_CUSTOMER:
                columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
                # Every id that holds the template's name gets the new one instead.
                copied = ", ".join(
                    f"replace(t.{column}, ?1, n.id)" if column in _IDS else f"t.{column}"
                    for column in columns
                )
                database.execute(
                    "WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < ?3), "
                    "n(id) AS (SELECT printf(?2 || '%07d', i) FROM numbers) "
                    f"INSERT INTO {table} ({', '.join(columns)}) SELECT {copied} FROM n, {table} t WHERE {named_by}",
                    (template, prefix, customers),
                )
        return [f"{prefix}{number:07}" for number in range(customers)]

    def subscribe(self, customer_ids: Iterable[str], plan: str = PLAN) -> None:
        """Customers on a plan."""
        asyncio.run(self._subscribe(list(customer_ids), plan))

    async def _subscribe(self, customer_ids: list[str], plan: str) -> None:
        turn = asyncio.Semaphore(_SEEDING_AT_ONCE)
        async with httpx.AsyncClient(base_url=f"{self.rest_url}/v1", timeout=60) as rest:

            async def one(customer_id: str) -> None:
                async with turn:
                    for path, body in (
                        ("/customers", {"id": customer_id, "name": customer_id}),
                        (
                            "/subscriptions",
                            {"id": f"sub_{customer_id}", "customer_id": customer_id, "plan": plan},
                        ),
                    ):
                        (await rest.post(path, json=body)).raise_for_status()

            await asyncio.gather(*map(one, customer_ids))


@dataclass(slots=True)
class Sidecar:
    """On the server's core."""

    server: Server
    port: int
    http_url: str

    @classmethod
    def start(
        cls, plane: ControlPlane, folder: Path, *, core: int, durability: str, options: Iterable[str] = ()
    ) -> "Sidecar":
        """Started, perhaps not ready yet: the time until the first answer is the benchmark's to take."""
        folder.mkdir(exist_ok=True)
        port, http_port = free_port(), free_port()
        server = Server(
            "clients.cli",
            "sidecar",
            "serve",
            f"--control-plane={plane.grpc_address}",
            f"--data={folder}",
            f"--name={folder.name}",
            f"--grpc=127.0.0.1:{port}",
            f"--http=127.0.0.1:{http_port}",
            f"--durability={durability}",
            *options,
            core=core,
            log=folder / "sidecar.log",
        )
        return cls(server, port, f"http://127.0.0.1:{http_port}")

    def wait_until_ready(self) -> None:
        self.server.wait_until(lambda: _is_ready(self.http_url))

    def metric(self, name: str) -> float:
        """The sum of a metric's samples.

        Raises:
            ProcessFailed: it exports no such metric.
        """
        lines = httpx.get(f"{self.http_url}/metrics", timeout=10).text.splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        if not found:
            raise ProcessFailed(f"{self.http_url}/metrics has no {name}")
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def pending(self) -> float:
        """Records that wait for their upload."""
        return self.metric("purser_outbox_pending_records")

    def uploaded(self) -> tuple[float, float]:
        """Records that were booked so far, and when that was."""
        return self.metric("purser_upload_records_total"), time.perf_counter()

    def meet(self, customer_ids: Sequence[str]) -> None:
        """Asks about each until it knows them all: who is not known within a moment is refused."""
        check = payloads.check(customer_ids)

        def knows_all() -> bool:
            load = Load(self.port, in_flight=4)
            sample = load.run(check.method, check.bodies(), seconds=300, limit=len(customer_ids))
            try:
                for answer in sample.answers:
                    check.verify(answer)
            except payloads.WrongAnswer:
                return False
            return True

        self.server.wait_until(knows_all)

    def verify(self) -> None:
        """Asks with the client that apps use: answers are right, and a key counts once.

        Raises:
            WrongAnswer: they are not, and measuring makes no sense.
        """
        with purser.Client(f"127.0.0.1:{self.port}", timeout=15) as client:
            answers = [
                client.consume(
                    feature=payloads.FEATURE,
                    idempotency_key=f"verify-{self.port}-{key}",
                    customer_id=CUSTOMER,
                    event_name=payloads.EVENT_NAME,
                    measures=payloads.MEASURES,
                    attributes={"model": payloads.MODEL},
                )
                for key in ("a", "a", "b")
            ]
        found = [(bool(answer), answer.status) for answer in answers]
        if found != [(True, "ACCEPTED"), (True, "DUPLICATE"), (True, "ACCEPTED")]:
            raise payloads.WrongAnswer(f"{found}: {[answer.message for answer in answers]}")


def _is_ready(http_url: str) -> bool:
    try:
        return httpx.get(f"{http_url}/readyz", timeout=1).is_success
    except httpx.HTTPError:
        return False
