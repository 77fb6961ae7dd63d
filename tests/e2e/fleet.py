"""Real processes for end-to-end tests: a control plane and sidecars, started by the command that users type."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

import purser
from tests.servers.process import free_port

CATALOG = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
  usd: {name: US dollar, kind: currency, scale: 9}
meters:
  calls: {event: call, aggregate: count}
  points: {event: job, aggregate: sum, of: [points]}
rate_cards:
  jobs: {event: job, unit: credit, unknown: deny, prices: [{dimension: points, per: 1, price: "1"}]}
features:
  jobs: {type: metered, event: job, rate_card: jobs}
  quota: {type: metered, meter: points}
  calls: {type: metered, meter: calls}
  seats: {type: gauge}
  sso: {type: switch}
plans:
  prepaid: {entitlements: {jobs: {spends: credit}, sso: true, seats: {limit: 2}}}
  metered: {entitlements: {quota: {limit: 500, every: P1M, overage: deny}, sso: true}}
  free: {entitlements: {calls: {limit: 10, every: P1M, overage: deny}}}
"""


class ServerProcess:
    """One server as users run it. Its logs go to a file, which a failed start quotes."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        *,
        ready_url: str,
        folder: Path,
        module: str = "clients.cli",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = {**os.environ, "PYTHONFAULTHANDLER": "1", **(environment or {})}
        self.ready_url = ready_url
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._began_at_byte = 0

    def launch(self) -> None:
        """Starts it, and waits for nothing."""
        with self.log.open("ab") as log:
            self._began_at_byte = log.tell()
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    @property
    def pid(self) -> int | None:
        """Of the process that was started last and not ended since."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """It was started and has not ended, by itself or otherwise."""
        return self._process is not None and self._process.poll() is None

    @property
    def answers(self) -> bool:
        """Has it begun to serve? It may say that it is not ready."""
        with contextlib.suppress(httpx.HTTPError):
            return self.is_running and bool(httpx.get(self.ready_url, timeout=1).status_code)
        return False

    @property
    def ended_by_itself(self) -> int | None:
        """The status of a process that nobody ended; None: it runs, or was ended."""
        return None if self._process is None else self._process.poll()

    def start(self, *, wait_seconds: float = 60.0) -> None:
        """Starts it and waits until it says that it is ready."""
        self.launch()
        self.wait_until_ready(wait_seconds)

    def wait_until_ready(self, wait_seconds: float = 60.0) -> None:
        """Waits until it says that it is ready."""
        try:
            eventually(self._ready, seconds=wait_seconds, what=f"{self.name} is ready")
        except AssertionError:
            self.kill()
            raise AssertionError(f"{self.name} did not get ready; its log ends:\n{self.tail()}") from None

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self.name} ended with status {self._process.returncode}:\n{self.tail()}")
        return self.is_ready()

    def is_ready(self) -> bool:
        """Does it say so now?"""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self.ready_url, timeout=1).status_code == httpx.codes.OK
        return False

    def said(self) -> str:
        """All that the process that was started last has logged."""
        with self.log.open("rb") as log:
            log.seek(self._began_at_byte)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and wait: its exit status."""
        return self._end(signal.SIGTERM)

    def let_end(self) -> Callable[[], int]:
        """SIGTERM, and go on: what waits for its exit status."""
        ending, self._process = self._process, None
        assert ending is not None, "it runs"
        ending.send_signal(signal.SIGTERM)
        return lambda: _status(ending)

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(how)
        ending, self._process = self._process, None
        return _status(ending)


def _status(ending: subprocess.Popen[bytes]) -> int:
    """How it ended. One that does not is aborted: its log then says where its threads stood."""
    try:
        return ending.wait(60)
    except subprocess.TimeoutExpired:
        ending.send_signal(signal.SIGABRT)
        return ending.wait(10)


class Sidecar(ServerProcess):
    """A sidecar with its data folder; `client` speaks to it."""

    def __init__(
        self,
        name: str,
        *,
        control_plane: str,
        folder: Path,
        options: tuple[str, ...] = (),
        module: str = "clients.cli",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        grpc_port, http_port = free_port(), free_port()
        self.address = f"127.0.0.1:{grpc_port}"
        self.data = folder / name
        arguments = [
            "sidecar",
            "serve",
            "--name",
            name,
            "--control-plane",
            control_plane,
            "--data",
            str(self.data),
        ]
        arguments += ["--grpc", self.address, "--http", f"127.0.0.1:{http_port}", *options]
        ready_url = f"http://127.0.0.1:{http_port}/readyz"
        super().__init__(
            name, arguments, ready_url=ready_url, folder=folder, module=module, environment=environment
        )
        self.client = purser.Client(self.address, timeout=15)


class Fleet:
    """A control plane and its sidecars."""

    def __init__(self, folder: Path, database_url: str, *options: str) -> None:
        self._folder = folder
        grpc_port, http_port = free_port(), free_port()
        self.sync_address, self.rest_url = f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}"
        arguments = ["control-plane", "serve", "--database", database_url]
        arguments += ["--grpc", self.sync_address, "--http", f"127.0.0.1:{http_port}", *options]
        self.control_plane = ServerProcess(
            "control-plane", arguments, ready_url=f"{self.rest_url}/readyz", folder=folder
        )
        self.sidecars: list[Sidecar] = []
        self.rest = httpx.Client(base_url=f"{self.rest_url}/v1", timeout=15)
        if database_url.startswith("postgresql"):
            subprocess.run(
                [sys.executable, "-m", "clients.cli", "migrate", "--database", database_url], check=True
            )
        self.control_plane.start()

    def sidecar(self, *options: str) -> Sidecar:
        """One more sidecar, ready."""
        name = f"sidecar-{len(self.sidecars) + 1}"
        sidecar = Sidecar(name, control_plane=self.sync_address, folder=self._folder, options=options)
        self.sidecars.append(sidecar)
        sidecar.start()
        return sidecar

    def close(self) -> None:
        """Ends everything."""
        for sidecar in self.sidecars:
            sidecar.client.close()
            sidecar.kill()
        self.control_plane.kill()
        self.rest.close()

    def publish(self, text: str = CATALOG, move: str = "none") -> int:
        """Publishes a catalog: its revision."""
        response = self.rest.post(
            "/catalog/revisions",
            params={"move": move},
            content=text,
            headers={"Content-Type": "application/yaml"},
        )
        return int(self._ok(response)["revision"])

    def post(self, path: str, **body: Any) -> Any:
        """One change over REST: the answer's JSON."""
        return self._ok(self.rest.post(path, json=body))

    def get(self, path: str, **params: Any) -> Any:
        """One answer of REST."""
        return self._ok(self.rest.get(path, params=params))

    def customer(self, customer_id: str, plan: str, *, amount: str | None = None) -> int:
        """A customer on a plan, with credits: the revision of the last change."""
        self.post("/customers", id=customer_id, name=customer_id.title())
        answer = self.post("/subscriptions", id=f"sub_{customer_id}", customer_id=customer_id, plan=plan)
        if amount is not None:
            answer = self.post(
                "/grants", id=f"grant_{customer_id}", customer_id=customer_id, unit="credit", amount=amount
            )
        return int(answer["revision"])

    def balance(self, customer_id: str, name: str) -> dict[str, Any]:
        """One balance in the books, its amounts as numbers."""
        items = self.get(f"/customers/{customer_id}/balances")["items"]
        found = next(item for item in items if item["balance"] == name)
        amounts = ("granted", "available", "leased", "quarantined", "spent", "presumed", "ended", "overage")
        return {key: Decimal(found[key]) for key in amounts}

    def events(self, customer_id: str) -> list[dict[str, Any]]:
        """Every event of a customer in the books."""
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.get(
                "/events", customer_id=customer_id, limit=500, **({"cursor": cursor} if cursor else {})
            )
            items += page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return items

    @staticmethod
    def _ok(response: httpx.Response) -> Any:
        assert response.is_success, (
            f"{response.request.method} {response.url}: {response.status_code} {response.text}"
        )
        return response.json()


def eventually(holds: Callable[[], bool], *, seconds: float, what: str) -> float:
    """Waits until something holds in other processes: how many seconds it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"after {seconds} s it still does not hold that {what}")
        threading.Event().wait(0.01)
    return time.monotonic() - began
