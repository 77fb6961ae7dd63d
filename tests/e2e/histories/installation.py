"""An installation of real processes that can be hurt: sidecars behind proxies, replicas, and a PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Flag, auto
from pathlib import Path
from typing import Any, Final, Self

import httpx

from control_plane.db.engine import create_engine
from control_plane.db.migrate import upgrade
from control_plane.db.unit_of_work import Database
from control_plane.ledger.audit import audit
from sidecar.outbox.port import Durability
from tests.e2e.fleet import ServerProcess, Sidecar, eventually
from tests.e2e.histories import books
from tests.e2e.histories.history import Account, History
from tests.e2e.histories.proxy import Proxies, Proxy
from tests.servers import PostgresServer
from tests.servers.preloads import FailingCalls, SetClock
from tests.servers.process import ServerFailed, free_port
from tests.servers.wire import Wire, why_no_wire

PRICE: Final = Decimal("0.003")
SEATS: Final = 3
ALLOWANCE: Final = 300
CATALOG: Final = f"""
purser: catalog/v1
units:
  credit: {{name: credit, kind: credit, scale: 3}}
meters:
  points: {{event: job, aggregate: sum, of: [points]}}
rate_cards:
  jobs: {{event: job, unit: credit, unknown: deny, prices: [{{dimension: points, per: 1, price: "{PRICE}"}}]}}
features:
  jobs: {{type: metered, event: job, rate_card: jobs, trouble: {{max_staleness: PT20S}}}}
  quota: {{type: metered, meter: points, trouble: {{max_staleness: PT20S}}}}
  seats: {{type: gauge}}
plans:
  prepaid: {{entitlements: {{jobs: {{spends: credit}}, seats: {{limit: {SEATS}}}}}}}
  metered: {{entitlements: {{quota: {{limit: {ALLOWANCE}, every: P1M, overage: deny}}}}}}
"""
# Short, so that a history of minutes has many of them, also beyond their end.
SETTINGS: Final = ("lease_ttl=PT6S", "grace=PT1S", "rate_ttl=PT4S", "max_staleness=PT20S")
DURABILITIES: Final = (Durability.POWER_LOSS, Durability.REMOTE, Durability.PROCESS_CRASH)
"""Of the sidecars, in turn."""
READ_SECONDS: Final = 60.0
_BOOKED: Final = "SELECT idempotency_key FROM events"
DISK_BYTES: Final = 256 * 1024 * 1024


class Weakness(Flag):
    """What can be done to a sidecar beyond what can be done to all."""

    NONE = 0
    FULL = auto()
    """Its disk is a small one of its own, and can be full."""
    FAILING = auto()
    """Calls of its disk can fail."""
    CLOCK = auto()
    """Its wall clock can be set. Not together with the one before: both want to be loaded first."""


@dataclass(slots=True)
class Machine:
    """A sidecar and what is around it."""

    sidecar: Sidecar
    way: Proxy
    """To the control plane."""
    wire: Wire | None
    """On which that way begins. None: the machine permits none."""
    durability: Durability
    weakness: Weakness
    disk: SmallDisk | None
    calls: FailingCalls | None
    clock: SetClock | None

    @property
    def name(self) -> str:
        """The sidecar's."""
        return self.sidecar.name


class SmallDisk:
    """A tmpfs of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerFailed(
                f"a disk that can be full is a tmpfs, and to mount one takes root: {done.stderr}"
            )
        self._folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """To the last byte."""
        with self._ballast.open("ab") as file:
            size = 1024 * 1024
            while size:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                except OSError:
                    size = size // 4096 // 2 * 4096  # tmpfs gives pages

    def free(self) -> None:
        """There is room again."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """For good."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class Installation:
    """`with Installation(folder, [Weakness.NONE] * 2, replicas=2) as installation`: everything runs and is ready."""

    def __init__(self, folder: Path, weaknesses: Sequence[Weakness], *, replicas: int) -> None:
        self.folder = folder
        self.machines: list[Machine] = []
        self.replicas: list[ServerProcess] = []
        self._weaknesses, self._replica_count = weaknesses, replicas
        self._exit = contextlib.ExitStack()
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as starting:
            self._start(starting)
            self._exit = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _start(self, exits: contextlib.ExitStack) -> None:
        self.postgres = exits.enter_context(PostgresServer())
        self.database = self.postgres.create_database()
        asyncio.run(upgrade(self.postgres.url(self.database)))
        proxies = exits.enter_context(Proxies())
        self.database_way = proxies.before(lambda: [("127.0.0.1", self.postgres.port)], free_port())
        ports = [(free_port(), free_port()) for _ in range(self._replica_count)]
        self.rest_way = proxies.before(lambda: [("127.0.0.1", http) for _, http in ports], free_port())
        self.rest = exits.enter_context(
            httpx.Client(base_url=f"http://{self.rest_way.address}/v1", timeout=10)
        )
        for number, (grpc, http) in enumerate(ports, 1):
            replica = self._replica(f"replica-{number}", grpc, http)
            exits.callback(replica.kill)
            replica.launch()
            self.replicas.append(replica)
        for number, weakness in enumerate(self._weaknesses):
            wire = None if why_no_wire() else exits.enter_context(Wire())
            way = proxies.before(lambda: [("127.0.0.1", grpc) for grpc, _ in ports], free_port(), wire)
            machine = self._machine(number, way, wire, weakness, exits)
            exits.callback(machine.sidecar.client.close)
            exits.callback(machine.sidecar.kill)
            self.machines.append(machine)
        for replica in self.replicas:
            replica.wait_until_ready()
        for machine in self.machines:
            machine.sidecar.launch()
        self.publish()
        for machine in self.machines:
            machine.sidecar.wait_until_ready()

    def _replica(self, name: str, grpc: int, http: int) -> ServerProcess:
        url = self.postgres.url(self.database).replace(
            f":{self.postgres.port}/", f":{self.database_way.port}/"
        )
        arguments = ["control-plane", "serve", "--database", url]
        arguments += ["--grpc", f"127.0.0.1:{grpc}", "--http", f"127.0.0.1:{http}"]
        arguments += [part for setting in SETTINGS for part in ("--set", setting)]
        return ServerProcess(name, arguments, ready_url=f"http://127.0.0.1:{http}/readyz", folder=self.folder)

    def _machine(
        self, number: int, way: Proxy, wire: Wire | None, weakness: Weakness, exits: contextlib.ExitStack
    ) -> Machine:
        name, durability = f"sidecar-{number + 1}", DURABILITIES[number % len(DURABILITIES)]
        folder = self.folder / f"{name}-machine"
        folder.mkdir()
        disk = SmallDisk(self.folder / name) if Weakness.FULL in weakness else None
        if disk is not None:
            exits.callback(disk.unmount)
        calls = FailingCalls(folder) if Weakness.FAILING in weakness else None
        clock = SetClock(folder) if Weakness.CLOCK in weakness else None
        sidecar = Sidecar(
            name,
            control_plane=way.address,
            folder=self.folder,
            options=("--durability", durability),
            module="tests.e2e.histories.set_clock" if clock else "clients.cli",
            environment=(calls.environment if calls else clock.environment if clock else {}),
        )
        return Machine(sidecar, way, wire, durability, weakness, disk, calls, clock)

    def lose_disk(self, machine: Machine) -> None:
        """Of a sidecar that does not run."""
        for entry in machine.sidecar.data.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "ballast":
                entry.unlink()

    def booked_keys(self) -> frozenset[str]:
        """Of all events in the database, by its own word. Raises psycopg.OperationalError where it is down."""
        return frozenset(key for (key,) in self.postgres.query(self.database, _BOOKED))

    def publish(self) -> None:
        """The catalog of these histories."""
        headers = {"Content-Type": "application/yaml"}
        response = self.rest.post("/catalog/revisions", content=CATALOG, headers=headers)
        assert response.is_success, response.text

    # What callers' people do, over REST, in whatever trouble

    def post(self, path: str, **body: Any) -> None:
        """Makes something, again and again until it is there."""

        def is_there() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                response = self.rest.post(path, json=body)
                if response.is_client_error and response.status_code != httpx.codes.CONFLICT:
                    raise AssertionError(f"{path} refuses {body}: {response.text}")
                return not response.is_server_error
            return False

        with self._changing:
            eventually(is_there, seconds=600, what=f"{path} takes {body}")

    def get(self, path: str, **params: Any) -> Any:
        """Reads something, again and again until it is answered."""
        found: list[Any] = []

        def is_read() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                response = self.rest.get(path, params=params)
                if response.is_success:
                    found.append(response.json())
            return bool(found)

        eventually(is_read, seconds=READ_SECONDS, what=f"{path} is answered")
        return found[0]

    def prepaid(self, history: History, customer_id: str) -> None:
        """A customer with an empty wallet, and seats."""
        self._customer(customer_id, "prepaid")
        history.has_account(Account(customer_id, "wallet:credit", PRICE, Decimal(0), SEATS))

    def metered(self, history: History, customer_id: str) -> None:
        """A customer with an allowance."""
        self._customer(customer_id, "metered")
        history.has_account(Account(customer_id, "allowance:quota", Decimal(1), Decimal(ALLOWANCE)))

    def top_up(self, history: History, customer_id: str, points: int) -> None:
        """So many points more for a wallet."""
        number = sum(one.customer_id == customer_id for one in history.grants)
        granted = history.grants_amount(f"grant-{customer_id}-{number}", customer_id, points * PRICE)
        self.post(
            "/grants",
            id=granted.grant_id,
            customer_id=customer_id,
            unit="credit",
            amount=f"{granted.amount}",
        )
        history.granted(granted)

    def _customer(self, customer_id: str, plan: str) -> None:
        self.post("/customers", id=customer_id, name=customer_id.title())
        self.post("/subscriptions", id=f"sub-{customer_id}", customer_id=customer_id, plan=plan)

    # What the books say

    def books(self, history: History, *, is_closed: bool = False) -> books.Books:
        """All of it, as of now."""
        mine = history.accounts
        return books.Books(
            events=tuple(event for event in books.read_events(self) if event.customer_id in mine),
            balances={
                (customer_id, name): balance
                for customer_id in mine
                for name, balance in books.read_balances(self, customer_id).items()
            },
            dead_letters=books.read_dead_letters(self),
            equations=tuple(asyncio.run(self._audit())),
            is_closed=is_closed,
            in_quarantine=books.read_quarantine(self) if is_closed else {},
        )

    async def _audit(self) -> list[str]:
        engine = create_engine(self.postgres.url(self.database))
        try:
            async with Database(engine).read() as uow:
                return await audit(uow)
        finally:
            await engine.dispose()
