"""A server as a child process that can not outlive the tests."""

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

START_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 15
UNPRIVILEGED_USER = "nobody"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class ServerFailed(RuntimeError):
    """A server for the tests did not start."""


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unprivileged() -> dict[str, Any]:
    """Arguments for subprocess that make a root process's child somebody else: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(UNPRIVILEGED_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class ServerProcess:
    """Runs `command` until `stop`, or `kill`; the kernel ends it if this process dies first."""

    def __init__(self, command: Sequence[str | Path], *, folder: Path, stop_signal: signal.Signals) -> None:
        self._log = folder / "server.log"
        self._stop_signal = stop_signal

        def die_with_parent() -> None:
            if _libc is not None:
                _libc.prctl(_PR_SET_PDEATHSIG, stop_signal)

        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C goes to the tests, which then stop us
                preexec_fn=die_with_parent,  # noqa: PLW1509 -- one system call, which takes no lock
                **unprivileged(),
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns once `ready()`; raises with the server's log if it ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerFailed(self._log.read_text(errors="replace"))
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
