"""Where and on what the numbers were measured; without it they mean nothing."""

import os
import platform
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.processes import REPOSITORY
from tests.servers import programs

_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Ticks of one core since boot."""

    busy: int
    stolen: int  # by other guests of the same host
    total: int

    @classmethod
    def read(cls, core: int) -> "CoreTimes":
        for line in _STAT.read_text().splitlines():
            name, *columns = line.split()
            if name == f"cpu{core}":
                ticks = [int(column) for column in columns[:8]]
                idle = ticks[3] + ticks[4]
                return cls(busy=sum(ticks) - idle - ticks[7], stolen=ticks[7], total=sum(ticks))
        raise LookupError(f"The kernel knows no core {core}.")


def describe(server_core: int, load_core: int) -> dict[str, str]:
    """Machine, software and commit, for the head of the table."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "cores": f"server on core {server_core}, load and control plane on core {load_core}",
        "load": "{:.2f} {:.2f} {:.2f} at the start".format(*os.getloadavg()),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sidecar": _form_of_the_sidecar(),
        "libraries": f"grpcio {version('grpcio')}, protobuf {version('protobuf')}, SQLite {sqlite3.sqlite_version}",
        "postgresql": _postgres(),
    }


def _memory() -> str:
    """Of the machine."""
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _postgres() -> str:
    """The one that the books are measured on."""
    try:
        program = programs.find(programs.POSTGRES)
    except programs.ServerMissing:
        return "none"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return said.rpartition(") ")[2].split()[0]


def _form_of_the_sidecar() -> str:
    """As the servers find it: compiled or not."""
    ask = [sys.executable, "-c", "import sidecar.leases.book as book; print(book.__file__)"]
    file = subprocess.run(ask, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    return "plain Python" if file.endswith(".py") else "native code (make compile)"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with local changes" if changed else "")
