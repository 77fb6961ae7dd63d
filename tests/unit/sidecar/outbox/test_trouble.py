"""The outbox when the disk is full, failing or broken."""

import contextlib
import itertools
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.file import connect
from sidecar.outbox.port import (
    Durability,
    KeyEntry,
    KeyTaken,
    OutboxFailed,
    OutboxFull,
    OutcomeUnknown,
    Reservation,
    Write,
    Written,
)
from sidecar.outbox.sqlite import SqliteOutbox
from sidecar.outbox.writer import PROBE_SECONDS, Pending
from sidecar.runtime.clock import ManualClock
from sidecar.runtime.trouble import Overloaded
from tests.e2e.fleet import eventually
from tests.unit.sidecar.outbox.faults import Faults, error
from tests.unit.sidecar.outbox.opening import opened_outbox

Make = Callable[..., SqliteOutbox]


@pytest.fixture
def faults() -> Faults:
    """None yet."""
    return Faults()


@pytest.fixture
def make(tmp_path: Path, faults: Faults) -> Iterator[Make]:
    """Opens the outbox under the faults. Without a thread: every commit is a step, so that tests decide what
    comes when.
    """
    numbers = itertools.count(1)
    made: list[SqliteOutbox] = []

    def making(durability: Durability = Durability.POWER_LOSS, **other: Any) -> SqliteOutbox:
        outbox = opened_outbox(tmp_path, numbers, durability=durability, connect=faults.connect, **other)
        made.append(outbox)
        return outbox

    yield making
    faults.heal()
    for outbox in made:
        outbox.close()


def use(key: str, size: int = 10) -> Write:
    """A consume."""
    body = usage.Usage(decision_id=key, content_hash=b"x" * size)
    return Write(usage=body.SerializeToString(), key=KeyEntry("acme", key, b"h", b"a"))


def keys(outbox: SqliteOutbox) -> list[str]:
    """What waits for upload, in order."""
    batch = outbox.read_batch(outbox.identity.incarnation_id, max_records=10_000, max_bytes=1 << 30)
    records = [] if batch is None else usage.ReportBatchRequest.FromString(batch.payload).records
    return [r.usage.decision_id for r in records]


def healthy(outbox: SqliteOutbox) -> bool:
    """Read anew: mypy takes a property that was False for False for ever."""
    return outbox.is_healthy


def mend(outbox: SqliteOutbox) -> None:
    """Lets the writer look at the store again, as its thread does twice a second."""
    outbox._writer.step(timeout_seconds=0)


def test_a_full_disk_refuses_new_writes_drains_and_heals(make: Make) -> None:
    """With a real limit on the file's pages: OutboxFull, reads and acknowledgements go on, room brings it
    back; no number is lost.
    """
    outbox = make()
    outbox.commit(use("first"))
    outbox._file.connection.execute("PRAGMA max_page_count = 60")
    written = ["first"]
    with pytest.raises(OutboxFull) as caught:  # noqa: PT012 - which of them meets the limit is SQLite's affair
        for n in range(1000):
            outbox.commit(use(f"k{n}", 2000))
            written.append(f"k{n}")
    assert caught.value.retry_after_seconds > 0
    assert not healthy(outbox)
    mend(outbox)
    assert not healthy(outbox)
    with pytest.raises(OutboxFull):
        outbox.commit(use("refused"))
    assert outbox.key("acme", "first") is not None
    assert keys(outbox) == written
    outbox.acknowledge(outbox.identity.incarnation_id, 2)
    assert keys(outbox) == written[2:]
    outbox._file.connection.execute("PRAGMA max_page_count = 100000")
    mend(outbox)
    assert healthy(outbox)
    assert outbox.commit(use("after")) == Written(len(written) + 1)
    assert keys(outbox) == [*written[2:], "after"]


def test_too_little_room_refuses_before_it_is_too_late(make: Make) -> None:
    """A margin is left for draining: below it, new writes are refused with the disk not yet full."""
    outbox = make(min_free_bytes=1 << 60)
    with pytest.raises(OutboxFull):
        outbox.commit(use("a"))
    assert not healthy(outbox)


@pytest.mark.parametrize("happened", [True, False])
def test_an_error_at_commit_is_unknown_until_the_file_was_read_back(
    make: Make, faults: Faults, happened: bool
) -> None:
    """Whether the commit took place or not, the caller hears OutcomeUnknown, and the resolution then says
    what is true.
    """
    outbox = make()
    outbox.commit(use("before"))
    broken = error(sqlite3.SQLITE_IOERR, "disk I/O error")

    def fail_once() -> None:
        faults.heal()
        raise broken

    def fail_commit(sql: str) -> None:
        if sql == "COMMIT":
            fail_once()

    if happened:
        faults.after_commit = fail_once
    else:
        faults.before = fail_commit
    with pytest.raises(OutcomeUnknown) as caught:
        outbox.commit(use("maybe"))
    heard: list[bool] = []
    caught.value.resolution.then(heard.append)
    assert heard == [happened]
    assert healthy(outbox)
    assert keys(outbox) == (["before", "maybe"] if happened else ["before"])
    again = outbox.commit(use("maybe"))
    assert isinstance(again, KeyTaken) if happened else again == Written(2)
    assert keys(outbox) == ["before", "maybe"]


def test_an_outcome_stays_unknown_while_the_file_can_not_be_opened(make: Make, faults: Faults) -> None:
    """Writes are refused meanwhile; when the file opens again, those who wait hear what happened."""
    outbox = make()

    def fail() -> None:
        faults.can_open = False
        raise error(sqlite3.SQLITE_IOERR, "disk I/O error")

    faults.after_commit = fail
    with pytest.raises(OutcomeUnknown) as caught:
        outbox.commit(use("maybe"))
    heard: list[bool] = []
    caught.value.resolution.then(heard.append)
    assert heard == []
    assert not healthy(outbox)
    with pytest.raises(OutboxFailed):
        outbox.commit(use("refused"))
    faults.heal()
    mend(outbox)
    assert heard == [True]
    assert healthy(outbox)
    assert keys(outbox) == ["maybe"]


def test_an_error_before_commit_is_a_plain_refusal(make: Make, faults: Faults) -> None:
    """Nothing was written, the caller knows it, and the number is used by the next one."""
    outbox = make()

    def fail(sql: str) -> None:
        if sql.startswith("INSERT INTO records"):
            raise error(sqlite3.SQLITE_IOERR, "disk I/O error")

    faults.before = fail
    with pytest.raises(OutboxFailed):
        outbox.commit(use("a"))
    faults.heal()
    mend(outbox)
    assert outbox.commit(use("b")) == Written(1)
    assert keys(outbox) == ["b"]
    assert outbox.key("acme", "a") is None


def test_an_acknowledgement_that_can_not_be_written_moves_in_memory(make: Make, faults: Faults) -> None:
    """Draining goes on with a disk that takes nothing; a restart sends that stretch again."""
    outbox = make()
    outbox.commit(use("a"))

    def fail(sql: str) -> None:
        if sql.startswith("BEGIN"):
            raise error(sqlite3.SQLITE_FULL, "database or disk is full")

    faults.before = fail
    outbox.acknowledge(outbox.identity.incarnation_id, 1)
    assert keys(outbox) == []
    earlier = outbox.identity.incarnation_id
    faults.heal()
    outbox.close()
    again = make()
    assert again.read_batch(earlier, max_records=10, max_bytes=1000) is not None


def test_a_file_that_is_no_database_is_set_aside_and_never_deleted(make: Make, tmp_path: Path) -> None:
    """Rubbish in place of the file: it is kept under another name, and the outbox starts anew."""
    path = tmp_path / "outbox.sqlite3"
    path.write_bytes(b"rubbish" * 1000)
    outbox = make()
    assert outbox.commit(use("a")) == Written(1)
    aside = list(tmp_path.glob("outbox.sqlite3.aside-*"))
    assert [p.read_bytes() for p in aside] == [b"rubbish" * 1000]


def test_what_can_be_read_of_a_damaged_file_is_sent_again_with_its_uid(make: Make, tmp_path: Path) -> None:
    """Pages in the middle are overwritten: rows before and behind them come through, with keys and holds."""
    first = make()
    before = first.identity
    for n in range(300):
        first.commit(use(f"k{n}", 1000))
    first.commit(Write(reservation=Reservation("r", 1, True, b"open")))
    first.close()
    path = tmp_path / "outbox.sqlite3"
    pages = _pages_of(path, "records")
    with path.open("r+b") as file:
        for page in pages[len(pages) // 2 : len(pages) // 2 + 3]:
            file.seek((page - 1) * 4096)
            file.write(b"\xff" * 4096)
    second = make()
    assert second.identity.outbox_id != before.outbox_id
    found = everything(second)
    names = [r.usage.decision_id for r in found]
    assert names[0] == "k0"
    assert names[-1] == "k299"
    assert 280 <= len(names) < 300
    assert all(r.first_written.outbox_id == before.outbox_id for r in found)
    assert all(r.usage.decision_id == f"k{r.first_written.seq - 1}" for r in found)
    assert second.reservation("r") is not None
    assert isinstance(second.commit(use("k299")), KeyTaken)


@pytest.mark.parametrize("cut", ["empty", "gone"])
def test_a_log_without_its_main_file_is_read_and_never_deleted(make: Make, tmp_path: Path, cut: str) -> None:
    """The main file was cut to nothing beside the log of a killed process: all of it is there again, with its uids."""
    first = make()
    for n in range(5):
        first.commit(use(f"k{n}"))
    before = first.identity
    path, log = tmp_path / "outbox.sqlite3", tmp_path / "outbox.sqlite3-wal"
    left = log.read_bytes()
    first.close()
    log.write_bytes(left)
    if cut == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    second = make()
    assert second.identity.outbox_id != before.outbox_id
    assert [uid(record) for record in everything(second)] == [(before.outbox_id, n + 1) for n in range(5)]
    assert isinstance(second.commit(use("k4")), KeyTaken)
    assert list(tmp_path.glob("outbox.sqlite3.aside-*"))


def test_a_log_that_tells_nothing_is_set_aside_as_it_is(make: Make, tmp_path: Path) -> None:
    """No first page in it: nothing can be read, and nothing is thrown away."""
    log = tmp_path / "outbox.sqlite3-wal"
    log.write_bytes(b"\x37\x7f\x06\x82" + b"rubbish" * 1000)
    outbox = make()
    assert outbox.commit(use("a")) == Written(1)
    (aside,) = tmp_path.glob("outbox.sqlite3.aside-*-wal")
    assert aside.read_bytes() == b"\x37\x7f\x06\x82" + b"rubbish" * 1000


def everything(outbox: SqliteOutbox) -> list[usage.Record]:
    """What waits for upload of all incarnations."""
    found: list[usage.Record] = []
    for incarnation in outbox.incarnations():
        batch = outbox.read_batch(incarnation.incarnation_id, max_records=10_000, max_bytes=1 << 30)
        if batch is not None:
            found += usage.ReportBatchRequest.FromString(batch.payload).records
    return found


def uid(record: usage.Record) -> tuple[str, int]:
    """Where it was written first."""
    return record.first_written.outbox_id, record.first_written.seq


def _pages_of(path: Path, table: str) -> list[int]:
    """Leaf pages of a table, through the checks of SQLite itself: those that hold the table's cells."""
    data = path.read_bytes()
    with sqlite3.connect(path) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    connection.close()
    leaves: list[int] = []

    def walk(page: int) -> None:
        start = (page - 1) * 4096
        kind = data[start]
        cells = int.from_bytes(data[start + 3 : start + 5], "big")
        if kind == 0x0D:
            leaves.append(page)
            return
        for n in range(cells):
            at = start + 12 + 2 * n
            cell = start + int.from_bytes(data[at : at + 2], "big")
            walk(int.from_bytes(data[cell : cell + 4], "big"))
        walk(int.from_bytes(data[start + 8 : start + 12], "big"))

    walk(root)
    return leaves


def test_half_of_a_copy_is_thrown_away(make: Make, tmp_path: Path) -> None:
    """It holds only copies, of a file that is still in its place."""
    first = make()
    first.commit(use("a"))
    first.close()
    (tmp_path / "outbox.sqlite3.part").write_bytes(b"half")
    (tmp_path / "outbox.sqlite3.part-wal").write_bytes(b"half")
    second = make()
    assert second.key("acme", "a") is not None
    assert not list(tmp_path.glob("*.part*"))


def test_damage_that_is_met_while_running_sets_the_file_aside(make: Make, faults: Faults) -> None:
    """The group is refused; the next look at the store goes on in a new file that knows what was readable."""
    outbox = make()
    before = outbox.identity
    outbox.commit(use("a"))

    def fail(sql: str) -> None:
        if sql.startswith("INSERT OR IGNORE INTO keys (customer_id"):
            raise error(sqlite3.SQLITE_CORRUPT, "database disk image is malformed")

    faults.before = fail
    with pytest.raises(OutboxFailed):
        outbox.commit(use("b"))
    faults.heal()
    mend(outbox)
    assert healthy(outbox)
    assert outbox.identity.outbox_id != before.outbox_id
    assert isinstance(outbox.commit(use("a")), KeyTaken)
    assert outbox.commit(use("b")) == Written(1)


def test_who_reads_while_the_file_is_set_aside_does_not_go_on_with_the_old_one(
    make: Make, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that opens between the two files sees the old one; what is written then is uploaded all the same."""
    real, opened = faults.connect, list[Path]()

    def connecting(path: Path, *, creates: bool = True) -> sqlite3.Connection:
        opened.append(path)
        if path.suffix == ".part":
            assert outbox.key("acme", "before") is not None
        return real(path, creates=creates)

    monkeypatch.setattr(faults, "connect", connecting)
    outbox = make()
    outbox.commit(use("before"))
    outbox.set_aside("test")
    assert any(path.suffix == ".part" for path in opened)
    outbox.commit(use("after"))
    assert keys(outbox) == ["after"]
    assert outbox.incarnations()[-1].incarnation_id == outbox.identity.incarnation_id


def test_who_opens_between_two_files_takes_no_log_from_the_writer(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file is away, the new one not yet in its place: whoever comes to read is turned away, and makes no file.
    An empty one that is replaced would have its reader take the new file's log for a leftover, and delete it.
    """
    path = tmp_path / "outbox.sqlite3"
    real, seen = Path.rename, list[bool]()
    with contextlib.ExitStack() as readers:

        def rename(source: Path, target: Path) -> Path:
            if Path(target) == path:
                with contextlib.suppress(OutboxFailed):
                    opened.append(readers.enter_context(outbox._reader()))
                seen.append(path.exists())
            return real(source, target)

        opened: list[sqlite3.Connection] = []
        outbox = make()
        outbox.commit(use("before"))
        with monkeypatch.context() as between:
            between.setattr(Path, "rename", rename)
            outbox.set_aside("test")
        outbox.commit(use("after"))
        for connection in opened:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("SELECT * FROM keys").fetchall()
        outbox.commit(use("last"))
        killed = tmp_path / "killed"
        shutil.copytree(tmp_path, killed, ignore=shutil.ignore_patterns("killed"))
    outbox.close()
    for file in tmp_path.glob("outbox.sqlite3*"):
        file.unlink()
    for file in killed.iterdir():
        file.rename(tmp_path / file.name)
    assert [record.usage.decision_id for record in everything(make())] == ["before", "after", "last"]
    assert seen == [False]


def test_who_reads_a_file_that_is_gone_hears_it_and_makes_none(make: Make, tmp_path: Path) -> None:
    """Somebody has deleted it: OutboxFailed, which those who read expect; and no empty file in its place."""
    outbox = make()
    outbox.commit(use("a"))
    outbox._drop_readers()
    for file in tmp_path.glob("outbox.sqlite3*"):
        file.unlink()
    with pytest.raises(OutboxFailed):
        outbox.key("acme", "a")
    assert not list(tmp_path.glob("outbox.sqlite3*"))


def test_a_path_with_signs_of_an_address_is_a_path(tmp_path: Path) -> None:
    """SQLite is given an address: a folder's name that means something in one is meant as it stands."""
    path = tmp_path / "a?mode=memory&b#c%20d é" / "outbox.sqlite3"
    path.parent.mkdir()
    with contextlib.closing(connect(path)) as connection:
        connection.execute("CREATE TABLE a (b)")
    assert path.stat().st_size > 0
    with contextlib.closing(connect(path, creates=False)) as connection:
        assert connection.execute("SELECT count(*) FROM a").fetchone() == (0,)


def test_remote_is_answered_only_when_the_control_plane_has_it(make: Make) -> None:
    """Without an acknowledgement in time the write stands, and says so; with one the caller is answered."""
    outbox = make(Durability.REMOTE)
    with pytest.raises(OutcomeUnknown) as caught:
        outbox.commit(use("a"), timeout_seconds=0.01)
    assert caught.value.resolution.applied is True
    me = outbox.identity.incarnation_id
    outbox.on_waiting(lambda: outbox.acknowledge(me, 2))
    started = time.monotonic()
    assert outbox.commit(use("b"), timeout_seconds=30) == Written(2)
    assert time.monotonic() - started < 10


def test_remote_answers_a_repeat_only_when_the_control_plane_has_the_first(make: Make) -> None:
    """A first call whose outcome was unknown stands on this disk alone: who repeats it is not told that it is safe."""
    outbox = make(Durability.REMOTE)
    ended = Reservation("r", 1, is_open=False, state=b"")
    for write in (use("a"), use("b")._replace(reservation=ended)):
        with pytest.raises(OutcomeUnknown):
            outbox.commit(write, timeout_seconds=0.01)
    with pytest.raises(OutcomeUnknown) as caught:
        outbox.commit(use("a"), timeout_seconds=0.01)
    assert caught.value.resolution.applied is False
    me = outbox.identity.incarnation_id
    outbox.acknowledge(me, 1)
    outbox.on_waiting(lambda: outbox.acknowledge(me, 2))
    read = outbox.key("acme", "b")
    assert read is not None
    assert outbox.incarnations()[-1].cursor == 2
    assert isinstance(outbox.commit(use("a"), timeout_seconds=0.01), KeyTaken)
    assert outbox.reservation("r") == ended


def test_a_transaction_that_does_not_begin_uses_up_no_number(make: Make, faults: Faults) -> None:
    """Somebody else has the file locked when a group begins: it is not written, and the next one goes on after the
    last that was.
    """
    outbox = make()
    for key in ("a", "b"):
        outbox.commit(use(key))

    def locked(sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            faults.heal()
            raise error(sqlite3.SQLITE_BUSY, "database is locked")

    faults.before = locked
    with pytest.raises(OutboxFailed):
        outbox.commit(use("c"))
    mend(outbox)
    assert outbox.commit(use("d")) == Written(3)
    assert keys(outbox) == ["a", "b", "d"]


@pytest.mark.parametrize("unforeseen", [OSError("too many open files"), MemoryError(), ValueError("a bug")])
def test_what_nobody_foresaw_fails_its_own_write_alone(make: Make, unforeseen: Exception) -> None:
    """An error that is none of the store's, before COMMIT: its caller hears that nothing was written, those who shared
    its group are written, and the writer goes on.
    """
    outbox = make()
    outbox.commit(use("before"))

    def fails(_file: object) -> object:
        raise unforeseen

    group = [Pending[object]((use("a"),)), Pending[object]((), fails), Pending[object]((use("b"),))]
    for pending in group:
        outbox._writer._queue.put(pending)
    mend(outbox)
    with pytest.raises(OutboxFailed):
        group[1].wait()
    assert [pending.wait() for pending in (group[0], group[2])] == [[Written(2)], [Written(3)]]
    assert healthy(outbox)
    assert outbox.commit(use("after")) == Written(4)
    assert keys(outbox) == ["before", "a", "b", "after"]


@pytest.mark.parametrize("happened", [True, False])
def test_what_nobody_foresaw_at_commit_is_unknown(make: Make, faults: Faults, happened: bool) -> None:
    """An error that is none of the store's, at COMMIT: its outcome is unknown, and then known, as any other's."""
    outbox = make()
    outbox.commit(use("before"))

    def fail_once(sql: str = "COMMIT") -> None:
        if sql == "COMMIT":
            faults.heal()
            raise MemoryError

    if happened:
        faults.after_commit = fail_once
    else:
        faults.before = fail_once
    with pytest.raises(OutcomeUnknown) as caught:
        outbox.commit(use("a"))
    mend(outbox)
    assert caught.value.resolution.applied is happened
    outbox.commit(use("after"))
    assert keys(outbox) == (["before", "a", "after"] if happened else ["before", "after"])


def test_the_writer_outlives_what_nobody_foresaw(tmp_path: Path, faults: Faults) -> None:
    """While it mends, or calls back: those who wait are told, and its thread goes on."""
    outbox = opened_outbox(
        tmp_path, durability=Durability.POWER_LOSS, connect=faults.connect, is_threaded=True
    )
    try:

        def broken(sql: str) -> None:
            if "probe" in sql or sql == "COMMIT":
                raise MemoryError

        faults.before = broken
        told: list[bool] = []
        with pytest.raises(OutcomeUnknown) as caught:
            outbox.commit(use("a"))

        def fails(_applied: bool) -> None:
            raise ValueError("a bug")

        for call in (fails, told.append):
            caught.value.resolution.then(call)
        with pytest.raises(OutboxFailed):
            outbox.commit(use("b"))
        faults.heal()
        eventually(lambda: healthy(outbox), seconds=10, what="the outbox takes writes again")
        assert told == [False]
        outbox.commit(use("c"))
        assert keys(outbox) == ["c"]
    finally:
        faults.heal()
        outbox.close()


def test_remote_says_so_where_too_many_wait_for_the_control_plane(make: Make) -> None:
    """A call that no other can stand in for is not made to wait: its outcome is unknown, and it stands."""

    def crowded() -> AbstractContextManager[None]:
        raise Overloaded("writes")

    outbox = make(Durability.REMOTE, blocking=crowded)
    with pytest.raises(OutcomeUnknown, match="too many calls") as caught:
        outbox.commit(use("a"))
    assert caught.value.resolution.applied is True
    assert keys(outbox) == ["a"]


def test_a_store_that_is_well_again_takes_writes_while_it_is_being_drained(
    make: Make, faults: Faults
) -> None:
    """What is uploaded is acknowledged, again and again; nobody has to wait for its end to find that there is room."""
    clock = ManualClock()
    outbox = make(clock=clock)
    mine = outbox.identity.incarnation_id
    for number in range(5):
        outbox.commit(use(f"k{number}"))

    def full(sql: str) -> None:
        if sql.startswith("INSERT INTO records"):
            raise error(sqlite3.SQLITE_FULL, "database or disk is full")

    faults.before = full
    with pytest.raises(OutboxFull):
        outbox.commit(use("turned away"))
    faults.heal()
    for cursor, is_healthy in ((1, False), (2, True)):
        outbox.acknowledge(mine, cursor)
        assert outbox.is_healthy is is_healthy, "it is tried now and then, not at every step"
        clock.advance(PROBE_SECONDS)
    outbox.commit(use("taken"))
