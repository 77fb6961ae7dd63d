"""A process ends when it is asked to, whichever of its threads the kernel gives the signal to."""

from __future__ import annotations

import ctypes
import signal
from pathlib import Path

from tests.e2e.fleet import Fleet, eventually


def test_a_signal_that_another_thread_gets(small_fleet: Fleet) -> None:
    """SIGTERM comes to a thread that is not the main one, and the sidecar ends with status 0 all the same."""
    sidecar = small_fleet.sidecar()
    pid = sidecar.pid
    assert pid is not None
    others = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]
    assert ctypes.CDLL(None).tgkill(pid, others[0], signal.SIGTERM.value) == 0
    eventually(lambda: sidecar.ended_by_itself == 0, seconds=40, what="it has ended in order")
