"""A control plane and sidecars in the test's own process, over real gRPC: what only both together can show."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx

import purser
from control_plane.app import Running, running
from control_plane.config import settings_from as office_settings
from control_plane.db.migrate import upgrade
from sidecar.app import Sidecar
from sidecar.config import settings_from as sidecar_settings
from sidecar.edge import NetworkEdge
from sidecar.runtime.clock import SystemClock
from tests.e2e.fleet import eventually
from tests.servers.process import free_port

LOOK_SECONDS: Final = 10.0


class ShiftedClock:
    """The machine's clock, so far ahead as it was told to be."""

    def __init__(self) -> None:
        """On time."""
        self._clock = SystemClock()
        self._ahead = 0.0

    def now(self) -> datetime:
        """The wall clock."""
        return self._clock.now() + timedelta(seconds=self._ahead)

    def monotonic(self) -> float:
        """The counting clock."""
        return self._clock.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """So much passes at once."""
        self._ahead += seconds


class Office:
    """A control plane in a thread of its own, which can go away and come back on the same ports."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], datetime] | None = None,
        database: str | None = None,
        **flags: object,
    ) -> None:
        """On SQLite in `folder`, or on `database`; serves from now on."""
        self._url = database or f"sqlite+aiosqlite:///{folder}/control-plane.sqlite3"
        self.sync_address, self.rest_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self._flags = {"grpc": self.sync_address, "http": self.rest_address, "stop_seconds": 0.2} | flags
        self._clock = clock
        self.rest = httpx.Client(base_url=f"http://{self.rest_address}/v1", timeout=15)
        asyncio.run(upgrade(self._url))
        self.start()

    def start(self) -> None:
        """Comes (back)."""
        self._served = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="office")
        self._thread.start()
        assert self._served.wait(30), "the control plane did not come up"

    def stop(self) -> None:
        """Goes away."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(30)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        settings = office_settings(database=self._url, **self._flags)
        async with running(settings, clock=self._clock) as control_plane:
            self._running: Running = control_plane
            self._served.set()
            await self._stopped.wait()

    def publish(self, text: str) -> int:
        """Publishes a catalog: its revision."""
        headers = {"Content-Type": "application/yaml"}
        return int(_ok(self.rest.post("/catalog/revisions", content=text, headers=headers))["revision"])

    def post(self, path: str, **body: Any) -> Any:
        """One change: the answer's JSON."""
        return _ok(self.rest.post(path, json=body))

    def get(self, path: str, **params: Any) -> Any:
        """One answer."""
        return _ok(self.rest.get(path, params=params))

    def customer(self, customer_id: str, plan: str) -> int:
        """A customer on a plan: the revision."""
        self.post("/customers", id=customer_id, name=customer_id.title())
        answer = self.post("/subscriptions", id=f"sub_{customer_id}", customer_id=customer_id, plan=plan)
        return int(answer["revision"])

    def balance(self, customer_id: str, name: str) -> dict[str, Decimal]:
        """One balance in the books."""
        items = self.get(f"/customers/{customer_id}/balances")["items"]
        found = next(item for item in items if item["balance"] == name)
        amounts = ("available", "leased", "quarantined", "spent", "presumed", "ended", "overage")
        return {key: Decimal(found[key]) for key in amounts}

    def unsettled(self) -> Decimal:
        """What leases of all holders have neither spent nor returned."""
        found = Decimal(0)
        for lease in self.get("/leases", limit=500)["items"]:
            found += Decimal(lease["unsettled"])
        return found

    def events(self, customer_id: str) -> list[dict[str, Any]]:
        """The customer's events in the books; at most 500."""
        found: list[dict[str, Any]] = self.get("/events", customer_id=customer_id, limit=500)["items"]
        return found


def _ok(response: httpx.Response) -> Any:
    assert response.is_success, f"{response.request.url}: {response.status_code} {response.text}"
    return response.json()


@dataclass
class Aboard:
    """A sidecar that serves, and a client of it."""

    sidecar: Sidecar
    client: purser.Client
    clock: ShiftedClock

    @property
    def edge(self) -> NetworkEdge:
        """Where its callers come in."""
        edge = self.sidecar._edge
        assert isinstance(edge, NetworkEdge)
        return edge

    def knows_that_it_is_alone(self) -> None:
        """Waits until the sidecar has noticed that the control plane is gone."""
        pulse, link = self.sidecar._pulse, self.sidecar._link
        eventually(
            lambda: not pulse.is_connected and link.is_down,
            seconds=LOOK_SECONDS,
            what="the sidecar knows that it is alone",
        )

    def is_back(self) -> None:
        """Waits until feed and link are there again, and the view was confirmed: that takes a heartbeat more."""
        pulse, link = self.sidecar._pulse, self.sidecar._link

        def is_confirmed() -> bool:
            age = pulse.age_seconds(self.clock.monotonic())
            return age is not None and age < LOOK_SECONDS

        eventually(
            lambda: pulse.is_connected and not link.is_down and is_confirmed(),
            seconds=LOOK_SECONDS,
            what="the sidecar is back",
        )

    def has_uploaded(self) -> None:
        """Waits until everything that was acknowledged is in the books."""
        eventually(self.sidecar._is_uploaded, seconds=LOOK_SECONDS, what="everything is uploaded")

    def used(self, customer_id: str, feature: str, balance: str) -> Decimal:
        """What ListEntitlements shows as used."""
        listed = self.client.entitlements(customer_id=customer_id)
        states = listed.by_feature[feature].balances
        return next(state.used for state in states if state.balance == balance)


class Installation:
    """A control plane and as many sidecars as are asked for; everything ends with `close`."""

    def __init__(self, folder: Path, **flags: Any) -> None:
        """`flags`: of the control plane."""
        self._folder = folder
        self._ending = ExitStack()
        self.office = Office(folder, **flags)
        self._ending.callback(self.office.rest.close)
        self._ending.callback(self.office.stop)
        self._count = 0

    def sidecar(self, **flags: Any) -> Aboard:
        """One more sidecar, connected."""
        self._count += 1
        clock = ShiftedClock()
        settings = sidecar_settings(
            **{
                "control_plane": self.office.sync_address,
                "data": self._folder / f"sidecar-{self._count}",
                "name": f"sidecar-{self._count}",
                "grpc": "127.0.0.1:0",
                "http": "127.0.0.1:0",
                "drain_seconds": 5,
            }
            | flags
        )
        sidecar = Sidecar(settings, clock=clock)
        sidecar.start()
        self._ending.callback(sidecar.stop, drain=False)
        client = purser.Client(sidecar.grpc_address, timeout=10)
        self._ending.callback(client.close)
        found = Aboard(sidecar, client, clock)
        eventually(
            lambda: not sidecar.why_not_ready() and sidecar._pulse.is_connected,
            seconds=LOOK_SECONDS,
            what="the sidecar is ready",
        )
        return found

    def close(self) -> None:
        """Ends everything, the last first."""
        self._ending.close()


@contextmanager
def installed(folder: Path, **flags: Any) -> Iterator[Installation]:
    """An installation inside the block."""
    installation = Installation(folder, **flags)
    try:
        yield installation
    finally:
        installation.close()


def shown_for(seconds: float, look: Callable[[], Decimal]) -> list[Decimal]:
    """Every value that is shown within so long, repeats left out."""
    seen: list[Decimal] = []
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        value = look()
        if not seen or seen[-1] != value:
            seen.append(value)
        threading.Event().wait(0.05)
    return seen
