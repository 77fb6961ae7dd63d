"""What to do with a file that can not be trusted: set it aside under another name, and write again what can be read."""

import contextlib
import os
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox import checks
from sidecar.outbox.encoding import garbled, with_uid
from sidecar.outbox.file import SEQ_BITS, Connect, OutboxFile, read_meta

_log = structlog.stdlib.get_logger(__name__)

CHUNK: Final = 500
ID_MAX: Final = 1 << 62
"""No record has such an id, whatever bits of one have turned."""
INCARNATIONS: Final = 64
"""So many processes may have written a file that does not say any more which."""
STARTS: Final = 10_000
"""Of a file that says how many, the last so many are looked for."""
NEARBY: Final = 1024
"""So many ids are looked at one by one behind a row that can not be read."""
LOOKS: Final = 200 * NEARBY
"""And so many in a table, which takes a few seconds: each start that was guessed is a look at the same spoiled page."""

_SUFFIXES: Final = ("-wal", "-shm")
_WHOLE: Final = ".new"

_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_FIRST_PAGE: Final = (1).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Salvaged:
    """How much could be read of a file that was set aside. `unread`: numbers that records may have had; `spoiled`: rows
    with another checksum: of them only records are copied, as what nobody can read.
    """

    records: int
    keys: int
    reservations: int
    leases: int
    unread: int
    spoiled: int


def is_beheaded(path: Path) -> bool:
    """Is there a log whose main file is empty or gone? SQLite takes such a log for a leftover, and deletes it."""
    log = _log_of(path)
    return _size(path) <= 1 and _size(log) > 0  # to SQLite a file of one byte is an empty one


def _give_head(path: Path) -> bool:
    """Puts the first page, as the log has it last, where the main file should be: then SQLite reads the log again.

    False: the log does not have it. The format is that of https://sqlite.org/fileformat2.html#walformat.
    """
    log = _log_of(path).read_bytes()
    page_bytes = int.from_bytes(log[8:12], "big")
    head = b""
    if page_bytes:
        for start in range(_LOG_HEADER_BYTES, len(log), _FRAME_HEADER_BYTES + page_bytes):
            page = log[start + _FRAME_HEADER_BYTES : start + _FRAME_HEADER_BYTES + page_bytes]
            if log[start : start + 4] == _FIRST_PAGE and len(page) == page_bytes:
                head = page
    path.write_bytes(head)
    return bool(head)


def _log_of(path: Path) -> Path:
    return _beside(path, "-wal")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def write_again(path: Path, *, make: Callable[[Path], OutboxFile], connect: Connect, at: datetime) -> None:
    """Copies what can be read into a new file beside it, for `exchange`. Nobody may write to the old one any more.

    The copy is renamed when it is whole and on the disk: to where the old file will go, and `.new`. One that is there
    already stays, for nothing was written since. Raises sqlite3.Error and OSError, and is begun again then.
    """
    if _copies(path):
        return
    part = _part(path)
    _remove(part)
    file = make(part)
    try:
        salvage(path, file, connect)
    except BaseException:
        file.connection.close()
        raise
    file.close(synced=True)
    if _size(_log_of(part)) > 0:
        raise OSError(f"{part} has a log that could not be folded in")
    _sync(part)
    part.rename(_beside(_free_name(path, at), _WHOLE))


def exchange(path: Path) -> Path | None:
    """Lets the copy take the path; the old file's new path. None: there is no copy, and nothing is done.

    Raises OSError. Whatever interrupts it, doing it once more ends it: the names say how far it came. Nobody may open
    a file at the path meanwhile: SQLite finds a log by its name, and a connection that has one file with the log of
    the other spoils or deletes it.
    """
    aside = None
    for copy in _copies(path):
        # Each before the next: a copy that is not on the disk yet must not be all there is, nor have the old one's log.
        _sync(path.parent)
        aside = _set_aside(path, copy.with_suffix(""))
        _sync(path.parent)
        copy.rename(path)
        _sync(path.parent)
    return aside


def finish(path: Path) -> None:
    """Ends what a crash interrupted: takes a whole copy into use, throws half of one away. Raises OSError."""
    aside = exchange(path)
    if aside is not None:
        _log.warning("outbox goes on in the copy that an earlier process made", file=str(aside))
    _remove(_part(path))


def _part(path: Path) -> Path:
    return _beside(path, ".part")


def _copies(path: Path) -> list[Path]:
    start = f"{path.name}.aside-"
    return [
        file
        for file in sorted(path.parent.iterdir())
        if file.name.startswith(start) and file.suffix == _WHOLE and file.is_file()
    ]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", *_SUFFIXES):
        _beside(path, suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_name(path: Path, at: datetime) -> Path:
    stem = _beside(path, f".aside-{at:%Y%m%dT%H%M%S}")
    aside, n = stem, 1
    while any(_beside(aside, suffix).exists() for suffix in ("", *_SUFFIXES, _WHOLE)):
        n += 1
        aside = _beside(stem, f"-{n}")
    return aside


def _set_aside(path: Path, aside: Path) -> Path:
    """What is (still) there of the file goes to that name, or, never over another one, to the next that is free."""
    left = [suffix for suffix in (*_SUFFIXES, "") if _beside(path, suffix).exists()]
    target, n = aside, 1
    while any(_beside(target, suffix).exists() for suffix in left):
        n += 1
        target = _beside(aside, f"-{n}")
    for suffix in left:
        _beside(path, suffix).rename(_beside(target, suffix))
    return target


def salvage(broken: Path, into: OutboxFile, connect: Connect) -> Salvaged:
    """Copies what can be read of the file into a fresh one, in transactions of its own. Raises only for the
    fresh one.
    """
    if is_beheaded(broken) and not _give_head(broken):
        return Salvaged(0, 0, 0, 0, 0, 0)  # unopened: the log stays as it is
    try:
        old = connect(broken, creates=False)
    except sqlite3.Error:
        return Salvaged(0, 0, 0, 0, 0, 0)
    with contextlib.closing(old):
        uids = _Uids(old)
        _in_group(into, lambda: _copy_installation(old, into))
        records, unread, spoiled = _copy_records(old, into, uids)
        keys, _ = _copy(old, into, "keys", _KEY, lambda row: row)
        reservations, bad_reservations = _copy(old, into, "reservations", _RESERVATION, _reservation)
        leases, bad_leases = _copy(old, into, "leases", _LEASE, _lease)
    spoiled += bad_reservations + bad_leases
    result = Salvaged(records, keys, reservations, leases, unread, spoiled)
    _log.warning(
        "outbox salvaged",
        file=str(broken),
        records=records,
        keys=keys,
        reservations=reservations,
        unread=unread,
        spoiled=spoiled,
    )
    return result


def _copy_installation(old: sqlite3.Connection, into: OutboxFile) -> None:
    with contextlib.suppress(sqlite3.Error):
        installation_id = read_meta(old, "installation_id")
        if installation_id:
            into.set_meta("installation_id", installation_id)


class _Uids:
    """Who wrote a record first; what the file does not say any more is made up once from its place in the file."""

    def __init__(self, old: sqlite3.Connection) -> None:
        self._outbox_id = ""
        self._incarnations: dict[int, str] = {}
        with contextlib.suppress(sqlite3.Error):
            self._outbox_id = read_meta(old, "outbox_id") or ""
        with contextlib.suppress(sqlite3.Error):
            # Its name is right, whatever became of its marks: without it what was booked would be sent as new.
            for *row, checksum in old.execute(
                "SELECT no, incarnation_id, boot_id, is_synced, was_stopped, checksum FROM incarnations"
            ).fetchall():
                if checks.of_row(*row) == checksum:
                    self._incarnations[row[0]] = row[1]

    def of(self, row_id: int) -> session.RecordUid | None:
        incarnation = self._incarnations.get(row_id >> SEQ_BITS)
        if not self._outbox_id or incarnation is None:
            return None
        seq = row_id & ((1 << SEQ_BITS) - 1)
        return session.RecordUid(outbox_id=self._outbox_id, incarnation_id=incarnation, seq=seq)


def _copy_records(old: sqlite3.Connection, into: OutboxFile, uids: _Uids) -> tuple[int, int, int]:
    copied, unread, spoiled, expected = 0, 0, 0, None
    # The disk may have turned bits of a row's types, too: whatever it is, a body is bytes.
    columns = "id, coalesce(CAST(body AS BLOB), x''), CASE typeof(body) WHEN 'blob' THEN checksum END"
    for rows in _chunks(old, "records", columns, _starts(old)):
        bodies = []
        for row_id, body, checksum in rows:
            uid = uids.of(row_id)
            salt, seq = checks.of_incarnation(row_id >> SEQ_BITS), row_id & ((1 << SEQ_BITS) - 1)
            is_right = checks.is_record(salt, seq, body, checksum)
            spoiled += not is_right
            whole = body if is_right else garbled(body)
            bodies.append(whole if uid is None else with_uid(whole, uid))
            if expected is not None and row_id > expected and row_id >> SEQ_BITS == expected >> SEQ_BITS:
                unread += row_id - expected
            expected = row_id + 1
        _in_group(into, lambda bodies=bodies: [into.append(body) for body in bodies])  # type: ignore[misc]
        copied += len(bodies)
    return copied, unread, spoiled


_KEY: Final = "customer_id, key, content_hash, answer, at"
_RESERVATION: Final = "reservation_id, version, is_open, state, at, checksum"
_LEASE: Final = "lease_id, no, lease, allotted, held, returned, rest, checksum"

_Row = tuple[Any, ...]


def _reservation(row: _Row) -> _Row | None:
    *values, _, checksum = row
    return row if checks.of_row(*values) == checksum else None


def _lease(row: _Row) -> _Row | None:
    """Of a lease of a file that was set aside no incarnation is known."""
    if not checks.is_lease(*row):
        return None
    lease_id, _, lease, allotted, *amounts, _ = row
    return (lease_id, None, lease, allotted, *amounts, checks.of_row(lease_id, None, lease, allotted))


def _copy(
    old: sqlite3.Connection, into: OutboxFile, table: str, columns: str, mend: Callable[[_Row], _Row | None]
) -> tuple[int, int]:
    """How many rows were copied, and how many were spoiled. `mend`: what becomes of a row; None: it is spoiled."""
    copied, spoiled = 0, 0
    marks = ", ".join("?" * len(columns.split(",")))
    sql = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608
    for rows in _chunks(old, table, f"rowid, {columns}"):
        values = [mended for row in rows if (mended := mend(row[1:])) is not None]
        _in_group(into, lambda values=values: into.connection.executemany(sql, values))  # type: ignore[misc]
        copied += len(values)
        spoiled += len(rows) - len(values)
    return copied, spoiled


def _in_group(into: OutboxFile, do: Callable[[], object]) -> None:
    into.begin()
    try:
        do()
        into.finish_group()
    except BaseException:
        into.roll_back()
        raise
    into.commit()


def _starts(old: sqlite3.Connection) -> list[int]:
    """Where records may begin: those of each process, and of them those that the control plane may not have."""
    last = INCARNATIONS
    with contextlib.suppress(sqlite3.Error):
        (last_id,) = old.execute("SELECT max(rowid) FROM records").fetchone()
        last = max(last, min(last_id or 0, ID_MAX) >> SEQ_BITS)
    found = {no << SEQ_BITS for no in range(max(1, last - STARTS), last + 1)}
    with contextlib.suppress(sqlite3.Error):
        for no, cursor in old.execute("SELECT no, cursor FROM incarnations"):
            # Whatever stands there is only looked for; no more than that it is an id is known of it.
            if isinstance(no, int) and isinstance(cursor, int) and 0 <= cursor < 1 << SEQ_BITS:
                found |= {
                    start for start in (no << SEQ_BITS, (no << SEQ_BITS) + cursor + 1) if 0 < start < ID_MAX
                }
    return sorted(found)


def _chunks(
    old: sqlite3.Connection, table: str, columns: str, starts: Sequence[int] = ()
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in order of their id, with a leap over each stretch that can not be read, but over none of `starts`."""
    first = 0
    # Not "> ?": where the row before lies on a page that is spoiled, the first one of the next would be lost with it.
    select = f"SELECT {columns} FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT ?"  # noqa: S608
    looks = _Looks(old, select)
    while True:
        rows: list[tuple[Any, ...]] = []
        is_damaged = False
        try:
            for row in old.execute(select, (first, CHUNK)):
                rows.append(row)  # noqa: PERF402 - keep what came before the damage
        except sqlite3.Error:
            is_damaged = True
        if rows:
            yield rows
            first = rows[-1][0] + 1
        if is_damaged:
            # Python hands a row over only once the step behind it was done: the last one before the damage is missing.
            last = _next(old, select, first)
            if last is not None:
                yield [last]
                first = last[0] + 1
            beyond = looks.beyond_damage(first)
            ahead = starts[bisect_right(starts, first) :][:1]
            nearest = min([*ahead, *(() if beyond is None else (beyond,))], default=None)
            if nearest is None:
                return
            first = nearest
        elif len(rows) < CHUNK:
            return
        if first >= ID_MAX:
            return


def _next(old: sqlite3.Connection, select: str, first: int) -> tuple[Any, ...] | None:
    """The next row alone, from `first` on. None: it can not be read, or there is none."""
    try:
        row: tuple[Any, ...] | None = old.execute(select, (first, 1)).fetchone()
    except sqlite3.Error:
        return None
    return row


class _Looks:
    """For what can be read again behind what can not. Nearby at each id, as long as looks are left: between two spoiled
    pages one may be whole. Further away in leaps.
    """

    def __init__(self, old: sqlite3.Connection, select: str) -> None:
        self._old = old
        self._select = select
        self._left = LOOKS

    def beyond_damage(self, first: int) -> int | None:
        """The nearest id from `first` on from which on a row can be read; None: there is none."""
        near = min(NEARBY, self._left)
        for offset in range(near):
            self._left -= 1
            if self._can_read(first + offset):
                return first + offset
        fails, good = near - 1, max(1, near)
        while not self._can_read(first + good):
            fails, good = good, good * 2
            if first + good >= ID_MAX:
                return None
        while good - fails > 1:
            middle = (good + fails) // 2
            if self._can_read(first + middle):
                good = middle
            else:
                fails = middle
        return first + good

    def _can_read(self, row_id: int) -> bool:
        try:
            self._old.execute(self._select, (row_id, 1)).fetchone()
        except sqlite3.Error:
            return False
        return True
