"""The outbox's file and its transactions, for the one thread that writes. Errors of SQLite go up as they are."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import IO, Any, Final, Protocol
from zlib import crc32

from sidecar.outbox import checks
from sidecar.outbox.encoding import usage_body
from sidecar.outbox.port import (
    Durability,
    Identity,
    KeyEntry,
    KeyTaken,
    LeaseChange,
    OutboxLocked,
    Reservation,
    ReservationMoved,
    Write,
    WriteResult,
    Written,
)
from sidecar.runtime.clock import Clock, microseconds

SCHEMA_VERSION: Final = 2
SEQ_BITS: Final = 40
ROWS_PER_STATEMENT: Final = 64
KEY_COLUMNS: Final = 5
RECORD_COLUMNS: Final = 3

Job = Callable[["OutboxFile"], object]
"""Something to do inside a group's transaction; what it returns is its caller's answer."""


class Connect(Protocol):
    """Opens a file; `connect` is the real one."""

    def __call__(self, path: Path, *, creates: bool = True) -> sqlite3.Connection:
        """Raises sqlite3.Error. `creates` False: also when there is no file."""


def address(path: Path, *, creates: bool) -> str:
    """The path as SQLite has to be told it when a file that is not there must not be made."""
    return f"{path.absolute().as_uri()}?mode={'rwc' if creates else 'rw'}"


def connect(path: Path, *, creates: bool = True) -> sqlite3.Connection:
    """A connection that leaves transactions to us, and may be handed from thread to thread. Raises sqlite3.Error;
    `creates` False: also when there is no file.
    """
    return sqlite3.connect(
        address(path, creates=creates),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=5.0,
        cached_statements=4 * ROWS_PER_STATEMENT,
    )


def take_lock(path: Path) -> IO[bytes]:
    """Locks the outbox at `path` for this process until the answer is closed. Raises OutboxLocked."""
    lock = path.with_name(path.name + ".lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise OutboxLocked(
            f"{path} belongs to another process; give each sidecar a data folder of its own"
        ) from None
    return lock


def record_id(no: int, seq: int) -> int:
    """Where a record stands in the table."""
    return no << SEQ_BITS | seq


def read_key(connection: sqlite3.Connection, customer_id: str, key: str) -> KeyEntry | None:
    """The key as it was written."""
    row = connection.execute(
        "SELECT content_hash, answer FROM keys WHERE customer_id = ? AND key = ?", (customer_id, key)
    ).fetchone()
    return None if row is None else KeyEntry(customer_id, key, row[0], row[1])


def read_reservation(connection: sqlite3.Connection, reservation_id: str) -> Reservation | None:
    """The reservation as it stands."""
    row = connection.execute(
        "SELECT reservation_id, version, is_open, state, checksum FROM reservations WHERE reservation_id = ?",
        (reservation_id,),
    ).fetchone()
    return None if row is None else as_reservation(row)


def as_reservation(row: tuple[Any, ...]) -> Reservation:
    """A row of id, version, is_open, state and checksum."""
    name, version, is_open, state = checks.intact(row, "a reservation")
    return Reservation(name, version, bool(is_open), state)


def read_meta(connection: sqlite3.Connection, name: str) -> str | None:
    """A word that the file keeps."""
    row = connection.execute("SELECT name, value, checksum FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(checks.intact(row, f"its {name}")[1])


class OutboxFile:
    """An open file with an incarnation of its own. One thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability,
        clock: Clock,
        make_id: Callable[[], str],
        boot_id: str,
        connect: Connect = connect,
    ) -> None:
        """Opens or makes the file and starts an incarnation. Raises sqlite3.Error when that fails."""
        self.path = path
        self.clock = clock
        self._connect = connect
        self._durability = durability
        self._held: dict[str, int] = {}
        self.connection = self._open()
        try:
            self._prepare(make_id, boot_id)
        except BaseException:
            self.connection.close()
            raise

    def _open(self) -> sqlite3.Connection:
        connection = self._connect(self.path)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            level = "NORMAL" if self._durability is Durability.PROCESS_CRASH else "FULL"
            connection.execute(f"PRAGMA synchronous = {level}")
            connection.execute("PRAGMA wal_autocheckpoint = 2000")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, make_id: Callable[[], str], boot_id: str) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, SCHEMA_VERSION}:
            raise sqlite3.NotSupportedError(f"{self.path} was written by another version (schema {version})")
        if version == 0:
            schema = resources.files("sidecar.outbox").joinpath("schema.sql").read_text()
            self.connection.executescript(f"BEGIN IMMEDIATE; {schema} COMMIT;")
        self.connection.execute("BEGIN IMMEDIATE")
        # Files from before it have none; whoever does not know it keeps it up all the same, so it makes no new format.
        self.connection.execute("CREATE INDEX IF NOT EXISTS keys_at ON keys (at)")
        if self.get_meta("outbox_id") is None:
            self.set_meta("outbox_id", make_id())
        outbox_id, installation_id = (self.get_meta(name) or "" for name in ("outbox_id", "installation_id"))
        self.identity = Identity(outbox_id, make_id(), installation_id)
        query = "SELECT coalesce(max(no), 0) + 1 FROM incarnations"
        self.no: int = self.connection.execute(query).fetchone()[0]
        is_synced = int(self._durability is not Durability.PROCESS_CRASH)
        self._who = (self.no, self.identity.incarnation_id, boot_id, is_synced)
        self.connection.execute(
            "INSERT INTO incarnations (no, incarnation_id, boot_id, is_synced, checksum, progress_checksum) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (*self._who, checks.of_row(*self._who, 0), checks.of_row(self.no, 0, 0)),
        )
        self._salt = checks.of_incarnation(self.no)
        self.earlier_leases = {row[0] for row in self.connection.execute("SELECT lease_id FROM leases")}
        self.connection.execute("COMMIT")
        self.last_seq = self.committed_seq = self._begun_seq = 0
        self.group = 0

    def get_meta(self, name: str) -> str | None:
        """A word that the file keeps."""
        return read_meta(self.connection, name)

    def set_meta(self, name: str, value: str) -> None:
        """Keeps a word, inside a transaction."""
        self.connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (name, value, checks.of_row(name, value))
        )

    def begin(self) -> None:
        """Starts a group's transaction."""
        # First: a group that could not even begin is rolled back, too.
        self._begun_seq = self.last_seq
        self._held.clear()
        self.connection.execute("BEGIN IMMEDIATE")

    def finish_group(self) -> None:
        """The last statements before COMMIT: what is held per lease, and the group's mark."""
        if self._held:
            self.connection.executemany(
                "UPDATE leases SET held = held + ?1, rest = rest - ?1 WHERE lease_id = ?2",
                [(held, lease_id) for lease_id, held in self._held.items()],
            )
        self.group += 1
        self.connection.execute(
            "UPDATE incarnations SET last_seq = ?, last_group = ?, marks = ? WHERE no = ?",
            (self.last_seq, self.group, self.last_seq + self.group, self.no),
        )

    def commit(self) -> None:
        """Commits the group. After an error here its outcome is unknown until `reopen` has answered."""
        self.connection.execute("COMMIT")
        self.committed_seq = self.last_seq

    def roll_back(self) -> None:
        """Undoes a group that was not committed: no number is used up."""
        self.last_seq = self._begun_seq
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def reopen(self) -> int:
        """Opens the file anew and reads it back: the number of the last group that is in it."""
        self.connection.close()
        self.connection = self._open()
        row = self.connection.execute(
            "SELECT last_seq, last_group, marks FROM incarnations WHERE no = ?", (self.no,)
        ).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"{self.path} does not know its own incarnation any more")
        checks.expect(row[0] + row[1] == row[2], "its own incarnation")
        self.last_seq, self.group, _ = row
        self.committed_seq = self.last_seq
        return self.group

    def append(self, body: bytes) -> int:
        """Writes a record, inside a group; its number."""
        self.last_seq += 1
        self.connection.execute(
            "INSERT INTO records VALUES (?, ?, ?)",
            (record_id(self.no, self.last_seq), body, crc32(body, self._salt ^ self.last_seq)),
        )
        return self.last_seq

    def write_all(self, writes: Sequence[Write]) -> list[WriteResult] | None:
        """Applies writes that only append, in a few statements. None: a key is taken, roll back and use `write`."""
        # Of a `bytes` SQLite's module asks first whether somebody has an adapter for it, and not of a `bytearray`.
        at = microseconds(self.clock.now())
        keys: list[object] = []
        for _, written, *_ in writes:
            if written is not None:
                customer_id, key, content_hash, answer = written
                keys += (customer_id, key, bytearray(content_hash), bytearray(answer), at)
        for count, values in _statements(keys, KEY_COLUMNS):
            if self.connection.execute(_insert_keys(count), values).rowcount != count:
                return None
        base, salt, seq = self.no << SEQ_BITS, self._salt, self.last_seq
        records: list[object] = []
        results: list[WriteResult] = []
        for usage, _, _, changes, _ in writes:
            if usage:
                seq += 1
                body = bytearray(usage_body(usage))
                records += (base | seq, body, crc32(body, salt ^ seq))
            if changes:
                self._change(changes, seq if usage else 0)
            results.append(Written(seq if usage else 0))
        for count, values in _statements(records, RECORD_COLUMNS):
            self.connection.execute(_insert_records(count), values)
        self.last_seq = seq
        return results

    def write(self, write: Write) -> WriteResult:
        """Applies one write in whole, or finds what stands in its way and applies nothing."""
        if write.key is not None:
            entry = read_key(self.connection, write.key.customer_id, write.key.key)
            if entry is not None:
                return KeyTaken(entry)
        at = microseconds(self.clock.now())
        if write.reservation is not None:
            stored = read_reservation(self.connection, write.reservation.reservation_id)
            is_lost = stored is None and write.is_remembered
            if not is_lost and (0 if stored is None else stored.version) != write.reservation.version - 1:
                return ReservationMoved(stored)
            self.put_reservation(write.reservation, at)
        if write.key is not None:
            self.put_key(write.key, at)
        seq = self.append(usage_body(write.usage)) if write.usage else 0
        self._change(write.leases, seq)
        return Written(seq)

    def put_reservation(self, reservation: Reservation, at: int) -> None:
        """Stores it as it now stands."""
        values = (
            reservation.reservation_id,
            reservation.version,
            int(reservation.is_open),
            reservation.state,
        )
        self.connection.execute(
            "INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (reservation_id) DO UPDATE SET "
            "version = excluded.version, is_open = excluded.is_open, state = excluded.state, at = excluded.at, "
            "checksum = excluded.checksum",
            (*values, at, checks.of_row(*values)),
        )

    def put_key(self, key: KeyEntry, at: int) -> None:
        """Stores a key that is not there yet."""
        self.connection.execute(
            "INSERT INTO keys (customer_id, key, content_hash, answer, at) VALUES (?, ?, ?, ?, ?)",
            (key.customer_id, key.key, key.content_hash, key.answer, at),
        )

    def _change(self, changes: Iterable[LeaseChange], seq: int) -> None:
        for lease_id, charged, held in changes:
            if held:
                self._held[lease_id] = self._held.get(lease_id, 0) + held
            if charged and seq and lease_id in self.earlier_leases:
                row = (self.no, seq, lease_id, charged)
                self.connection.execute(
                    "INSERT INTO carried VALUES (?, ?, ?, ?, ?)", (*row, checks.of_row(*row))
                )

    def free_bytes(self) -> int:
        """How much room the file system has for us."""
        stat = os.statvfs(self.path.parent)
        return stat.f_bavail * stat.f_frsize

    def close(self, *, synced: bool) -> None:
        """Closes the file; `synced`: with everything on the disk, so that a reboot loses nothing."""
        try:
            if synced:
                self.connection.execute("PRAGMA synchronous = FULL")
                self.connection.execute(
                    "UPDATE incarnations SET was_stopped = 1, checksum = ? WHERE no = ?",
                    (checks.of_row(*self._who, 1), self.no),
                )
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()


@cache
def _insert_keys(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?)"] * rows)
    return f"INSERT OR IGNORE INTO keys (customer_id, key, content_hash, answer, at) VALUES {values}"  # noqa: S608


@cache
def _insert_records(rows: int) -> str:
    return f"INSERT INTO records VALUES {','.join(['(?,?,?)'] * rows)}"  # noqa: S608


def _statements(values: list[object], columns: int) -> Iterable[tuple[int, list[object]]]:
    """How many rows go into each statement, and their values, one behind the other."""
    size = ROWS_PER_STATEMENT * columns
    for start in range(0, len(values), size):
        some = values[start : start + size]
        yield len(some) // columns, some
