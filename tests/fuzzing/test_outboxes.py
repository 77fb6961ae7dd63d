"""Whatever stands where the outbox was: a sidecar opens it, sets it aside, or says in words why it can not; what it
reads is what was written.
"""

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import KeyEntry, LeaseChange, OutboxUnusable, Reservation, Write, Written
from sidecar.outbox.sqlite import SqliteOutbox
from tests.fuzzing.calm import within_process_memory, without_traceback
from tests.fuzzing.effort import cases
from tests.simulation import contents
from tests.unit.sidecar.outbox.opening import opened_outbox

GROWTH_MIB: Final = 100
"""So much more memory may a small file ever need, whatever it says of itself."""
PAGE: Final = 4096
PROCESSES: Final = 2
"""So many have written each file."""
NAMES: Final = itertools.count(1)


class Lease(NamedTuple):
    """What the file says of a lease."""

    lease: bytes
    allotted: int
    held: int
    returned: int
    rest: int


@dataclass(frozen=True, slots=True)
class Content:
    """All that stands in an outbox."""

    usage: tuple[str, ...]
    """By name, in order."""
    returns: tuple[tuple[str, int], ...]
    """Of which lease how much, in order."""
    reservations: frozenset[str]
    leases: dict[str, Lease]


class Copy(NamedTuple):
    """The files of an outbox as they stood when its process was killed, and what was in them."""

    main: bytes
    log: bytes
    content: Content

    @property
    def files(self) -> tuple[bytes, bytes]:
        """Both."""
        return self.main, self.log


class Copies:
    """Two states of one outbox, and one of another; and everything that was ever written to any of them."""

    def __init__(self, old: Copy, new: Copy, foreign: Copy, leases: dict[str, set[Lease]]) -> None:
        """A plain class: of a tuple, a failure would show all bytes. `leases`: in every state that they were in."""
        self.old, self.new, self.foreign, self.leases = old, new, foreign, leases
        contents = [copy.content for copy in (old, new, foreign)]
        self.usage = frozenset(name for content in contents for name in content.usage)
        self.returns = frozenset(one for content in contents for one in content.returns)

    def of(self, files: tuple[bytes, bytes]) -> Content | None:
        """What is in these files, if they are as one process left them; None: they are damaged."""
        return next(
            (copy.content for copy in (self.new, self.old, self.foreign) if copy.files == files), None
        )


def opened(folder: Path) -> SqliteOutbox:
    """As a process opens it; everything happens in this thread."""
    return opened_outbox(folder, NAMES)


def made(name: str) -> usage.Usage:
    """What is used under this name."""
    record = usage.Usage(decision_id=name, content_hash=b"h" * 32)
    record.event.idempotency_key = name
    record.event.attributes["padding"] = "x" * 150
    record.event.measures["points"] = str(int.from_bytes(name.encode()))
    return record


def hold(name: str) -> Reservation:
    """What is reserved under this name."""
    return Reservation(f"r-{name}", 1, True, name.encode() * 9)


def leased(name: str) -> session.PresentedLease:
    """What is leased under this name."""
    found = session.PresentedLease(
        lease_id=f"l-{name}",
        ref=session.BalanceRef(customer_id="acme", balance="wallet:credit"),
        slices=[session.Slice(grant_id=name, amount=1000)],
    )
    found.ends_at.FromSeconds(4_000_000_000)
    return found


def write(outbox: SqliteOutbox, name: str) -> None:
    """A record with a key, and a reservation for every tenth."""
    key = KeyEntry("acme", f"k-{name}", b"h", name.encode())
    reservation = hold(name) if name.endswith("0") else None
    (result,) = outbox.commit_all([Write(made(name).SerializeToString(), key, reservation)])
    assert isinstance(result, Written)


def write_more(outbox: SqliteOutbox, name: str) -> None:
    """A record and, now and then, a lease, what is held and given back of it, and a refusal."""
    write(outbox, name)
    if name.endswith("3"):
        outbox.record_leases([leased(name)])
        outbox.commit(Write(leases=(LeaseChange(f"l-{name}", held=7),)))
        outbox.record_returns([session.LeaseAmount(lease_id=f"l-{name}", amount=30 + len(name))])
        outbox.count_refusals([f"count {name}".encode()], [f"sample {name}".encode()])


def kill(outbox: SqliteOutbox) -> None:
    """The process is gone: nothing is folded in or tidied up."""
    outbox._lock_file.close()


def copy(folder: Path, content: Content) -> Copy:
    """Both files, as they stand."""
    main, log = folder / "outbox.sqlite3", folder / "outbox.sqlite3-wal"
    return Copy(main.read_bytes(), log.read_bytes() if log.exists() else b"", content)


@pytest.fixture(scope="module")
def copies() -> Iterator[Copies]:
    """An outbox with rows of all kinds in its main file and in its log, at two times, and another sidecar's."""
    leases: dict[str, set[Lease]] = {}

    def fill(outbox: SqliteOutbox, names: Iterable[str]) -> None:
        for name in names:
            write_more(outbox, name)
            for lease_id, lease in leases_in(outbox).items():
                leases.setdefault(lease_id, set()).add(lease)

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        outbox = opened(Path(one))
        fill(outbox, (f"a{number}" for number in range(40)))
        outbox.close()
        outbox = opened(Path(one))
        fill(outbox, (f"a{number}" for number in range(40, 80)))
        outbox._file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        fill(outbox, (f"a{number}" for number in range(80, 100)))
        old = copy(Path(one), content_of(outbox))
        fill(outbox, (f"a{number}" for number in range(100, 160)))
        new = copy(Path(one), content_of(outbox))
        assert new.content.usage == tuple(f"a{number}" for number in range(160))
        assert len(new.content.returns) == len(new.content.leases) == len(new.content.reservations) == 16
        outbox.close()
        outbox = opened(Path(other))
        fill(outbox, (f"b{number}" for number in range(40)))
        foreign = copy(Path(other), content_of(outbox))
        outbox.close()
        for lease_id in new.content.leases | foreign.content.leases:
            # As it stood before it was held, and before something of it was given back.
            encoded = leased(lease_id.removeprefix("l-")).SerializeToString()
            leases[lease_id] |= {Lease(encoded, 1000, held, 0, 1000 - held) for held in (0, 7)}
        yield Copies(old, new, foreign, leases)


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


def leases_in(outbox: SqliteOutbox) -> dict[str, Lease]:
    """All rows: those of earlier processes are not asked for in one piece."""
    rows = outbox._file.connection.execute(
        "SELECT lease_id, lease, allotted, held, returned, rest FROM leases"
    )
    return {lease_id: Lease(*values) for lease_id, *values in rows}


def content_of(outbox: SqliteOutbox) -> Content:
    """What can be read: usage is as it was written, and so is what is reserved."""
    waiting = records(outbox)
    used = [record.usage for record in waiting if record.HasField("usage")]
    for one in used:
        assert one == made(one.decision_id)
    reservations = [held.reservation_id.removeprefix("r-") for held in outbox.open_reservations()]
    for held in outbox.open_reservations():
        assert held == hold(held.reservation_id.removeprefix("r-"))
    assert len(reservations) == len(set(reservations))
    returns = [(one.returned.lease_id, one.returned.amount) for one in waiting if one.HasField("returned")]
    return Content(
        tuple(one.decision_id for one in used), tuple(returns), frozenset(reservations), leases_in(outbox)
    )


def read_back(outbox: SqliteOutbox) -> list[str]:
    """The names of the usage that can be read."""
    return list(content_of(outbox).usage)


def goes_on(folder: Path, look: Callable[[SqliteOutbox, Content], None]) -> None:
    """It opens, what can be read is looked at, a new write is durable; and so it is at the next start."""
    with within_process_memory(mib=GROWTH_MIB), without_traceback():
        outbox = opened(folder)
        try:
            look(outbox, content_of(outbox))
            write(outbox, "fresh")
            assert "fresh" in read_back(outbox)
        finally:
            kill(outbox)
        again = opened(folder)
        try:
            found = content_of(again)
            assert found.usage.count("fresh") == 1
            entry = again.key("acme", "k-fresh")
            assert entry is not None
            assert entry.answer == b"fresh"
            look(again, replace(found, usage=tuple(name for name in found.usage if name != "fresh")))
        finally:
            again.close()


def still_readable(folder: Path) -> contents.Contents:
    """What can be read of the files row by row, by somebody who does not know the outbox's own ways."""
    apart = folder / "apart"
    apart.mkdir()
    for file in folder.glob("outbox.sqlite3*"):
        shutil.copy(file, apart)
    try:
        return contents.read(apart / "outbox.sqlite3", processes=PROCESSES)
    finally:
        shutil.rmtree(apart)


def says_what_was_written(copies: Copies, main: bytes, log: bytes) -> None:
    """Of whole files everything is there; of damaged ones all that can be read at all, and nothing else, each once."""
    folder = Path(tempfile.mkdtemp())
    try:
        put(folder, main, log)
        readable = still_readable(folder)
        whole = copies.of((main, log))

        def look(outbox: SqliteOutbox, found: Content) -> None:
            assert set(found.usage) <= copies.usage
            assert len(found.usage) == len(set(found.usage))
            assert set(found.returns) <= copies.returns
            assert len(found.returns) == len(set(found.returns))
            for lease_id, lease in found.leases.items():
                assert lease in copies.leases[lease_id]
            assert set(found.usage) >= readable.records
            assert found.reservations >= {name.removeprefix("r-") for name in readable.reservations}
            if whole is not None:
                assert found == whole
                has_all_that_is_asked_for_by_name(outbox, whole)

        goes_on(folder, look)
        if whole is not None:
            assert not list(folder.glob("*aside*"))
    finally:
        shutil.rmtree(folder)


def has_all_that_is_asked_for_by_name(outbox: SqliteOutbox, whole: Content) -> None:
    """Keys and reservations; refusals are in the file."""
    for name in whole.usage:
        entry = outbox.key("acme", f"k-{name}")
        assert entry == KeyEntry("acme", f"k-{name}", b"h", name.encode())
    for name in whole.reservations:
        assert outbox.reservation(f"r-{name}") == hold(name)
    refused = [row[0] for row in outbox._file.connection.execute("SELECT body FROM refusals ORDER BY id")]
    names = [name for name in whole.usage if name.endswith("3")]
    assert refused == [f"{kind} {name}".encode() for name in names for kind in ("count", "sample")]


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


@pytest.mark.parametrize("state", ["old", "new", "foreign"])
def test_whole_files_give_everything(copies: Copies, state: str) -> None:
    """As a process that was killed left them: nothing is set aside, and nothing is missing."""
    says_what_was_written(copies, *getattr(copies, state).files)


@cases(120)
@given(torn("main"), torn("log"))
def test_a_torn_outbox_says_what_was_written(
    copies: Copies,
    main: Callable[[bytes, bytes, bytes], bytes],
    log: Callable[[bytes, bytes, bytes], bytes],
) -> None:
    """Cut, zeroed, spliced with an older copy, swapped with another's."""
    says_what_was_written(
        copies,
        main(copies.new.main, copies.old.main, copies.foreign.main),
        log(copies.new.log, copies.old.log, copies.foreign.log),
    )


@cases(120)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_an_outbox_with_flipped_bits_says_what_was_written(
    copies: Copies, flips: list[tuple[int, int]], in_header: bool, in_log: bool
) -> None:
    """Whatever bit of it has turned: nothing crashes, no amount is another one, and new usage is taken."""
    main, log = bytearray(copies.new.main), bytearray(copies.new.log)
    for place, bits in flips:
        damaged = log if in_log else main
        damaged[place % (100 if in_header else len(damaged))] ^= bits
    says_what_was_written(copies, bytes(main), bytes(log))


@cases(40)
@given(st.one_of(st.binary(max_size=9000), st.just(b"SQLite format 3\0" + bytes(84)), st.just(bytes(50_000))))
def test_anything_in_the_place_of_an_outbox_is_set_aside(content: bytes) -> None:
    """It is kept under another name, and a new outbox is begun."""
    folder = Path(tempfile.mkdtemp())
    try:
        put(folder, content, content)
        nothing = Content((), (), frozenset(), {})

        def look(_outbox: SqliteOutbox, found: Content) -> None:
            assert found == nothing

        goes_on(folder, look)
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
