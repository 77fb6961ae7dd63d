"""Libraries that stand between a process and its machine: one lets calls of the disk fail, one sets the wall clock."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.servers import programs

_ANSWER_SECONDS: Final = 5.0
_LIBRARIES: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/*", "/usr/local/lib/*")


class SetClock:
    """A wall clock that can be set while processes run. The clocks that count are not touched."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set("+0")

    @property
    def environment(self) -> Mapping[str, str]:
        """For the process. It looks at the clock once a second."""
        return {
            "LD_PRELOAD": str(_library(programs.FAKETIME, "faketime/libfaketimeMT.so.1")),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead: str) -> None:
        """So far ahead: `+1d`, `-3600`; `+0` is on time."""
        beside = self._file.with_suffix(".new")
        beside.write_text(ahead)
        beside.rename(self._file)


class FailingCalls:
    """A disk that can be made to fail while a process runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._enabled: set[tuple[int, str]] = set()

    @property
    def environment(self) -> Mapping[str, str]:
        """For the process."""
        names = ("fiu_run_preload.so", "fiu_posix_preload.so")
        preloads = [str(_library(programs.FIU, f"fiu/{name}")) for name in names]
        return {"LD_PRELOAD": " ".join(preloads), "FIU_CTRL_FIFO": str(self._folder / "calls")}

    def enable(self, call: str, number: int, *, probability: float, pid: int) -> None:
        """From now on this call of the process (`posix/io/sync/fsync`) ends with this `errno`, as often as that."""
        self._say(f"enable_random name={call},failinfo={number},probability={probability}", pid)
        self._enabled.add((pid, call))

    def disable(self, call: str, *, pid: int) -> None:
        """It works again, or does so already: libfiu knows only once of what was enabled twice."""
        if (pid, call) in self._enabled:
            self._say(f"disable name={call}", pid)
            self._enabled.discard((pid, call))

    def _say(self, command: str, pid: int) -> None:
        """Raises OSError where no process listens, or it does not say that it has done so."""
        pipe = f"{self._folder}/calls-{pid}"
        with _opened(f"{pipe}.out", os.O_RDONLY) as back:
            with _opened(f"{pipe}.in", os.O_WRONLY) as to:
                os.write(to, command.encode() + b"\n")
            answer = _line(back)
        if answer != b"0\n":
            raise OSError(f"libfiu was told {command!r} and said {answer!r}")


def _line(pipe: int) -> bytes:
    """One; less if it does not come in time. While nobody has the other end open, a pipe reads as if it had ended."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    said = b""
    while not said.endswith(b"\n") and time.monotonic() < deadline:
        try:
            piece = os.read(pipe, 64)
        except BlockingIOError:
            piece = b""
        said += piece
        if not piece:
            time.sleep(0.01)
    return said


@contextlib.contextmanager
def _opened(pipe: str, how: int) -> Iterator[int]:
    """Without waiting for who is at the other end: who is dead will not come. Who is busy for a moment will."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    descriptor: int | None = None
    while descriptor is None:
        try:
            descriptor = os.open(pipe, how | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _library(program: programs.Program, path: str) -> Path:
    programs.find(program)
    found = [one for folder in _LIBRARIES for one in Path("/").glob(f"{folder}/{path}".lstrip("/"))]
    if not found:
        raise programs.ServerMissing(f"There is {program.name}, but no {path} beside it. {program.advice}")
    return found[0]
