"""What the file holds beside usage: leases, returns, cursors, incarnations, refusals; and what is thrown away."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox import checks
from sidecar.outbox.encoding import returned_body
from sidecar.outbox.file import SEQ_BITS, OutboxFile, as_reservation, record_id
from sidecar.outbox.port import Incarnation, Reservation
from sidecar.runtime.clock import microseconds

ROWS_KEPT: Final = timedelta(hours=24)
KEYS_KEPT: Final = timedelta(days=40)
PURGE_SLICE: Final = 500
MAX_REFUSALS: Final = 20_000

_RECORDS: Final = "SELECT id, body, checksum FROM records WHERE id BETWEEN ? AND ? ORDER BY id"
_LEASE: Final = "lease_id, no, lease, allotted, held, returned, rest, checksum"

_NO_TEXT: Final = "Could not decode to UTF-8"
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class _Lease(NamedTuple):
    lease_id: str
    no: int | None
    lease: bytes
    allotted: int
    held: int
    returned: int
    rest: int
    checksum: int


class _Progress(NamedTuple):
    """How far an incarnation is with the control plane."""

    no: int
    cursor: int
    ended: int


def is_damage(error: sqlite3.Error) -> bool:
    """Is the file itself broken, rather than its disk busy, full or away?"""
    code = getattr(error, "sqlite_errorcode", None)
    # A text that is none has no code: SQLite does not look at texts, the module that hands them over does.
    return str(error).startswith(_NO_TEXT) if code is None else code & 0xFF in _DAMAGE


def look_over(connection: sqlite3.Connection) -> None:
    """Reads what a start must be able to read: small tables, and what waits for upload. Raises
    sqlite3.DatabaseError.
    """
    for row in connection.execute("SELECT name, value, checksum FROM meta"):
        checks.intact(row, f"its {row[0]}")
    for row in connection.execute(f"SELECT {_LEASE} FROM leases"):  # noqa: S608
        _lease(row)
    _carried(connection)
    open_reservations(connection)
    incarnations(connection, "")
    for no, cursor, last_seq in connection.execute(
        "SELECT no, cursor, last_seq FROM incarnations"
    ).fetchall():
        rows = connection.execute(_RECORDS, (record_id(no, cursor + 1), record_id(no + 1, 0) - 1))
        seq = cursor
        for seq, _ in _in_order(rows, no, cursor):  # noqa: B007
            pass
        checks.expect(seq in {cursor, last_seq}, "a record")


def _in_order(rows: Iterable[tuple[Any, ...]], no: int, after: int) -> Iterator[tuple[int, bytes]]:
    """Numbers and bodies. Rows are thrown away from the first on: of those that are left none is missing."""
    salt, first, expected = checks.of_incarnation(no), record_id(no, 0), 0
    for row_id, body, checksum in rows:
        seq = row_id - first
        is_next = seq == expected if expected else seq > after
        checks.expect(is_next and checks.is_record(salt, seq, body, checksum), "a record")
        yield seq, body
        expected = seq + 1


def insert_leases(file: OutboxFile, leases: Iterable[session.PresentedLease]) -> None:
    """Leases of the present incarnation; those that are there already stay as they are."""
    rows = [(x.lease_id, file.no, x.SerializeToString(), sum(s.amount for s in x.slices)) for x in leases]
    file.connection.executemany(
        "INSERT OR IGNORE INTO leases (lease_id, no, lease, allotted, rest, checksum) VALUES (?, ?, ?, ?, ?, ?)",
        [(*row, row[-1], checks.of_row(*row)) for row in rows],
    )


def insert_returns(file: OutboxFile, amounts: Iterable[session.LeaseAmount]) -> list[session.LeaseReturn]:
    """Returns, as records."""
    written = []
    for amount in amounts:
        seq = file.append(returned_body(amount))
        file.connection.execute(
            "UPDATE leases SET returned = returned + ?1, rest = rest - ?1 WHERE lease_id = ?2",
            (amount.amount, amount.lease_id),
        )
        uid = session.RecordUid(
            outbox_id=file.identity.outbox_id, incarnation_id=file.identity.incarnation_id, seq=seq
        )
        written.append(session.LeaseReturn(uid=uid, lease_id=amount.lease_id, amount=amount.amount))
    return written


def insert_refusals(file: OutboxFile, rows: Sequence[tuple[int, bytes]]) -> None:
    """Counts (0) and samples (1). When too many wait, the oldest go: this channel may lose."""
    file.connection.executemany("INSERT INTO refusals (is_sample, body) VALUES (?, ?)", rows)
    file.connection.execute(
        "DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?", (MAX_REFUSALS,)
    )


def has_refusals(connection: sqlite3.Connection) -> bool:
    """Does any wait?"""
    return connection.execute("SELECT 1 FROM refusals LIMIT 1").fetchone() is not None


def take_refusals(file: OutboxFile, limit: int, counts: list[bytes], samples: list[bytes]) -> None:
    """Takes the oldest out of the file, into the two lists."""
    rows = file.connection.execute(
        "SELECT id, is_sample, body FROM refusals ORDER BY id LIMIT ?", (limit,)
    ).fetchall()
    for _, is_sample, body in rows:
        (samples if is_sample else counts).append(body)
    if rows:
        file.connection.execute("DELETE FROM refusals WHERE id <= ?", (rows[-1][0],))


def open_reservations(connection: sqlite3.Connection) -> list[Reservation]:
    """All that are open."""
    rows = connection.execute(
        "SELECT reservation_id, version, is_open, state, checksum FROM reservations WHERE is_open = 1"
    ).fetchall()
    return [as_reservation(row) for row in rows]


def incarnations(
    connection: sqlite3.Connection, boot_id: str, cursors: Mapping[str, int] | None = None
) -> list[Incarnation]:
    """All that wrote this file, in order. `cursors` are newer ones, from memory."""
    rows = connection.execute(
        "SELECT no, incarnation_id, boot_id, is_synced, was_stopped, last_seq, last_group, marks, checksum, "
        "cursor, ended, progress_checksum FROM incarnations ORDER BY no"
    ).fetchall()
    newer = cursors or {}
    found = []
    for *row, last_seq, last_group, marks, checksum, cursor, ended, progress_checksum in rows:
        no, incarnation_id, booted, is_synced, was_stopped = row
        checks.expect(checks.is_incarnation(row, last_seq, last_group, marks, checksum), "an incarnation")
        checks.intact((no, cursor, ended, progress_checksum), "a cursor")
        closable = is_synced or was_stopped or (booted == boot_id != "")
        cursor = newer.get(incarnation_id, cursor)  # noqa: PLW2901
        found.append(Incarnation(incarnation_id, last_seq, cursor, bool(ended), bool(closable)))
    return found


def read_bodies(
    connection: sqlite3.Connection, incarnation_id: str, *, after: int, max_records: int, max_bytes: int
) -> list[bytes]:
    """Bodies from `after` + 1 on, without gaps: a number whose row is gone is an empty body."""
    found = connection.execute(
        "SELECT no, last_seq FROM incarnations WHERE incarnation_id = ?", (incarnation_id,)
    ).fetchone()
    if found is None or found[1] <= after:
        return []
    no, last_seq = found
    last = min(last_seq, after + max_records)
    rows = connection.execute(_RECORDS, (record_id(no, after + 1), record_id(no, last))).fetchall()
    bodies: list[bytes] = []
    size = 0
    for seq, body in _in_order(rows, no, after):
        size += len(body)
        if bodies and size > max_bytes:
            return bodies
        bodies.extend([b""] * (seq - 1 - after - len(bodies)))
        bodies.append(body)
    missing = last - after - len(bodies)
    checks.expect(not (rows and missing), "a record")
    return bodies + [b""] * missing


def move_cursor(file: OutboxFile, incarnation_id: str, cursor: int) -> None:
    """What was acknowledged; the rows go a day later."""
    progress = _progress(file.connection, incarnation_id)
    if progress is None or progress.cursor >= cursor:
        return
    _go_on(file.connection, progress._replace(cursor=cursor))
    at = microseconds(file.clock.now())
    file.connection.execute("INSERT INTO acknowledgements VALUES (?, ?, ?)", (progress.no, cursor, at))
    file.connection.execute("DELETE FROM carried WHERE no = ? AND seq <= ?", (progress.no, cursor))


def rewind(file: OutboxFile, cursors: Mapping[str, int], generation: int) -> None:
    """Cursors of a control plane that was restored; incarnations that it names as open are open again."""
    for incarnation_id, cursor in cursors.items():
        progress = _progress(file.connection, incarnation_id)
        if progress is not None:
            _go_on(file.connection, progress._replace(cursor=cursor, ended=0))
            file.connection.execute(
                "DELETE FROM acknowledgements WHERE no = ? AND seq > ?", (progress.no, cursor)
            )
    file.set_meta("generation", str(generation))


def _progress(connection: sqlite3.Connection, incarnation_id: str) -> _Progress | None:
    row = connection.execute(
        "SELECT no, cursor, ended, progress_checksum FROM incarnations WHERE incarnation_id = ?",
        (incarnation_id,),
    ).fetchone()
    return None if row is None else _Progress(*checks.intact(row, "a cursor"))


def _go_on(connection: sqlite3.Connection, progress: _Progress) -> None:
    connection.execute(
        "UPDATE incarnations SET cursor = ?, ended = ?, progress_checksum = ? WHERE no = ?",
        (progress.cursor, progress.ended, checks.of_row(*progress), progress.no),
    )


def keep(connection: sqlite3.Connection, incarnation_id: str) -> list[session.LeaseAmount]:
    """Per lease of that incarnation: what open holds have, and charges in records that are still on their way."""
    needed = {lease.lease_id: lease.held for lease in _leases(connection, incarnation_id)}
    for lease_id, amount in _carried(connection):
        if lease_id in needed:
            needed[lease_id] += amount
    return [
        session.LeaseAmount(lease_id=lease_id, amount=amount)
        for lease_id, amount in sorted(needed.items())
        if amount > 0
    ]


def _leases(connection: sqlite3.Connection, incarnation_id: str) -> list[_Lease]:
    rows = connection.execute(
        f"SELECT {_LEASE} FROM leases WHERE no = (SELECT no FROM incarnations WHERE incarnation_id = ?)",  # noqa: S608
        (incarnation_id,),
    ).fetchall()
    return [_lease(row) for row in rows]


def _lease(row: tuple[Any, ...]) -> _Lease:
    lease = _Lease(*row)
    checks.expect(checks.is_lease(*row), "a lease")
    return lease


def _carried(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    rows = connection.execute("SELECT no, seq, lease_id, amount, checksum FROM carried").fetchall()
    return [(lease_id, amount) for _, _, lease_id, amount in (checks.intact(row, "a charge") for row in rows)]


def mark_ended(file: OutboxFile, incarnation_id: str) -> None:
    """The control plane has closed it."""
    progress = _progress(file.connection, incarnation_id)
    if progress is not None:
        _go_on(file.connection, progress._replace(ended=1))


def presented(
    connection: sqlite3.Connection, incarnation_id: str, *, ended_after: datetime
) -> list[session.PresentedLease]:
    """That incarnation's leases which are not given back in whole. One that ended before has no rows any more that
    could be sent again.
    """
    found = []
    for row in _leases(connection, incarnation_id):
        if row.returned < row.allotted:
            lease = session.PresentedLease.FromString(row.lease)
            lease.returned = row.returned
            if lease.ends_at.ToDatetime(UTC) > ended_after:
                found.append(lease)
    return found


def _purge_keys(connection: sqlite3.Connection, *, before: int, beyond: int) -> int:
    """Deletes a slice of the keys that are older than `before`, and of those from `beyond` that are; how many they
    were. Both in microseconds since 1970.

    A key from far beyond now came when the clock was ahead. It is old when one that came after it is.
    """
    old = connection.execute(
        "SELECT id FROM keys WHERE at < ? ORDER BY at LIMIT ?", (before, PURGE_SLICE)
    ).fetchall()
    if not old:
        return 0
    # These first: the old ones are all that tells how old they are.
    gone = connection.execute(
        "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE at > ? ORDER BY at LIMIT ?) AND id < ?",
        (beyond, PURGE_SLICE, max(old)[0]),
    ).rowcount
    some = old[: PURGE_SLICE - gone]
    connection.executemany("DELETE FROM keys WHERE id = ?", some)
    return gone + len(some)


def purge(file: OutboxFile) -> bool:
    """Deletes a slice of what is older than is kept. True: there is more."""
    now = file.clock.now()
    rows_before, keys_before = microseconds(now - ROWS_KEPT), microseconds(now - KEYS_KEPT)
    connection = file.connection
    deleted = 0
    for no, seq in connection.execute(
        "SELECT no, min(max(seq), cursor) FROM acknowledgements JOIN incarnations USING (no) WHERE at < ? GROUP BY no",
        (rows_before,),
    ).fetchall():
        gone = connection.execute(
            "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?)",
            (record_id(no, 0), record_id(no, seq), PURGE_SLICE),
        ).rowcount
        deleted += gone
        if gone < PURGE_SLICE:
            connection.execute(
                "DELETE FROM acknowledgements WHERE no = ? AND seq <= ? AND at < ?", (no, seq, rows_before)
            )
    deleted += _purge_keys(connection, before=keys_before, beyond=microseconds(now + KEYS_KEPT))
    deleted += connection.execute(
        "DELETE FROM reservations WHERE rowid IN "
        "(SELECT rowid FROM reservations WHERE is_open = 0 AND at < ? LIMIT ?)",
        (keys_before, PURGE_SLICE),
    ).rowcount
    deleted += connection.execute(
        "DELETE FROM leases WHERE held = 0 AND lease_id IN (SELECT lease_id FROM leases JOIN incarnations USING (no) "
        "WHERE ended = 1 AND no NOT IN (SELECT DISTINCT id >> ? FROM records) LIMIT ?)",
        (SEQ_BITS, PURGE_SLICE),
    ).rowcount
    return deleted >= PURGE_SLICE
