"""The outbox on SQLite: the port, its readers, and what the sender needs. Writing is `writer.py`'s."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, TypeVar

import structlog

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox import keeping
from sidecar.outbox.encoding import EncodedBatch, encode_batch
from sidecar.outbox.file import (
    Connect,
    Job,
    OutboxFile,
    connect,
    read_key,
    read_reservation,
    take_lock,
)
from sidecar.outbox.port import (
    Durability,
    Identity,
    Incarnation,
    KeyEntry,
    OutboxFailed,
    OutboxUnusable,
    Reservation,
    Write,
    WriteResult,
    Written,
)
from sidecar.outbox.salvage import exchange, finish, is_beheaded, write_again
from sidecar.outbox.writer import GroupWriter, Pending
from sidecar.runtime.clock import Clock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown, Overloaded, Resolution

_log = structlog.stdlib.get_logger(__name__)
_Read = TypeVar("_Read")

REMOTE_TIMEOUT_SECONDS: Final = 10.0
REMOTE_SOON_SECONDS: Final = 0.5
"""Within this a control plane that is there confirms; only who waits longer is stood in for."""
MIN_FREE_BYTES: Final = 8 * 1024 * 1024
MAX_READERS: Final = 8


class SqliteOutbox:
    """Satisfies `Outbox` and `Shelf`. Made by opening; `close` ends it."""

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability,
        clock: Clock,
        make_id: Callable[[], str],
        boot_id: str,
        metrics: Metrics,
        connect: Connect = connect,
        min_free_bytes: int = MIN_FREE_BYTES,
        blocking: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        is_threaded: bool = True,
    ) -> None:
        """Locks and opens the file, or makes it, and starts an incarnation; a file that can not be read is set aside.

        `blocking()`: around waits for the control plane; raises Overloaded where too many wait already. `is_threaded`
        False writes in the caller's thread, one group a call: for simulations. Raises
        OutboxLocked, OutboxUnusable and OSError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._durability = durability
        self._clock = clock
        self._make_id = make_id
        self._boot_id = boot_id
        self._metrics = metrics
        self._connect = connect
        self._blocking = blocking
        # Held while a reader opens the file; and who exchanges the file says by it that from now on none may.
        self._door = threading.Lock()
        self._is_open_to_readers = False
        self._lock_file: IO[bytes] = take_lock(path)
        try:
            file = self._open_or_set_aside()
        except BaseException:
            self._lock_file.close()
            raise
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._reader_round = 0
        self._acknowledged = threading.Condition()
        self._cursors: dict[str, int] = {}
        self._on_waiting: Callable[[], None] = lambda: None
        self._adopt(file)
        self._writer = GroupWriter(
            file, metrics=metrics, min_free_bytes=min_free_bytes, replace=self._replace
        )
        if is_threaded:
            self._writer.start()

    def _open_or_set_aside(self) -> OutboxFile:
        finish(self._path)
        if is_beheaded(self._path):
            return self._start_over("its main file is empty or gone, and its log is not")
        try:
            return self._open_file()
        except sqlite3.NotSupportedError as newer:
            raise OutboxUnusable(str(newer)) from newer
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not keeping.is_damage(error):
                raise OutboxUnusable(f"{self._path}: {error}") from error
            return self._start_over(str(error))

    def _make_file(self, path: Path) -> OutboxFile:
        return OutboxFile(
            path,
            durability=self._durability,
            clock=self._clock,
            make_id=self._make_id,
            boot_id=self._boot_id,
            connect=self._connect,
        )

    def _open_file(self) -> OutboxFile:
        file = self._make_file(self._path)
        try:
            keeping.look_over(file.connection)
        except BaseException:
            file.connection.close()
            raise
        return file

    def _start_over(self, cause: str) -> OutboxFile:
        write_again(self._path, make=self._make_file, connect=self._connect, at=self._clock.now())
        with self._door:
            self._is_open_to_readers = False
        aside = exchange(self._path)
        self._metrics.outbox_set_aside.inc()
        _log.error("outbox can not be trusted and was set aside", cause=cause, file=str(aside))
        return self._open_file()

    def _replace(self, old: OutboxFile, cause: str) -> OutboxFile:
        old.connection.close()
        self._drop_readers()
        file = self._start_over(cause)
        # Once more: who read while it was copied has opened the old file, and must not go on with it.
        self._drop_readers()
        self._adopt(file)
        return file

    def _adopt(self, file: OutboxFile) -> None:
        self._file = file
        self._identity = file.identity
        self._generation = int(file.get_meta("generation") or 0)
        with self._acknowledged:
            self._cursors = {
                i.incarnation_id: i.cursor for i in keeping.incarnations(file.connection, self._boot_id)
            }
        # Not before: what is read goes up under the identity, and by the cursors, of the file that it is read from.
        with self._door:
            self._is_open_to_readers = True

    def on_waiting(self, call: Callable[[], None]) -> None:
        """What to call when somebody waits for the control plane's acknowledgement: the sender's kick."""
        self._on_waiting = call

    def on_health(self, call: Callable[[], None]) -> None:
        """What to call when `is_healthy` has changed. Must not block."""
        self._writer.on_health(call)

    def on_written(self, call: Callable[[], None]) -> None:
        """What to call when something was written that may have to be uploaded. Must not block."""
        self._writer.on_written(call)

    @property
    def identity(self) -> Identity:
        """Who writes now."""
        return self._identity

    @property
    def is_healthy(self) -> bool:
        """Does it take writes?"""
        return self._writer.is_healthy

    @property
    def generation(self) -> int:
        """The control plane's generation that this file last spoke to; 0: none."""
        return self._generation

    def commit(self, write: Write, *, timeout_seconds: float | None = None) -> WriteResult:
        """See the port."""
        pending: Pending[list[WriteResult]] = self._writer.submit(Pending((write,)))
        result = pending.wait()[0]
        if self._durability is Durability.REMOTE:
            self._await_results([result], timeout_seconds)
        return result

    def commit_all(
        self, writes: Sequence[Write], *, timeout_seconds: float | None = None
    ) -> Sequence[WriteResult]:
        """See the port."""
        if not writes:
            return []
        pending: Pending[list[WriteResult]] = self._writer.submit(Pending(writes))
        results = pending.wait()
        if self._durability is Durability.REMOTE:
            self._await_results(results, timeout_seconds)
        return results

    def _await_results(self, results: Sequence[WriteResult], timeout_seconds: float | None) -> None:
        """What was written is in the books, and so is what stands in the way of what was not."""
        written = [result.seq for result in results if isinstance(result, Written)]
        if len(written) < len(results):
            self._await_earlier(timeout_seconds)
        else:
            mine = {self._identity.incarnation_id: max(written)}
            self._await_remote(mine, timeout_seconds, is_applied=True)

    def _await_earlier(self, timeout_seconds: float | None = None) -> None:
        """In `remote`: everything that this file has is in the books."""
        if self._durability is Durability.REMOTE:
            marks = {one.incarnation_id: one.last_seq for one in self.incarnations()}
            self._await_remote(marks, timeout_seconds, is_applied=False)

    def _await_remote(
        self, marks: Mapping[str, int], timeout_seconds: float | None, *, is_applied: bool
    ) -> None:
        """Raises OutcomeUnknown when it takes too long, or too many wait already; `is_applied`: what its resolution
        says.
        """
        seconds = REMOTE_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
        if self._wait_for(marks, min(seconds, REMOTE_SOON_SECONDS)):
            return
        cause = "the control plane has not confirmed it yet"
        try:
            with self._blocking():
                if self._wait_for(marks, seconds - REMOTE_SOON_SECONDS):
                    return
        except Overloaded as crowd:
            cause = f"{cause}, and it is not waited for: {crowd}"
        resolution = Resolution()
        resolution.resolve(applied=is_applied)
        raise OutcomeUnknown(cause, resolution)

    def wait_acknowledged(self, identity: Identity, seq: int, timeout_seconds: float) -> bool:
        """See the port."""
        return self._wait_for({identity.incarnation_id: seq}, timeout_seconds)

    def _wait_for(self, marks: Mapping[str, int], timeout_seconds: float) -> bool:
        """`marks`: by incarnation, up to which number. False: not in time."""

        def are_reached() -> bool:
            return all(self._cursors.get(one, 0) >= seq for one, seq in marks.items())

        with self._acknowledged:
            if are_reached():
                return True
        self._on_waiting()
        with self._acknowledged:
            return self._acknowledged.wait_for(are_reached, timeout_seconds)

    def _job(self, job: Job, *, drains: bool = False) -> object:
        return self._writer.submit(Pending[object]((), job, drains=drains)).wait()

    def record_leases(self, leases: Sequence[session.PresentedLease]) -> None:
        """See the port."""
        self._job(lambda file: keeping.insert_leases(file, leases))

    def record_returns(self, amounts: Sequence[session.LeaseAmount]) -> Sequence[session.LeaseReturn]:
        """See the port."""
        returns: list[session.LeaseReturn] = []
        self._job(lambda file: returns.extend(keeping.insert_returns(file, amounts)))
        return returns

    def count_refusals(self, counts: Iterable[bytes], samples: Iterable[bytes]) -> None:
        """See the port."""
        rows = [(0, body) for body in counts] + [(1, body) for body in samples]
        with contextlib.suppress(
            NotWritten
        ):  # a lossy channel: usage goes first, and refusals wait for nobody
            self._writer.submit(Pending[object]((), lambda file: keeping.insert_refusals(file, rows)))

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with self._readers_lock:
            connection = self._readers.pop() if self._readers else None
            taken_in = self._reader_round
        if connection is None:
            connection = self._open_reader()
        is_good = False
        try:
            yield connection
            is_good = True
        finally:
            with self._readers_lock:
                is_good = is_good and taken_in == self._reader_round and len(self._readers) < MAX_READERS
                if is_good:
                    self._readers.append(connection)
            if not is_good:
                connection.close()

    def _open_reader(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, and OutboxFailed while the file is exchanged for another one."""
        with self._door:
            if not self._is_open_to_readers:
                raise OutboxFailed("the outbox is being set aside")
            connection = self._connect(self._path, creates=False)
            try:
                connection.execute("PRAGMA query_only = 1")
                # SQLite opens the log with the first look into the file: here, where both have their names.
                connection.execute("PRAGMA schema_version").fetchone()
            except BaseException:
                connection.close()
                raise
            return connection

    def _read(self, what: Callable[[sqlite3.Connection], _Read]) -> _Read:
        file = self._file
        try:
            with self._reader() as connection:
                return what(connection)
        except sqlite3.Error as error:
            if keeping.is_damage(error):
                self._writer.found_damage(file, str(error))
            raise OutboxFailed(f"the outbox can not be read: {error}") from error

    def _drop_readers(self) -> None:
        with self._readers_lock:
            self._reader_round += 1
            readers, self._readers = self._readers, []
        for connection in readers:
            connection.close()

    def key(self, customer_id: str, key: str) -> KeyEntry | None:
        """See the port."""
        found = self._read(lambda connection: read_key(connection, customer_id, key))
        if found is not None:
            self._await_earlier()
        return found

    def reservation(self, reservation_id: str) -> Reservation | None:
        """See the port."""
        found = self._read(lambda connection: read_reservation(connection, reservation_id))
        if found is not None and not found.is_open:
            self._await_earlier()
        return found

    def open_reservations(self) -> Iterator[Reservation]:
        """See the port."""
        return iter(self._read(keeping.open_reservations))

    def incarnations(self) -> Sequence[Incarnation]:
        """See `Shelf`."""
        with self._acknowledged:
            cursors = dict(self._cursors)
        return self._read(lambda connection: keeping.incarnations(connection, self._boot_id, cursors))

    def read_batch(self, incarnation_id: str, *, max_records: int, max_bytes: int) -> EncodedBatch | None:
        """See `Shelf`."""
        with self._acknowledged:
            cursor = self._cursors.get(incarnation_id, 0)
            identity = replace(self._identity, incarnation_id=incarnation_id)
        bodies = self._read(
            lambda connection: keeping.read_bodies(
                connection, incarnation_id, after=cursor, max_records=max_records, max_bytes=max_bytes
            )
        )
        return encode_batch(identity, cursor + 1, bodies) if bodies else None

    def acknowledge(self, incarnation_id: str, cursor: int) -> None:
        """See `Shelf`."""
        with self._acknowledged:
            if cursor <= self._cursors.get(incarnation_id, 0):
                return
            self._cursors[incarnation_id] = cursor
            self._acknowledged.notify_all()
        try:
            self._job(lambda file: keeping.move_cursor(file, incarnation_id, cursor), drains=True)
        except (NotWritten, OutcomeUnknown) as error:
            _log.warning(
                "cursor moved in memory only", incarnation_id=incarnation_id, cursor=cursor, cause=str(error)
            )

    def belong_to(self, installation_id: str) -> None:
        """See `Shelf`."""
        self._identity = replace(self._identity, installation_id=installation_id)
        try:
            self._job(lambda file: file.set_meta("installation_id", installation_id), drains=True)
        except (NotWritten, OutcomeUnknown) as error:
            _log.warning(
                "installation kept in memory only", installation_id=installation_id, cause=str(error)
            )

    def rewind(self, cursors: Mapping[str, int], generation: int) -> None:
        """See `Shelf`."""
        self._job(lambda file: keeping.rewind(file, cursors, generation))
        with self._acknowledged:
            self._cursors.update(cursors)
        self._generation = generation

    def keep(self, incarnation_id: str) -> Sequence[session.LeaseAmount]:
        """See `Shelf`."""
        return self._read(lambda connection: keeping.keep(connection, incarnation_id))

    def mark_ended(self, incarnation_id: str) -> None:
        """See `Shelf`."""
        self._job(lambda file: keeping.mark_ended(file, incarnation_id), drains=True)

    def presented(self) -> Sequence[session.PresentedLease]:
        """See `Shelf`."""
        ended_after = self._clock.now() - keeping.ROWS_KEPT
        return self._read(
            lambda connection: keeping.presented(
                connection, self._identity.incarnation_id, ended_after=ended_after
            )
        )

    def take_refusals(self, limit: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """See `Shelf`."""
        counts: list[bytes] = []
        samples: list[bytes] = []
        if not self._read(keeping.has_refusals):
            return counts, samples
        self._job(lambda file: keeping.take_refusals(file, limit, counts, samples), drains=True)
        return counts, samples

    def purge(self) -> bool:
        """See `Shelf`."""
        return bool(self._job(keeping.purge, drains=True))

    def set_aside(self, cause: str) -> Identity:
        """See the port."""
        self._writer.replace_file(cause)
        return self._identity

    def close(self) -> None:
        """Writes what waits, syncs, and lets the file go. A second time does nothing."""
        if self._lock_file.closed:
            return
        self._writer.stop()
        self._drop_readers()
        try:
            self._file.close(synced=self._writer.is_sound)
        except sqlite3.Error as error:
            _log.warning("outbox was closed without a last sync", error=str(error))
        self._lock_file.close()
