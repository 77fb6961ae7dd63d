"""Checksums of rows: one in which a bit has turned is damage, as a page that can not be read is."""

import sqlite3
from typing import Any
from zlib import crc32


def of_incarnation(no: int) -> int:
    """Where the checksums of its records begin: one can not be taken for another's."""
    return crc32(b"%d" % no)


def of_row(*values: object) -> int:
    """Of a row of numbers, texts and bytes, and of their types. In ASCII: what `repr` escapes of a text depends on the
    interpreter's version, and a newer one would take intact rows for damage.
    """
    return crc32(ascii(values).encode())


def is_record(salt: int, seq: int, body: object, checksum: object) -> bool:
    """Is it as it was written? `salt`: `of_incarnation`. Who writes spells it out: it is done for each."""
    return isinstance(body, bytes) and crc32(body, salt ^ seq) == checksum


def is_incarnation(
    row: list[object], last_seq: object, last_group: object, marks: object, checksum: object
) -> bool:
    """Is it as its own process wrote it? What does not change has a checksum, and the marks their sum."""
    return (
        of_row(*row) == checksum
        and isinstance(last_seq, int)
        and isinstance(last_group, int)
        and last_seq + last_group == marks
    )


def is_lease(*row: object) -> bool:
    """A lease as keeping.py reads it: what does not change has a checksum, and the amounts their sum."""
    *fixed, held, returned, rest, checksum = row
    amounts = [amount for amount in (held, returned, rest) if isinstance(amount, int)]
    return of_row(*fixed) == checksum and len(amounts) == 3 and sum(amounts) == fixed[-1]


def intact(row: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """The values of a row whose last column is their checksum. Raises as `expect` does."""
    expect(of_row(*row[:-1]) == row[-1], what)
    return row[:-1]


def expect(is_right: bool, what: str) -> None:
    """Raises what SQLite raises of a page that is none."""
    if not is_right:
        error = sqlite3.DatabaseError(f"the disk has spoiled {what}")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
