"""Libraries between a process and its machine do what they are told, or say that they did not."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import preloads
from tests.servers.preloads import FailingCalls, SetClock

_DAY_SECONDS = 86_400
_LOOKS_AT_THE_CLOCK = """
import sys, time
for line in sys.stdin:
    print(time.time(), flush=True)
"""
_WRITES = """
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
print("begins", flush=True)
for line in sys.stdin:
    try:
        print(os.pwrite(file, b"x", 0), flush=True)
    except OSError as error:
        print(-error.errno, flush=True)
"""


class Asked:
    """A process that answers a line for a line."""

    def __init__(self, program: str, *arguments: str, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.pid = self._process.pid

    def line(self) -> str:
        """The next one."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ask(self) -> float:
        """What it says now."""
        assert self._process.stdin is not None
        self._process.stdin.write("now\n")
        self._process.stdin.flush()
        return float(self.line())

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


def test_a_clock_that_is_set(tmp_path: Path) -> None:
    """A process sees it jump and come back while it runs."""
    clock = SetClock(tmp_path)
    asked = Asked(_LOOKS_AT_THE_CLOCK, environment=dict(clock.environment))
    try:
        for ahead, seconds in (("+0", 0), ("+1d", _DAY_SECONDS), ("-1d", -_DAY_SECONDS), ("+0", 0)):
            clock.set(ahead)
            deadline = time.monotonic() + 10
            while abs(asked.ask() - time.time() - seconds) > 60:
                assert time.monotonic() < deadline, f"it never was {ahead}"
                threading.Event().wait(0.05)
    finally:
        asked.kill()


def test_a_call_that_fails(tmp_path: Path) -> None:
    """Every time while it is told to, and not before or after."""
    calls = FailingCalls(tmp_path)
    asked = Asked(_WRITES, str(tmp_path / "file"), environment=dict(calls.environment))
    try:
        assert asked.line() == "begins\n"
        assert asked.ask() == 1
        calls.enable("posix/io/rw/pwrite", errno.EIO, probability=1.0, pid=asked.pid)
        assert [asked.ask() for _ in range(3)] == [-errno.EIO] * 3
        calls.disable("posix/io/rw/pwrite", pid=asked.pid)
        assert asked.ask() == 1
        with pytest.raises(OSError, match="said b'-1"):
            calls.enable("posix/io/rw/pwrite,nonsense", errno.EIO, probability=1.0, pid=asked.pid)
    finally:
        asked.kill()


Libfiu = Callable[..., None]


@pytest.fixture
def libfiu(tmp_path: Path) -> Iterator[Libfiu]:
    """Plays the other end of the pipes, once for each answer; None: comes and goes without one."""
    threads: list[threading.Thread] = []
    for name in ("calls-1.in", "calls-1.out"):
        os.mkfifo(tmp_path / name)

    def play(*answers: bytes | None) -> None:
        def work() -> None:
            for answer in answers:
                with (tmp_path / "calls-1.out").open("wb") as back:
                    if answer is not None:
                        with (tmp_path / "calls-1.in").open("rb") as asked:
                            asked.readline()
                        back.write(answer)

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield play
    for thread in threads:
        thread.join(10)


def test_an_end_before_the_answer_is_no_answer(tmp_path: Path, libfiu: Libfiu) -> None:
    """Who had the pipe before lets go of it; what comes then counts."""
    libfiu(None, b"0\n")
    FailingCalls(tmp_path).enable("posix/io/rw/pwrite", errno.EIO, probability=1.0, pid=1)


@pytest.mark.parametrize("answer", [b"", b"-1\n", b"0"])
def test_no_answer_is_no_success(
    tmp_path: Path, libfiu: Libfiu, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """Nor is half of one, or another one."""
    monkeypatch.setattr(preloads, "_ANSWER_SECONDS", 0.5)
    libfiu(answer)
    with pytest.raises(OSError, match="libfiu was told"):
        FailingCalls(tmp_path).enable("posix/io/rw/pwrite", errno.EIO, probability=1.0, pid=1)
