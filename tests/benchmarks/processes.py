"""Server processes, each on a core of its own, and what the kernel says they used."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.servers import child

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_SECONDS = 60
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ProcessFailed(RuntimeError):
    """A server ended, or did not become ready."""


def cores() -> tuple[int, int]:
    """The core of the server under test, and the core of everything else. On a machine with one core they are one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """The calling thread, and every process and thread that it starts meanwhile, runs on `core` only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """`python -m MODULE …` on one core. The kernel ends it when the benchmark dies."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        core: int,
        log: Path,
        yields: bool = False,
        program: Sequence[str | Path] = (),
        listens: bool = False,
    ) -> None:
        """`yields`: it runs only while nothing else wants the core (SCHED_IDLE). `program`: what to start instead.
        `listens`: it takes lines from `tell`.
        """
        self.name = module
        self._log = log
        command = [*program] or [sys.executable, "-m", module, *arguments]
        with log.open("ab") as out, pinned(core):
            self._log_begins_at = out.tell()
            self.started_at = time.perf_counter()
            self._process = subprocess.Popen(
                child.command(command, death_signal=signal.SIGKILL, yields=yields),
                cwd=REPOSITORY,
                stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(
        self, ready: Callable[[], bool], *, poll_seconds: float = 0.02, seconds: float = START_TIMEOUT_SECONDS
    ) -> None:
        """Returns once `ready()`.

        Raises:
            ProcessFailed: it ended or took too long; with the last lines of its log.
        """
        deadline = time.perf_counter() + seconds
        while not ready():
            if self._process.poll() is not None or time.perf_counter() > deadline:
                raise ProcessFailed(f"{self.name} is not ready. Its log ends with:\n{self.log()[-4000:]}")
            time.sleep(poll_seconds)

    def log(self) -> str:
        """What this process, and none before it, has written."""
        with self._log.open("rb") as file:
            file.seek(self._log_begins_at)
            return file.read().decode(errors="replace")

    def announced(self) -> dict[str, int]:
        """The ports in the first line that is a JSON object with `grpc` in it; empty: not yet written."""
        for line in self.log().splitlines():
            if line.startswith("{") and '"grpc"' in line:
                found = json.loads(line)
                return {
                    name: int(str(found[name]).rpartition(":")[2])
                    for name in ("grpc", "http")
                    if name in found
                }
        return {}

    def tell(self, line: str) -> None:
        """A line for its standard input."""
        assert self._process.stdin is not None, "it does not listen"
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def said(self) -> list[dict[str, Any]]:
        """Every line so far that is a JSON object."""
        return objects(self.log())

    def cpu_seconds(self) -> float:
        """Used so far, in user and kernel mode, by all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def resident_bytes(self) -> int:
        """Memory in RAM that is its own: heap and stacks, without pages of files that it shares."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
        raise ProcessFailed(f"{self.name}: the kernel does not say how much memory it uses")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped by the kernel meanwhile, as if the network had swallowed it."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def freeze(self) -> None:
        """Stopped by the kernel."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Goes on."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """In its own orderly way; killed when that takes more than 20 seconds."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.poll() is None:
            self._process.terminate()
            self.thaw()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def objects(log: str) -> list[dict[str, Any]]:
    """Every line that is a JSON object. Of the last one there may be a part so far."""
    lines = log.split("\n")[:-1]
    return [json.loads(line) for line in lines if line.startswith("{")]
