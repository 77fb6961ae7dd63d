"""What a disk can do to an outbox beside cutting it: texts that are none, other types, a single byte that is left."""

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox import checks
from sidecar.outbox.file import SEQ_BITS
from sidecar.outbox.port import OutboxFailed, OutboxUnusable, Reservation, Write
from sidecar.outbox.salvage import LOOKS
from tests.fuzzing.test_outboxes import PAGE, kill, opened, read_back, records, write
from tests.simulation import contents
from tests.unit.sidecar.outbox.faults import Faults
from tests.unit.sidecar.outbox.opening import opened_outbox

LEAF = 0x0D
"""The first byte of a page that holds rows."""
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
    """It is handed on as what nobody can read; the records around it are uploaded."""
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
    assert [record.garbled for record in records(outbox) if record.HasField("garbled")] == [b"", b"7"]
    outbox.close()


TURNED = {
    "a record's body": "UPDATE records SET body = CAST(replace(body, x'696e', x'696f') AS BLOB) WHERE id & 0xff = 2",
    "a record's number": "UPDATE records SET id = id | 0x100 WHERE id & 0xff = 2",
    "what an open reservation holds": "UPDATE reservations SET state = 'a19a10a10a10a10a10a10a10a10'",
    "a reservation's version": "UPDATE reservations SET version = version | 8",
    "how far an incarnation wrote": "UPDATE incarnations SET last_seq = last_seq & 5",
    "whether it stopped in order": "UPDATE incarnations SET was_stopped = 0 WHERE was_stopped = 1",
    "when its machine was started": "UPDATE incarnations SET boot_id = 'boos'",
    "how far it was uploaded": "UPDATE incarnations SET cursor = cursor | 2",
    "whether it was closed": "UPDATE incarnations SET ended = 1",
    "what a lease is": "UPDATE leases SET lease = x'07' || substr(lease, 2)",
    "how large a lease is": "UPDATE leases SET allotted = allotted | 64",
    "whose a lease is": "UPDATE leases SET no = 2",
    "what holds have of a lease": "UPDATE leases SET held = held | 4",
    "what came back of a lease": "UPDATE leases SET returned = returned | 4",
    "the name of the outbox": "UPDATE meta SET value = value || 'x' WHERE name = 'outbox_id'",
}


@pytest.mark.parametrize("sql", TURNED.values(), ids=TURNED)
def test_a_bit_that_turned_sets_the_file_aside(tmp_path: Path, sql: str) -> None:
    """Whatever it made of a row that can still be read: nothing of it is taken for what was written, and what is right
    is sent again under its old uid, where that is known.
    """
    outbox = opened(tmp_path)
    before = outbox.identity
    for name in ("a0", "a1", "a2"):
        write(outbox, name)
    lease = session.PresentedLease(lease_id="lse", slices=[session.Slice(grant_id="g", amount=10)])
    outbox.record_leases([lease])
    outbox.close()
    damage(tmp_path, sql)
    outbox = opened(tmp_path)
    assert list(tmp_path.glob("outbox.sqlite3.aside-*"))
    assert outbox.identity.outbox_id != before.outbox_id
    found = read_back(outbox)
    is_record = sql.startswith("UPDATE records")
    assert found == (["a0", "a2"] if is_record else ["a0", "a1", "a2"])
    garbled = [record.first_written.seq for record in records(outbox) if record.HasField("garbled")]
    assert len(garbled) == is_record
    assert [held.state for held in outbox.open_reservations()] == (
        [] if sql.startswith("UPDATE reservations") else [b"a0" * 9]
    )
    outbox.close()


@pytest.mark.parametrize(
    "what",
    ["how far an incarnation wrote", "how far it was uploaded", "whether it was closed", "what a lease is"],
)
def test_who_wrote_what_is_known_as_long_as_it_can_be(tmp_path: Path, what: str) -> None:
    """What was booked is sent under its old uid: a return has no other guard against being applied twice."""
    outbox = opened(tmp_path)
    before = outbox.identity
    lease = session.PresentedLease(lease_id="lse", slices=[session.Slice(grant_id="g", amount=10)])
    outbox.record_leases([lease])
    write(outbox, "a0")
    outbox.record_returns([session.LeaseAmount(lease_id="lse", amount=3)])
    outbox.close()
    damage(tmp_path, TURNED[what])
    outbox = opened(tmp_path)
    assert list(tmp_path.glob("outbox.sqlite3.aside-*"))
    uids = [
        (r.first_written.outbox_id, r.first_written.incarnation_id, r.first_written.seq)
        for r in records(outbox)
    ]
    assert uids == [(before.outbox_id, before.incarnation_id, seq) for seq in (1, 2)]
    outbox.close()


def test_damage_that_is_met_when_the_file_is_opened_anew_sets_it_aside(tmp_path: Path) -> None:
    """After an error at COMMIT the file is read back: it is not tried for ever where that meets a spoiled row."""
    outbox = opened(tmp_path)
    write(outbox, "a0")
    damage(tmp_path, "UPDATE incarnations SET marks = marks + 1")
    outbox._writer._must_reopen = True
    for _ in range(2):
        outbox._writer.step(timeout_seconds=0)
    assert outbox.is_healthy
    assert list(tmp_path.glob("outbox.sqlite3.aside-*"))
    write(outbox, "a1")
    assert read_back(outbox) == ["a0", "a1"]
    outbox.close()


def test_a_checksum_is_the_same_in_every_interpreter() -> None:
    """A later one may know a letter that this one does not, and `repr` shows it otherwise then."""
    assert checks.of_row("\U0001fae8", 7, b"\xff") == crc32(rb"('\U0001fae8', 7, b'\xff')")


def test_a_bit_that_turns_while_it_runs_sets_the_file_aside(tmp_path: Path) -> None:
    """Whoever reads the row hears that it can not be read; soon after that everything else goes on in a new file."""
    outbox = opened(tmp_path)
    before = outbox.identity
    for name in ("a1", "a2", "a3"):
        write(outbox, name)
    damage(tmp_path, TURNED["a record's body"])
    with pytest.raises(OutboxFailed, match="spoiled a record"):
        read_back(outbox)
    write(outbox, "a4")
    assert outbox.identity.outbox_id != before.outbox_id
    assert read_back(outbox) == ["a1", "a3", "a4"]
    (garbled,) = [record for record in records(outbox) if record.HasField("garbled")]
    assert (garbled.first_written.outbox_id, garbled.first_written.seq) == (before.outbox_id, 2)
    assert len(list(tmp_path.glob("outbox.sqlite3.aside-*[0-9]"))) == 1
    outbox.close()


def test_a_record_that_is_gone_from_among_others_is_damage(tmp_path: Path) -> None:
    """Nobody takes it for a number that held nothing: what it charged to its lease is not free again."""
    outbox = opened(tmp_path)
    before = outbox.identity
    for name in ("a1", "a2", "a3"):
        write(outbox, name)
    damage(tmp_path, "DELETE FROM records WHERE id & 0xff = 2")
    with pytest.raises(OutboxFailed, match="spoiled a record"):
        read_back(outbox)
    write(outbox, "a4")
    assert read_back(outbox) == ["a1", "a3", "a4"]
    assert outbox.identity.outbox_id != before.outbox_id
    outbox.close()


def test_what_a_commit_meets_of_a_spoiled_row_fails_that_commit(tmp_path: Path) -> None:
    """It is not built upon: nothing is written, and the next one goes into a new file."""
    outbox = opened(tmp_path)
    write(outbox, "a0")
    damage(tmp_path, TURNED["what an open reservation holds"])
    with pytest.raises(OutboxFailed, match="spoiled a reservation"):
        outbox.commit(Write(reservation=Reservation("r-a0", 2, False, b"")))
    outbox._writer.step(timeout_seconds=0)
    write(outbox, "a1")
    assert list(tmp_path.glob("outbox.sqlite3.aside-*"))
    assert list(outbox.open_reservations()) == []
    assert read_back(outbox) == ["a0", "a1"]
    outbox.close()


def test_whole_pages_between_spoiled_ones_are_read(tmp_path: Path) -> None:
    """Every record on them, the first and the last included, and the last before the damage."""
    outbox = opened(tmp_path)
    for number in range(200):
        write(outbox, f"a{number}")
    outbox.close()
    path = tmp_path / "outbox.sqlite3"
    content = bytearray(path.read_bytes())
    leaves = [
        start
        for start in range(PAGE, len(content), PAGE)
        if content[start] == LEAF and content.count(b"padding", start, start + PAGE) > 1
    ]
    spoiled = [start for number, start in enumerate(leaves) if number % 4 != 1]
    for start in spoiled:
        content[start : start + PAGE] = bytes(PAGE)
    path.write_bytes(content)
    copied = tmp_path / "copy"
    shutil.copy(path, copied)
    left = contents.read(copied, processes=1).records
    assert len(left) > 20
    outbox = opened(tmp_path)
    assert set(read_back(outbox)) == left
    outbox.close()


def test_a_file_of_many_processes_is_read_in_bounded_time(tmp_path: Path) -> None:
    """All of whose pages but the last are spoiled: what each process wrote first is looked for there, and not more than
    a minute long.
    """
    outbox = opened(tmp_path)
    for number in range(400):
        write(outbox, f"a{number}")
    outbox.close()
    damage(tmp_path, f"UPDATE records SET id = (id & {(1 << SEQ_BITS) - 1}) << {SEQ_BITS}")
    path = tmp_path / "outbox.sqlite3"
    content = bytearray(path.read_bytes())
    leaves = [
        start
        for start in range(PAGE, len(content), PAGE)
        if content[start] == LEAF and content.count(b"padding", start, start + PAGE) > 1
    ]
    for start in leaves:
        if b"a399" not in content[start : start + PAGE]:
            content[start : start + PAGE] = bytes(PAGE)
    path.write_bytes(content)
    statements = Counter[str]()
    opened_outbox(tmp_path, connect=Faults(before=lambda sql: statements.update([sql])).connect).close()
    looks = max(count for sql, count in statements.items() if "ORDER BY rowid LIMIT" in sql)
    assert LOOKS < looks < 1.5 * LOOKS


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
