"""What the file holds beside usage: leases, returns, cursors, incarnations, refusals; and what is thrown away."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox.encoding import returned_body
from sidecar.outbox.file import SEQ_BITS, OutboxFile, record_id
from sidecar.outbox.port import Incarnation, Reservation
from sidecar.runtime.clock import microseconds

ROWS_KEPT: Final = timedelta(hours=24)
KEYS_KEPT: Final = timedelta(days=40)
PURGE_SLICE: Final = 500
MAX_REFUSALS: Final = 20_000

_NO_TEXT: Final = "Could not decode to UTF-8"
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def is_damage(error: sqlite3.Error) -> bool:
    """Is the file itself broken, rather than its disk busy, full or away?"""
    code = getattr(error, "sqlite_errorcode", None)
    # A text that is none has no code: SQLite does not look at texts, the module that hands them over does.
    return str(error).startswith(_NO_TEXT) if code is None else code & 0xFF in _DAMAGE


def look_over(connection: sqlite3.Connection) -> None:
    """Reads what a start must be able to read: small tables, and what waits for upload. Raises
    sqlite3.DatabaseError.
    """
    connection.execute("SELECT name, value FROM meta").fetchall()
    connection.execute("SELECT lease_id, length(lease) FROM leases").fetchall()
    connection.execute("SELECT lease_id, amount FROM carried").fetchall()
    connection.execute("SELECT reservation_id, length(state) FROM reservations WHERE is_open = 1").fetchall()
    incarnations_ = connection.execute(
        "SELECT no, cursor, incarnation_id, boot_id FROM incarnations"
    ).fetchall()
    for no, cursor, *_ in incarnations_:
        connection.execute(
            "SELECT total(length(body)) FROM records WHERE id BETWEEN ? AND ?",
            (record_id(no, cursor + 1), record_id(no + 1, 0) - 1),
        ).fetchone()


def insert_leases(file: OutboxFile, leases: Iterable[session.PresentedLease]) -> None:
    """Leases of the present incarnation; those that are there already stay as they are."""
    file.connection.executemany(
        "INSERT OR IGNORE INTO leases (lease_id, no, lease, allotted) VALUES (?, ?, ?, ?)",
        [(x.lease_id, file.no, x.SerializeToString(), sum(s.amount for s in x.slices)) for x in leases],
    )


def insert_returns(file: OutboxFile, amounts: Iterable[session.LeaseAmount]) -> list[session.LeaseReturn]:
    """Returns, as records."""
    written = []
    for amount in amounts:
        seq = file.append(returned_body(amount))
        file.connection.execute(
            "UPDATE leases SET returned = returned + ? WHERE lease_id = ?", (amount.amount, amount.lease_id)
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
        "SELECT reservation_id, version, state FROM reservations WHERE is_open = 1"
    ).fetchall()
    return [Reservation(reservation_id, version, True, state) for reservation_id, version, state in rows]


def incarnations(
    connection: sqlite3.Connection, boot_id: str, cursors: Mapping[str, int] | None = None
) -> list[Incarnation]:
    """All that wrote this file, in order. `cursors` are newer ones, from memory."""
    rows = connection.execute(
        "SELECT incarnation_id, last_seq, cursor, ended, is_synced OR was_stopped OR (boot_id = ? AND boot_id != '') "
        "FROM incarnations ORDER BY no",
        (boot_id,),
    ).fetchall()
    newer = cursors or {}
    return [
        Incarnation(incarnation_id, last_seq, newer.get(incarnation_id, cursor), bool(ended), bool(closable))
        for incarnation_id, last_seq, cursor, ended, closable in rows
    ]


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
    # The disk may have turned bits of a row's types, too: whatever it is, a body is bytes.
    rows = connection.execute(
        "SELECT id, coalesce(CAST(body AS BLOB), x'') FROM records WHERE id BETWEEN ? AND ? ORDER BY id",
        (record_id(no, after + 1), record_id(no, last)),
    ).fetchall()
    bodies: list[bytes] = []
    size, expected = 0, record_id(no, after + 1)
    for row_id, body in rows:
        size += len(body)
        if bodies and size > max_bytes:
            return bodies
        bodies.extend([b""] * (row_id - expected))
        bodies.append(body)
        expected = row_id + 1
    bodies.extend([b""] * (record_id(no, last) + 1 - expected))
    return bodies


def move_cursor(file: OutboxFile, incarnation_id: str, cursor: int) -> None:
    """What was acknowledged; the rows go a day later."""
    moved = file.connection.execute(
        "UPDATE incarnations SET cursor = ?1 WHERE incarnation_id = ?2 AND cursor < ?1 RETURNING no",
        (cursor, incarnation_id),
    ).fetchone()
    if moved is None:
        return
    at = microseconds(file.clock.now())
    file.connection.execute("INSERT INTO acknowledgements VALUES (?, ?, ?)", (moved[0], cursor, at))
    file.connection.execute("DELETE FROM carried WHERE no = ? AND seq <= ?", (moved[0], cursor))


def rewind(file: OutboxFile, cursors: Mapping[str, int], generation: int) -> None:
    """Cursors of a control plane that was restored; incarnations that it names as open are open again."""
    for incarnation_id, cursor in cursors.items():
        moved = file.connection.execute(
            "UPDATE incarnations SET cursor = ?, ended = 0 WHERE incarnation_id = ? RETURNING no",
            (cursor, incarnation_id),
        ).fetchone()
        if moved is not None:
            file.connection.execute(
                "DELETE FROM acknowledgements WHERE no = ? AND seq > ?", (moved[0], cursor)
            )
    file.set_meta("generation", str(generation))


def keep(connection: sqlite3.Connection, incarnation_id: str) -> list[session.LeaseAmount]:
    """Per lease of that incarnation: what open holds have, and charges in records that are still on their way."""
    rows = connection.execute(
        "SELECT lease_id, held + "
        "(SELECT coalesce(sum(amount), 0) FROM carried WHERE carried.lease_id = leases.lease_id) AS needed "
        "FROM leases JOIN incarnations USING (no) WHERE incarnation_id = ? AND needed > 0 ORDER BY lease_id",
        (incarnation_id,),
    ).fetchall()
    return [session.LeaseAmount(lease_id=lease_id, amount=amount) for lease_id, amount in rows]


def mark_ended(file: OutboxFile, incarnation_id: str) -> None:
    """The control plane has closed it."""
    file.connection.execute("UPDATE incarnations SET ended = 1 WHERE incarnation_id = ?", (incarnation_id,))


def presented(
    connection: sqlite3.Connection, incarnation_id: str, *, ended_after: datetime
) -> list[session.PresentedLease]:
    """That incarnation's leases which are not given back in whole. One that ended before has no rows any more that
    could be sent again.
    """
    rows = connection.execute(
        "SELECT lease, returned FROM leases JOIN incarnations USING (no) "
        "WHERE incarnation_id = ? AND returned < allotted",
        (incarnation_id,),
    ).fetchall()
    found = []
    for encoded, returned in rows:
        lease = session.PresentedLease.FromString(encoded)
        lease.returned = returned
        if lease.ends_at.ToDatetime(UTC) > ended_after:
            found.append(lease)
    return found


def purge(file: OutboxFile) -> bool:
    """Deletes a slice of what is older than is kept. True: there is more."""
    now = file.clock.now()
    rows_before, keys_before = microseconds(now - ROWS_KEPT), microseconds(now - KEYS_KEPT)
    connection = file.connection
    deleted = 0
    for no, seq in connection.execute(
        "SELECT no, max(seq) FROM acknowledgements WHERE at < ? GROUP BY no", (rows_before,)
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
    deleted += connection.execute(
        "DELETE FROM keys WHERE id IN (SELECT id FROM keys ORDER BY id LIMIT ?) AND at < ?",
        (PURGE_SLICE, keys_before),
    ).rowcount
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
