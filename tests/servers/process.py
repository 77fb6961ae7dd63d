"""A server as a child process that can not outlive the tests."""

import contextlib
import os
import pwd
import secrets
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.servers import child

START_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 15
UNPRIVILEGED_USER = "nobody"
_PORTS = range(12_000, 30_000)
_MARKS: deque[int] = deque()
_MARKS_MAX = 200  # descriptors, of the latest ports: more than one test's servers have


class ServerFailed(RuntimeError):
    """A server for the tests did not start."""


def free_port() -> int:
    """A TCP port nobody listens on right now, and not one of those that the kernel gives to connections: a server that
    is started again would now and then find it taken.

    Two processes of tests that look in the same moment do not get the same one: a UDP socket of that number marks it,
    as `purser dev --free-ports` does.
    """
    while True:
        port = secrets.choice(_PORTS)
        mark = socket.socket(type=socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), socket.socket() as probe:
            mark.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            _MARKS.append(mark.detach())
            if len(_MARKS) > _MARKS_MAX:
                os.close(_MARKS.popleft())
            return port
        mark.close()


def unprivileged() -> tuple[int, int] | None:
    """User and group for a root process's child, as PostgreSQL refuses root; `None`: this process is not root."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam(UNPRIVILEGED_USER)
    return user.pw_uid, user.pw_gid


class ServerProcess:
    """Runs `command` until `stop`, or `kill`; the kernel ends it if this process dies first."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        stop_signal: signal.Signals,
        owner: tuple[int, int] | None = None,
    ) -> None:
        self._name = Path(command[0]).name
        self._log = folder / "server.log"
        self._stop_signal = stop_signal
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                child.command(command, death_signal=stop_signal, owner=owner),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C goes to the tests, which then stop us
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns once `ready()`; raises with the server's log if it ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not ready():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                what = "is not ready in time" if ended is None else f"ended with {ended}"
                raise ServerFailed(f"{self._name} {what}. Its log:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends the server in its own orderly way."""
        self._end(self._stop_signal)

    def kill(self) -> None:
        """Ends the server as a power cut would, for the process itself."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
