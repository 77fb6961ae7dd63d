"""A control plane and sidecars as processes of this machine, which can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from clients.cli.dev.ports import Ports

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.02
TAIL_LINES: Final = 15


class ServerFailed(RuntimeError):
    """A server did not start, or ended by itself; the message names its log and quotes the end of it."""


class Server:
    """One server process. `start` may be called again after `kill` or `stop`, on the same ports and the same data."""

    def __init__(self, name: str, arguments: Sequence[str], *, ports: Ports, log: Path) -> None:
        """Does not start it."""
        self.name, self.ports, self.log = name, ports, log
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._word: int | None = None
        """The end of a pipe on which the process says that it listens. Others may answer on its ports; not here."""

    def start(self) -> None:
        """Starts it; `wait_ready` waits.

        Call it from a thread that lives as long as the server is to: on Linux it ends with the thread that started it.
        """
        self._forget_word()
        self._word, theirs = os.pipe()
        command = [sys.executable, "-m", "clients.cli.dev.child", str(os.getpid()), *self._arguments]
        command += ["--listening-fd", str(theirs)]
        # Our copy of theirs is closed after the start: the end of the process is then the end of the pipe.
        with self.log.open("ab") as log, os.fdopen(theirs, "wb"):
            self._process = subprocess.Popen(  # noqa: S603 -- our own command line
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A file of settings is for one kind of server, and here are two.
                env={name: value for name, value in os.environ.items() if name != "PURSER_CONFIG"},
                start_new_session=True,  # Ctrl-C is for us, who then end them in order
                pass_fds=[theirs],
            )

    def wait_ready(self) -> float:
        """Waits until the process says that it listens, and /readyz that it is ready: how many seconds it took.

        Raises:
            ServerFailed: it ended, or took too long.
        """
        began = time.monotonic()
        while not (self._listens() and self._is_ready()):
            if not self.running:
                raise ServerFailed(f"{self.name} ended by itself. Its log: {self.log}\n{self.tail()}")
            if time.monotonic() - began > START_SECONDS:
                raise ServerFailed(f"{self.name} is not ready. Its log: {self.log}\n{self.tail()}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - began

    def _listens(self) -> bool:
        if self._word is not None and select.select([self._word], [], [], LOOK_SECONDS)[0]:
            said = os.read(self._word, select.PIPE_BUF)
            if said:
                self._forget_word()
        return self._word is None

    def _forget_word(self) -> None:
        if self._word is not None:
            os.close(self._word)
            self._word = None

    def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.ports.http_address}/readyz", timeout=1).is_success
        return False

    @property
    def running(self) -> bool:
        """Is the process there?"""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Ends it as `kill -9` does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it drains first. It is killed if that takes too long."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._forget_word()

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-TAIL_LINES:])


class Cluster:
    """One control plane and its sidecars, on SQLite in a folder. As a context manager it starts and ends them."""

    def __init__(self, folder: Path, control_plane: Ports, sidecars: Sequence[Ports]) -> None:
        """Does not start them."""
        self.folder = folder
        self.rest_url = f"http://{control_plane.http_address}"
        database = f"sqlite+aiosqlite:///{folder / 'control-plane.sqlite3'}"
        self.control_plane = Server(
            "control plane",
            ["control-plane", "serve", "--database", database, *_listen(control_plane)],
            ports=control_plane,
            log=folder / "control-plane.log",
        )
        self.sidecars = [
            self._sidecar(f"sidecar-{number}", ports, control_plane)
            for number, ports in enumerate(sidecars, 1)
        ]

    def _sidecar(self, name: str, ports: Ports, control_plane: Ports) -> Server:
        arguments = ["sidecar", "serve", "--name", name, "--control-plane", control_plane.grpc_address]
        arguments += ["--data", str(self.folder / name), *_listen(ports)]
        return Server(name, arguments, ports=ports, log=self.folder / f"{name}.log")

    @property
    def servers(self) -> list[Server]:
        """All of them, the control plane first."""
        return [self.control_plane, *self.sidecars]

    @property
    def addresses(self) -> list[str]:
        """The sidecars' gRPC addresses."""
        return [sidecar.ports.grpc_address for sidecar in self.sidecars]

    def __enter__(self) -> Self:
        try:
            self.control_plane.start()
            self.control_plane.wait_ready()
            for sidecar in self.sidecars:
                sidecar.start()
            for sidecar in self.sidecars:
                sidecar.wait_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for server in reversed(self.servers):
            server.stop()

    def fallen(self) -> Server | None:
        """A server that ended by itself, if one did."""
        return next((server for server in self.servers if not server.running), None)


def _listen(ports: Ports) -> list[str]:
    return ["--grpc", ports.grpc_address, "--http", ports.http_address]
