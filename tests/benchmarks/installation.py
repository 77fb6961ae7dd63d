"""A control plane with customers in it, and sidecars: real processes, as users start them."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import purser
from tests.benchmarks import payloads
from tests.benchmarks.processes import ProcessFailed, Server
from tests.servers.process import free_port

CUSTOMERS = [f"cus_bench_{number:02}" for number in range(payloads.BATCH)]
CUSTOMER = CUSTOMERS[0]
PLAN = "bench"
CATALOG = """
purser: catalog/v1
units:
  usd: {name: US dollar, kind: currency, scale: 9}
meters:
  requests: {event: llm_inference, aggregate: count}
rate_cards:
  llm:
    event: llm_inference
    unit: usd
    by: model
    unknown: deny
    prices:
      text-gen-v3:
        - {dimension: input_tokens,  per: 1000, price: "0.003"}
        - {dimension: output_tokens, per: 1000, price: "0.012"}
features:
  chat: {type: metered, event: llm_inference, rate_card: llm}
plans:
  bench:
    entitlements:
      chat: {spends: usd, overage: deny, rate: [{meter: requests, limit: 60000000, per: PT1M}]}
    grants: [{unit: usd, amount: "900000", every: P1M}]
"""
_SEEDING_AT_ONCE = 16


@dataclass(slots=True)
class ControlPlane:
    """On SQLite, on the load's core, whenever nothing else wants that: the generator must not wait for it."""

    server: Server
    grpc_address: str
    rest_url: str

    @classmethod
    def start(cls, folder: Path, *, core: int) -> "ControlPlane":
        """Started, ready, with the catalog published and `CUSTOMERS` subscribed."""
        grpc_address, http_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
        server = Server(
            "clients.cli",
            "control-plane",
            "serve",
            f"--database=sqlite:///{folder}/control-plane.sqlite3",
            f"--grpc={grpc_address}",
            f"--http={http_address}",
            core=core,
            log=folder / "control-plane.log",
            yields=True,
        )
        plane = cls(server, grpc_address, f"http://{http_address}")
        server.wait_until(lambda: _is_ready(plane.rest_url))
        plane.post("/catalog/revisions", content=CATALOG)
        plane.subscribe(CUSTOMERS)
        return plane

    def post(self, path: str, *, content: str | None = None, **body: Any) -> None:
        """One change."""
        form: dict[str, Any] = (
            {"json": body}
            if content is None
            else {"content": content, "headers": {"Content-Type": "application/yaml"}}
        )
        httpx.post(f"{self.rest_url}/v1{path}", timeout=30, **form).raise_for_status()

    def subscribe(self, customer_ids: Iterable[str]) -> None:
        """Customers on the bench's plan."""
        asyncio.run(self._subscribe(list(customer_ids)))

    async def _subscribe(self, customer_ids: list[str]) -> None:
        turn = asyncio.Semaphore(_SEEDING_AT_ONCE)
        async with httpx.AsyncClient(base_url=f"{self.rest_url}/v1", timeout=60) as rest:

            async def one(customer_id: str) -> None:
                async with turn:
                    for path, body in (
                        ("/customers", {"id": customer_id, "name": customer_id}),
                        (
                            "/subscriptions",
                            {"id": f"sub_{customer_id}", "customer_id": customer_id, "plan": PLAN},
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
