"""Whatever stands where the outbox was: a sidecar opens it, sets it aside, or says in words why it can not; what it
reads is what was written.
"""

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import KeyEntry, OutboxUnusable, Reservation, Write, Written
from sidecar.outbox.sqlite import SqliteOutbox
from tests.fuzzing.calm import peak_mib, without_traceback
from tests.fuzzing.effort import cases
from tests.unit.sidecar.outbox.opening import opened_outbox

GROWTH_MIB: Final = 100
"""So much more memory may a small file ever need, whatever it says of itself."""
PAGE: Final = 4096
NAMES: Final = itertools.count(1)


class Copy(NamedTuple):
    """The files of an outbox as they stood when its process was killed."""

    main: bytes
    log: bytes


class Copies:
    """Two states of one outbox, and one of another; and every record that was ever written to any of them."""

    def __init__(self, old: Copy, new: Copy, foreign: Copy, records: frozenset[str]) -> None:
        """A plain class: of a tuple, a failure would show all bytes."""
        self.old, self.new, self.foreign, self.records = old, new, foreign, records


def opened(folder: Path) -> SqliteOutbox:
    """As a process opens it; everything happens in this thread."""
    return opened_outbox(folder, NAMES)


def made(name: str) -> usage.Usage:
    """What is used under this name."""
    record = usage.Usage(decision_id=name, content_hash=b"h" * 32)
    record.event.attributes["padding"] = "x" * 150
    record.event.measures["points"] = str(int.from_bytes(name.encode()))
    return record


def hold(name: str) -> Reservation:
    """What is reserved under this name."""
    return Reservation(f"r-{name}", 1, True, name.encode() * 9)


def write(outbox: SqliteOutbox, name: str) -> None:
    """A record with a key, and a reservation for every tenth."""
    key = KeyEntry("acme", f"k-{name}", b"h", name.encode())
    reservation = hold(name) if name.endswith("0") else None
    (result,) = outbox.commit_all([Write(made(name).SerializeToString(), key, reservation)])
    assert isinstance(result, Written)


def kill(outbox: SqliteOutbox) -> None:
    """The process is gone: nothing is folded in or tidied up."""
    outbox._lock_file.close()


def copy(folder: Path) -> Copy:
    """Both files, as they stand."""
    main, log = folder / "outbox.sqlite3", folder / "outbox.sqlite3-wal"
    return Copy(main.read_bytes(), log.read_bytes() if log.exists() else b"")


@pytest.fixture(scope="module")
def copies() -> Iterator[Copies]:
    """An outbox with records in its main file and in its log, at two times, and another sidecar's."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        outbox = opened(Path(one))
        for number in range(80):
            write(outbox, f"a{number}")
        outbox._file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for number in range(80, 100):
            write(outbox, f"a{number}")
        old = copy(Path(one))
        for number in range(100, 160):
            write(outbox, f"a{number}")
        new = copy(Path(one))
        outbox.close()
        outbox = opened(Path(other))
        for number in range(40):
            write(outbox, f"b{number}")
        foreign = copy(Path(other))
        outbox.close()
        names = frozenset([*(f"a{number}" for number in range(160)), *(f"b{number}" for number in range(40))])
        yield Copies(old, new, foreign, names)


def records(outbox: SqliteOutbox) -> list[usage.Record]:
    """What waits for upload, in order."""
    found: list[usage.Record] = []
    for incarnation in outbox.incarnations():
        batch = outbox.read_batch(incarnation.incarnation_id, max_records=10_000, max_bytes=1 << 30)
        if batch is not None:
            request = usage.ReportBatchRequest.FromString(batch.payload)
            assert [record.seq for record in request.records] == list(
                range(batch.first_seq, batch.last_seq + 1)
            )
            found += request.records
    return found


def read_back(outbox: SqliteOutbox) -> list[str]:
    """The names of those that can be read: each is as it was written, and so is what is reserved."""
    found = [record.usage for record in records(outbox) if record.HasField("usage")]
    for one in found:
        assert one == made(one.decision_id)
    for held in outbox.open_reservations():
        assert held == hold(held.reservation_id.removeprefix("r-"))
    return [one.decision_id for one in found]


def goes_on(folder: Path, look: Callable[[list[str]], None]) -> None:
    """It opens, what can be read is looked at, a new write is durable; and so it is at the next start."""
    before = peak_mib()
    with without_traceback():
        outbox = opened(folder)
        try:
            look(read_back(outbox))
            write(outbox, "fresh")
            assert "fresh" in read_back(outbox)
        finally:
            kill(outbox)
        again = opened(folder)
        try:
            found = read_back(again)
            assert found.count("fresh") == 1
            entry = again.key("acme", "k-fresh")
            assert entry is not None
            assert entry.answer == b"fresh"
            look([name for name in found if name != "fresh"])
        finally:
            again.close()
    assert peak_mib() - before < GROWTH_MIB


@st.composite
def torn(draw: st.DrawFn, kind: str) -> Callable[[bytes, bytes, bytes], bytes]:
    """What a disk does to a file: loses its end, zeroes pages, or has them from an older state or another file."""
    what = draw(
        st.sampled_from(["same", "same", "old", "foreign", "empty", "cut", "pages", "zeroes", "joined"])
    )
    at, size = draw(st.integers(0, 1 << 20)), draw(st.integers(1, 20))
    step = PAGE if kind == "main" else draw(st.sampled_from([PAGE + 24, 512, 1]))

    def made(new: bytes, old: bytes, foreign: bytes) -> bytes:
        begin = at % (len(new) + 1) // step * step
        end = min(len(new), begin + size * step)
        match what:
            case "same":
                return new
            case "old":
                return old
            case "foreign":
                return foreign
            case "empty":
                return b""
            case "cut":
                return new[: at % (len(new) + 1)]
            case "pages":
                return new[:begin] + old[begin:end].ljust(end - begin, b"\0") + new[end:]
            case "zeroes":
                return new[:begin] + bytes(end - begin) + new[end:]
            case _:
                return new[:begin] + foreign[begin:]

    return made


def put(folder: Path, main: bytes | None, log: bytes | None) -> None:
    """Lays the files where a process looks for them."""
    for name, content in (("outbox.sqlite3", main), ("outbox.sqlite3-wal", log)):
        if content is not None:
            (folder / name).write_bytes(content)


@cases(120)
@given(torn("main"), torn("log"))
def test_a_torn_outbox_says_nothing_that_was_not_written(
    copies: Copies,
    main: Callable[[bytes, bytes, bytes], bytes],
    log: Callable[[bytes, bytes, bytes], bytes],
) -> None:
    """Cut, zeroed, spliced with an older copy, swapped with another's: what is read was written, each once."""
    folder = Path(tempfile.mkdtemp())
    try:
        put(
            folder,
            main(copies.new.main, copies.old.main, copies.foreign.main),
            log(copies.new.log, copies.old.log, copies.foreign.log),
        )

        def look(found: list[str]) -> None:
            assert set(found) <= copies.records
            assert len(found) == len(set(found))

        goes_on(folder, look)
    finally:
        shutil.rmtree(folder)


@cases(120)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_an_outbox_with_flipped_bits_says_nothing_that_was_not_written(
    copies: Copies, flips: list[tuple[int, int]], in_header: bool, in_log: bool
) -> None:
    """Whatever bit of it has turned: nothing crashes, no amount is another one, and new usage is taken."""
    folder = Path(tempfile.mkdtemp())

    def look(found: list[str]) -> None:
        assert set(found) <= copies.records
        assert len(found) == len(set(found))

    try:
        main, log = bytearray(copies.new.main), bytearray(copies.new.log)
        for place, bits in flips:
            damaged = log if in_log else main
            damaged[place % (100 if in_header else len(damaged))] ^= bits
        put(folder, bytes(main), bytes(log))
        goes_on(folder, look)
    finally:
        shutil.rmtree(folder)


@cases(40)
@given(st.one_of(st.binary(max_size=9000), st.just(b"SQLite format 3\0" + bytes(84)), st.just(bytes(50_000))))
def test_anything_in_the_place_of_an_outbox_is_set_aside(content: bytes) -> None:
    """It is kept under another name, and a new outbox is begun."""
    folder = Path(tempfile.mkdtemp())
    try:
        put(folder, content, content)
        goes_on(folder, lambda found: None if not found else pytest.fail(str(found)))
        if len(content) > 1:
            kept = [path.read_bytes() for path in folder.glob("outbox.sqlite3.aside-*")]
            assert content in kept
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "name", ["outbox.sqlite3", "outbox.sqlite3-wal", "outbox.sqlite3.lock", "outbox.sqlite3.part"]
)
def test_a_folder_in_the_place_of_a_file(tmp_path: Path, name: str) -> None:
    """An error that names the file and what is the matter; nothing is deleted."""
    (tmp_path / name / "inside").mkdir(parents=True)
    with pytest.raises((OSError, OutboxUnusable), match="outbox"):
        opened(tmp_path)
    assert (tmp_path / name / "inside").is_dir()


@pytest.mark.parametrize("version", [1, 9])
def test_a_file_of_another_version(copies: Copies, tmp_path: Path, version: int) -> None:
    """It is left as it is, and the error says whose it is: a newer version may read it."""
    put(tmp_path, copies.new.main, copies.new.log)
    connection = sqlite3.connect(tmp_path / "outbox.sqlite3")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(OutboxUnusable, match="another version"):
        opened(tmp_path)
    assert not list(tmp_path.glob("*aside*"))
