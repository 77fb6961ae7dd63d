"""A sidecar's disk: its files survive the process, and it may be full, fail, tear a write, or be put back."""

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import IO, Any, Final, NamedTuple

from sidecar.outbox.file import address, take_lock
from tests.simulation.contents import Contents, read
from tests.simulation.threads import Hub

FILE: Final = "outbox.sqlite3"
SNAPSHOT: Final = "view.snapshot"
_OUTBOX: Final = (FILE, f"{FILE}-wal")
PAGE: Final = 4096
_ROWS: Final = ("INSERT", "UPDATE", "DELETE")
_WRITES: Final = (*_ROWS, "BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "CREATE", "PRAGMA")
_CHECKPOINT: Final = "PRAGMA wal_checkpoint"
_SYNCS: Final = (*_ROWS, "COMMIT", _CHECKPOINT)


_LOG_HEADER: Final = 32
_FRAME: Final = 24 + PAGE
_OFF, _NORMAL, _FULL = range(3)
"""What `PRAGMA synchronous` may be."""


class Stand(NamedTuple):
    """Where the log stands. Its format is that of https://sqlite.org/walformat.html."""

    salt: bytes = b""
    """Another one whenever it begins anew, which it does when a checkpoint has moved all of it to the main file."""
    end: int = 0
    """So many bytes of it count."""
    moved: int = 0
    """So many of its frames were moved to the main file."""


class Trouble(StrEnum):
    """What the disk does to who writes."""

    NONE = "none"
    FULL = "full"
    """A log grows at COMMIT; before that, when a transaction outgrows the memory that it has, or the log its index."""
    FAILING = "failing"
    """Whatever is read or written may fail; a commit before or after it was done."""


_FULL_AT: Final = {"PRAGMA": 0.1, "BEGIN": 0.2, "INSERT": 0.3, "UPDATE": 0.1, "CREATE": 0.1, "COMMIT": 0.9}
_FAILS_AT: Final = {
    "SELECT": 0.04, "PRAGMA": 0.1, "BEGIN": 0.1, "INSERT": 0.3, "UPDATE": 0.1, "DELETE": 0.1, "CREATE": 0.1,
    "COMMIT": 0.4,
}  # fmt: skip
"""How often. What changes rows outside of a transaction commits."""
_INDEX_HEADER: Final = 96
"""Bytes of the log's index that say until where the log counts."""


class Disk:
    """One folder, and what is wrong with it."""

    def __init__(self, hub: Hub, folder: Path, random: Random) -> None:
        self.folder = folder
        self.trouble = Trouble.NONE
        self.slow_until = 0.0
        self.dies_in: int | None = None
        """After so many more statements that write the process dies."""
        self.dies_at_commit = False
        """But not before the next commit."""
        self._hub = hub
        self._random = random
        self._open: list[Connection] = []
        self._locks: list[IO[bytes]] = []
        self._kept: dict[str, bytes] | None = None
        self._commits: list[tuple[float, Stand]] = []
        """Where the log stood before each commit, and when."""
        self._stands = self._synced = Stand()
        """Where the log stands as far as it was seen, and what of it a machine that goes down does not lose."""
        folder.mkdir(parents=True, exist_ok=True)

    def connect(self, path: Path, *, creates: bool = True) -> sqlite3.Connection:
        """As the outbox's `connect`."""
        if self.trouble is Trouble.FAILING and self._is_under_way and self._random.random() < 0.1:
            raise _error("unable to open database file", sqlite3.SQLITE_CANTOPEN)
        connection = sqlite3.connect(
            address(path, creates=creates),
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=0.0,
            factory=Connection,
        )
        assert isinstance(connection, Connection)
        connection.disk = self
        self._open.append(connection)
        return connection

    def take_lock(self, path: Path) -> IO[bytes]:
        """As the outbox's; the lock of a dead process is nobody's."""
        lock = take_lock(path)
        self._locks.append(lock)
        return lock

    @property
    def _is_under_way(self) -> bool:
        """Is it the sidecar that does something? Who looks on meets no trouble."""
        return self._hub.current is not None and not self._hub.is_closed

    def before(self, connection: "Connection", statement: str) -> None:
        """Something is about to be done. Raises sqlite3.OperationalError; or nothing comes after it."""
        if not self._is_under_way:
            return
        if statement.startswith("COMMIT"):
            self._commits.append((self._hub.time(), self._stand()))
            # It takes its time, in which others run: what fails then fails after that.
            self._hub.sleep(
                self._random.random() ** 4 * (2.0 if self._hub.time() < self.slow_until else 0.01)
            )
        if self.dies_in is not None and statement.startswith(_WRITES):
            self.dies_in -= 1
            if self.dies_in < 0 and (statement.startswith("COMMIT") or not self.dies_at_commit):
                self._die(connection, statement)
        if self.trouble is not Trouble.NONE:
            self._fail(connection, statement)

    def _fail(self, connection: "Connection", statement: str) -> None:
        """Raises it, perhaps: as SQLite does, which may roll back the whole transaction then."""
        kind = statement.partition(" ")[0].rstrip(";")
        commits = (kind in _ROWS and not connection.in_transaction) or statement.startswith(_CHECKPOINT)
        chances = _FULL_AT if self.trouble is Trouble.FULL else _FAILS_AT
        if self._random.random() >= chances.get("COMMIT" if commits else kind, 0.0):
            return
        dice = self._random.random()
        if self.trouble is Trouble.FAILING and kind == "COMMIT" and dice < 0.3:
            connection.really("COMMIT")
        elif self.trouble is Trouble.FAILING and kind == "COMMIT" and dice < 0.6:
            self._commit_unseen(connection)
        elif connection.in_transaction and (kind == "COMMIT" or dice < 0.5):
            connection.really("ROLLBACK")
        if self.trouble is Trouble.FULL:
            raise _error("database or disk is full", sqlite3.SQLITE_FULL)
        raise _error("disk I/O error", sqlite3.SQLITE_IOERR)

    def _commit_unseen(self, connection: "Connection") -> None:
        """All of it is in the log when syncing fails, and the log's index says nothing of it. Who opens the log when
        nobody has it open finds it there; who commits first writes over it.
        """
        before, index = self._stand(), self.folder / f"{FILE}-shm"
        header = index.read_bytes()[:_INDEX_HEADER]
        connection.really("COMMIT")
        after = self._stand()
        if (before.salt, before.moved) == (after.salt, after.moved):
            with index.open("r+b") as file:
                file.write(header)

    def after(self, connection: "Connection", statement: str) -> None:
        """It was done. A commit syncs the log where the connection says FULL. A checkpoint syncs all of it before it
        moves anything, and the main file after that, unless the connection says OFF: then nothing ever is.
        """
        before, self._stands = self._stands, self._stand()
        if connection.in_transaction or not statement.startswith(_SYNCS) or self._stands == before:
            return
        level = connection.level
        is_checkpoint = self._stands.moved != before.moved or self._stands.salt != before.salt
        if level >= _FULL or (level >= _NORMAL and is_checkpoint):
            self._synced = self._stands

    def _stand(self) -> Stand:
        index = self.folder / f"{FILE}-shm"
        if not index.exists():
            return Stand()
        with index.open("rb") as file:
            head = file.read(100)
        frames, moved = (int.from_bytes(head[at : at + 4], sys.byteorder) for at in (16, 96))
        return Stand(head[32:40], _LOG_HEADER + frames * _FRAME if frames else 0, moved)

    def _die(self, connection: "Connection", statement: str) -> None:
        """`kill -9` in the middle of it; where it commits, perhaps after it, or with half of it on the disk."""
        self.dies_in = None
        before = self._log_size()
        dice = self._random.random()
        if statement.startswith("COMMIT") and dice < 0.6:
            connection.really("COMMIT")
            after = self._log_size()
            if dice < 0.3 and after > before:
                self.pull(torn_to=self._random.randrange(before, after))
                self._hub.never_return()
        self.pull()
        self._hub.never_return()

    def _log_size(self) -> int:
        log = self.folder / f"{FILE}-wal"
        return log.stat().st_size if log.exists() else 0

    def pull(self, torn_to: int | None = None) -> None:
        """The process is dead: its connections go, and its files stay exactly as they are."""
        files = self._read()
        if torn_to is not None:
            files[f"{FILE}-wal"] = files[f"{FILE}-wal"][:torn_to]
        for connection in self._open:
            connection.really_close()
        for lock in self._locks:
            lock.close()
        self._open.clear()
        self._locks.clear()
        self._write(files)

    def keep(self) -> None:
        """A copy, to be put back later."""
        self._kept = self._read(*_OUTBOX, SNAPSHOT)

    def put_back(self) -> bool:
        """The disk is as it was when it was copied; or only the outbox is, or the view. False: there is no copy."""
        if self._kept is None:
            return False
        kept, self._kept = self._kept, None
        dice = self._random.random()
        if dice < 0.8:
            self._write({name: kept[name] for name in _OUTBOX if name in kept})
        if dice > 0.4:
            (self.folder / SNAPSHOT).unlink(missing_ok=True)
            if SNAPSHOT in kept:
                (self.folder / SNAPSHOT).write_bytes(kept[SNAPSHOT])
        return True

    def vanish(self) -> None:
        """An empty disk."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self._kept = None

    def lose_unsynced(self) -> bool:
        """The machine went down: of the end of the log that was not synced some is missing. False: nothing is."""
        files = self._read()
        snapshot = self.folder / SNAPSHOT
        if snapshot.exists() and self._random.random() < 0.3:
            # A rename that came before what it renames: not every file system keeps to the order that was asked for.
            os.truncate(snapshot, self._random.randrange(snapshot.stat().st_size + 1))
        log = files.get(f"{FILE}-wal", b"")
        # Only the last seconds: a loss of more than the control plane has seen gives itself away, and the machine
        # writes what is older of its own accord.
        since = self._hub.time() - self._random.expovariate(0.7)
        there = [stand for at, stand in self._commits if at < since][-1:]
        salt, end = log[16:24], _end(log)
        kept = max((stand.end for stand in (*there, self._synced) if stand.salt == salt), default=0)
        cut = self._random.randrange(min(kept, end), end + 1)
        if cut == end:
            return False
        files[f"{FILE}-wal"] = log[:cut]
        self._write(files)
        return True

    def rot(self) -> bool:
        """Some pages of its files are garbage, or the snapshot is cut short. False: of the outbox there is nothing."""
        snapshot = self.folder / SNAPSHOT
        if snapshot.exists() and self._random.random() < 0.5:
            content = snapshot.read_bytes()
            cut = content[: self._random.randrange(len(content))] if content else content
            snapshot.write_bytes(self._spoiled(content) if self._random.random() < 0.5 else cut)
        files = {name: self._spoiled(content) for name, content in self._read().items()}
        self._write(files)
        return any(files.values())

    def _spoiled(self, content: bytes) -> bytes:
        """With garbage in it, page by page."""
        spoiled = bytearray(content)
        for _ in range(self._random.choice([1, 1, 3]) if content else 0):
            at = self._random.randrange(len(content)) // PAGE * PAGE
            length = min(PAGE, len(content) - at)
            spoiled[at : at + length] = self._random.choice([bytes(length), self._random.randbytes(length)])
        return bytes(spoiled)

    def contents(self) -> Contents:
        """What can be read of the outbox while no process has it open."""
        copy = self.folder.with_name(f"{self.folder.name}.copy")
        copy.mkdir()
        try:
            for name, content in self._read().items():
                (copy / name).write_bytes(content)
            for whole in self.folder.glob(f"{FILE}.aside-*.new"):
                # A crash has come between: this is what the next process takes into use.
                (copy / FILE).write_bytes(whole.read_bytes())
                (copy / f"{FILE}-wal").unlink(missing_ok=True)
            return read(copy / FILE)
        finally:
            shutil.rmtree(copy)

    def _read(self, *names: str) -> dict[str, bytes]:
        """Of the outbox's files, or of these, those that are there."""
        names = names or _OUTBOX
        return {name: (self.folder / name).read_bytes() for name in names if (self.folder / name).exists()}

    def _write(self, files: dict[str, bytes]) -> None:
        made = (*self.folder.glob("*.new"), *self.folder.glob("*.part"))
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", *(path.name for path in made)):
            (self.folder / name).unlink(missing_ok=True)
        for name, content in files.items():
            (self.folder / name).write_bytes(content)


class Connection(sqlite3.Connection):
    """What the outbox writes through."""

    disk: Disk

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """See sqlite3."""
        self.disk.before(self, sql)
        cursor = super().execute(sql, parameters)
        self.disk.after(self, sql)
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Any]) -> sqlite3.Cursor:
        """See sqlite3."""
        self.disk.before(self, sql)
        cursor = super().executemany(sql, parameters)
        self.disk.after(self, sql)
        return cursor

    def executescript(self, script: str) -> sqlite3.Cursor:
        """See sqlite3: one by one, so that it may fail or die between them."""
        statement = ""
        for line in script.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.execute(statement.strip())
                statement = ""
        return self.cursor()

    @property
    def level(self) -> int:
        """How much it syncs."""
        found: int = super().execute("PRAGMA synchronous").fetchone()[0]
        return found

    def really(self, sql: str) -> None:
        """Past all trouble."""
        super().execute(sql)

    def close(self) -> None:
        """See sqlite3."""
        if self in self.disk._open:
            self.disk._open.remove(self)
        super().close()

    def really_close(self) -> None:
        """Past the book-keeping."""
        super().close()


def _end(log: bytes) -> int:
    """Until where frames of this log follow one another: behind them may be those of one that it has begun over."""
    salt = log[16:24]
    starts = range(_LOG_HEADER, len(log), _FRAME)
    return next((at for at in starts if log[at + 8 : at + 16] != salt), len(log))


def _error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error
