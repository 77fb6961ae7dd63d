"""What a sidecar's files hold, read row by row past whatever is spoiled in them: a second opinion on a salvage."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox import checks
from sidecar.outbox.file import SEQ_BITS

_PROCESSES: Final = 40
"""No history starts more of one sidecar."""
_RECORDS: Final = 400
"""No page holds more of them, nor do three."""

_RECORD: Final = "SELECT id, body, checksum FROM records WHERE typeof(body) = 'blob' AND id"
_RESERVATION: Final = (
    "SELECT rowid, reservation_id, version, is_open, state, checksum FROM reservations WHERE rowid"
)


@dataclass(frozen=True, slots=True)
class Contents:
    """All rows of an outbox that can be read and whose checksums hold."""

    records: frozenset[str] = frozenset()
    """The keys of usage."""
    reservations: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """As they stand, by their names."""


def read(path: Path, *, processes: int = _PROCESSES) -> Contents:
    """Of a copy that nobody else has open; `processes`: no more have written it."""
    if not path.exists():
        return Contents()
    with closing(sqlite3.connect(path)) as connection:
        records = set[str]()
        for no in range(1, processes + 1):
            salt, first = checks.of_incarnation(no), no << SEQ_BITS
            for row_id, body, checksum in _rows(connection, _RECORD, first, first + (1 << SEQ_BITS) - 1):
                if checks.is_record(salt, row_id - first, body, checksum):
                    records.add(usage.Record.FromString(body).usage.event.idempotency_key)
        reservations = {
            values[0]: tuple(values)
            for _, *values, checksum in _rows(connection, _RESERVATION, 0, 1 << 40)
            if checks.of_row(*values) == checksum
        }
    return Contents(frozenset(records - {""}), reservations)


def _rows(connection: sqlite3.Connection, select: str, first: int, last: int) -> Iterator[tuple[Any, ...]]:
    """From the front until something can not be read, from the back, and one by one in between."""
    ends = {"ASC": first, "DESC": last}
    for order in ends:
        try:
            for row in connection.execute(f"{select} BETWEEN ? AND ? ORDER BY 1 {order}", (first, last)):
                ends[order] = row[0]
                yield row
        except sqlite3.Error:
            continue
        return
    low, high = ends.values()
    for row_id in {*range(low, min(low + _RECORDS, high)), *range(max(low, high - _RECORDS), high)}:
        try:
            yield from connection.execute(f"{select} = ?", (row_id,)).fetchall()
        except sqlite3.Error:
            continue
