"""What a disk can do to an outbox beside cutting it: texts that are none, other types, a single byte that is left."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.outbox.port import OutboxUnusable
from tests.fuzzing.test_outboxes import kill, opened, read_back, write

NO_TEXT = "CAST(x'ff' AS TEXT)"


def damage(folder: Path, sql: str) -> None:
    """Does to rows what a turned bit does; nobody has the file open."""
    with closing(sqlite3.connect(folder / "outbox.sqlite3", isolation_level=None)) as connection:
        connection.executescript(sql)


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE meta SET value = {NO_TEXT} WHERE name = 'outbox_id'",
        f"UPDATE incarnations SET incarnation_id = {NO_TEXT}",
        f"UPDATE reservations SET reservation_id = {NO_TEXT}",
    ],
)
def test_a_text_that_is_none_sets_the_file_aside(tmp_path: Path, sql: str) -> None:
    """The module in between refuses such a text, not SQLite: it is damage all the same, and no start fails for it."""
    outbox = opened(tmp_path)
    write(outbox, "a0")
    outbox.close()
    damage(tmp_path, sql)
    outbox = opened(tmp_path)
    assert list(tmp_path.glob("outbox.sqlite3.aside-*"))
    assert read_back(outbox) == ["a0"]
    outbox.close()


def test_a_body_that_is_no_bytes_stops_no_upload(tmp_path: Path) -> None:
    """It is handed on as what it is, or as a number that holds nothing; the records around it are uploaded."""
    outbox = opened(tmp_path)
    for name in ("a1", "a2", "a3"):
        write(outbox, name)
    outbox.close()
    lenient = "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'records'"
    damage(tmp_path, f"PRAGMA writable_schema = ON; {lenient}")
    damage(tmp_path, "UPDATE records SET body = NULL WHERE id & 0xff = 1")
    damage(tmp_path, "UPDATE records SET body = 7 WHERE id & 0xff = 2")
    outbox = opened(tmp_path)
    assert read_back(outbox) == ["a3"]
    outbox.close()


def test_one_byte_is_as_good_as_nothing(tmp_path: Path) -> None:
    """SQLite takes a main file of one byte for an empty one, and deletes its log: the log is read first."""
    outbox = opened(tmp_path)
    for name in ("a1", "a2"):
        write(outbox, name)
    kill(outbox)
    log = tmp_path / "outbox.sqlite3-wal"
    left = log.read_bytes()
    outbox.close()
    log.write_bytes(left)
    (tmp_path / "outbox.sqlite3").write_bytes(b"S")
    outbox = opened(tmp_path)
    assert read_back(outbox) == ["a1", "a2"]
    outbox.close()


def test_what_can_not_be_opened_is_said(tmp_path: Path) -> None:
    """A folder in its place, for instance: an error with the file's name, which ends a start in one line."""
    (tmp_path / "outbox.sqlite3").mkdir()
    with pytest.raises(OutboxUnusable, match=r"outbox\.sqlite3"):
        opened(tmp_path)
