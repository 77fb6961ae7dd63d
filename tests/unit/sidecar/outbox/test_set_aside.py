"""A file that is set aside while something fails or dies: at no instant is anything missing that was acknowledged."""

import contextlib
import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.port import (
    KeyEntry,
    KeyTaken,
    OutboxFailed,
    OutcomeUnknown,
    Reservation,
    Write,
)
from sidecar.outbox.sqlite import SqliteOutbox
from tests.unit.sidecar.outbox.faults import Faults, error
from tests.unit.sidecar.outbox.opening import opened_outbox

NAMES: Final = [f"k{n}" for n in range(5)]
WRITES: Final = ("BEGIN", "COMMIT", "INSERT INTO records", "PRAGMA wal_checkpoint")


class Steps:
    """Calls somebody before each step that changes the folder: a rename, an unlink, a sync, a statement that writes."""

    def __init__(self, faults: Faults, patch: pytest.MonkeyPatch) -> None:
        self.before: Callable[[str], None] = lambda _what: None
        for owner, name in ((Path, "rename"), (Path, "unlink"), (Path, "write_bytes"), (os, "fsync")):
            patch.setattr(owner, name, self._noticed(name, getattr(owner, name)))
        faults.before = self._statement

    def _noticed(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.before(name)
            return real(*args, **options)

        return call

    def _statement(self, sql: str) -> None:
        if sql.startswith(WRITES):
            self.before("statement")


@pytest.fixture
def faults() -> Faults:
    """None yet."""
    return Faults()


@pytest.fixture
def steps(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """Nobody is called yet, and nobody at the end."""
    made = Steps(faults, monkeypatch)
    yield made
    made.before = lambda _what: None


def opened(folder: Path, faults: Faults) -> SqliteOutbox:
    """The outbox in that folder, as a process of its own would open it."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count(1)
    return opened_outbox(
        folder,
        make_id=lambda: f"{folder.name} {next(numbers)} {os.urandom(4).hex()}",
        connect=faults.connect,
    )


@contextlib.contextmanager
def filled(folder: Path, faults: Faults) -> Iterator[SqliteOutbox]:
    """One that has acknowledged all of `NAMES`; somebody reads it, so that its log stays beside it."""
    outbox = opened(folder, faults)
    for name in NAMES:
        body = usage.Usage(decision_id=name).SerializeToString()
        reservation = Reservation(f"r {name}", 1, True, b"")
        outbox.commit(Write(usage=body, key=KeyEntry("acme", name, b"h", b"a"), reservation=reservation))
    try:
        with contextlib.suppress(OutboxFailed), outbox._reader():
            yield outbox
    finally:
        outbox.close()


def has_all(outbox: SqliteOutbox) -> None:
    """What was acknowledged is there, once; and it takes new writes."""
    found: list[usage.Record] = []
    for incarnation in outbox.incarnations():
        batch = outbox.read_batch(incarnation.incarnation_id, max_records=10_000, max_bytes=1 << 30)
        if batch is not None:
            found += usage.ReportBatchRequest.FromString(batch.payload).records
    assert [record.usage.decision_id for record in found] == NAMES
    assert sorted(r.reservation_id for r in outbox.open_reservations()) == [f"r {name}" for name in NAMES]
    for name in NAMES:
        assert isinstance(outbox.commit(Write(key=KeyEntry("acme", name, b"h", b"a"))), KeyTaken)


def old_ones_are_whole(folder: Path) -> None:
    """What was set aside has all records, too: its log lies beside it. And nothing half-made is left."""
    names = {path.name for path in folder.iterdir()}
    logs = {name for name in names if name.endswith(("-wal", "-shm"))}
    assert {log[:-4] for log in logs} <= names
    assert not [name for name in names if name.endswith((".new", ".part"))]
    for name in names - logs:
        if ".aside-" in name:
            copy = folder / "looked at"
            for suffix in ("", "-wal"):
                if (folder / (name + suffix)).exists():
                    shutil.copy(folder / (name + suffix), f"{copy}{suffix}")
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                assert connection.execute("SELECT count(*) FROM records").fetchone() == (len(NAMES),)
            for path in folder.glob("looked at*"):
                path.unlink()


def opens_whole(folder: Path, faults: Faults) -> None:
    """A process that starts on these files has all."""
    outbox = opened(folder, faults)
    try:
        has_all(outbox)
    finally:
        outbox.close()
    old_ones_are_whole(folder)


def kills(folder: Path, copies: Path, steps: Steps, do: Callable[[], object]) -> list[Path]:
    """The folder as a `kill -9` before each step, and behind the last, would leave it."""
    found: list[Path] = []

    def keep(_what: str) -> None:
        found.append(copies / str(len(found)))
        shutil.copytree(folder, found[-1])

    steps.before = keep
    do()
    keep("the end")
    steps.before = lambda _what: None
    return found


def test_a_process_that_is_killed_on_the_way_loses_nothing(
    tmp_path: Path, steps: Steps, faults: Faults
) -> None:
    """Before each step of it, and before each step of the start that ends what was begun."""
    with filled(tmp_path / "data", faults) as outbox:
        states = kills(tmp_path / "data", tmp_path / "once", steps, lambda: outbox.set_aside("test"))
        assert len(states) > 15
        has_all(outbox)
    for n, state in enumerate(states):
        again = tmp_path / f"again {n}"
        if list(state.glob("*.new")):
            shutil.copytree(state, again)
            for twice in kills(again, tmp_path / f"twice {n}", steps, partial(opens_whole, again, faults)):
                opens_whole(twice, faults)
        opens_whole(state, faults)


@pytest.mark.parametrize("lasts", [False, True])
def test_a_step_that_fails_loses_nothing(tmp_path: Path, steps: Steps, faults: Faults, lasts: bool) -> None:
    """Once, or from then on for a while, in which the process may be killed: it is tried again, and what is whole is
    taken into use.
    """
    for failing in itertools.count():
        folder, killed = tmp_path / str(failing), tmp_path / f"{failing} killed"
        with filled(folder, faults) as outbox:
            done = itertools.count()

            def fail(what: str, done: Iterator[int] = done, failing: int = failing) -> None:
                n = next(done)
                if n == failing or (lasts and n > failing):
                    raise (
                        error(sqlite3.SQLITE_IOERR, "disk I/O error")
                        if what == "statement"
                        else OSError(5, what)
                    )

            steps.before = fail
            with contextlib.suppress(OutboxFailed, OutcomeUnknown):
                outbox.set_aside("test")
            outbox._writer.step(timeout_seconds=0)
            steps.before = lambda _what: None
            shutil.copytree(folder, killed)
            outbox._writer.step(timeout_seconds=0)
            assert outbox.is_healthy
            has_all(outbox)
        old_ones_are_whole(folder)
        opens_whole(killed, faults)
        if next(done) <= failing:
            assert failing > 15
            return


def test_a_machine_that_goes_down_on_the_way_loses_nothing(
    tmp_path: Path, steps: Steps, faults: Faults
) -> None:
    """Of the renames since the folder was last synced any may be lost, and any other may have come to the disk."""
    folder = tmp_path / "data"
    synced: dict[str, int] = {}
    renames: list[tuple[str, str]] = []
    states: list[Path] = []
    real = Path.rename

    def is_folder_synced(what: str) -> None:
        if what == "fsync" and not list(folder.glob("*.part")):
            renames.clear()
            synced.clear()
            synced.update({path.name: path.stat().st_ino for path in folder.iterdir()})

    def rename(source: Path, target: Path) -> Path:
        done = real(source, target)
        renames.append((source.name, Path(target).name))
        if synced:
            content = {path.stat().st_ino: path.read_bytes() for path in folder.iterdir()}
            for kept in itertools.product([True, False], repeat=len(renames)):
                names = dict(synced)
                for old, new in itertools.compress(renames, kept):
                    names[new] = names.pop(old)
                states.append(tmp_path / f"state {len(states)}")
                states[-1].mkdir()
                for name, inode in names.items():
                    (states[-1] / name).write_bytes(content[inode])
        return done

    with filled(folder, faults) as outbox:
        steps.before = is_folder_synced
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            outbox.set_aside("test")
        steps.before = lambda _what: None
    assert len(states) > 8
    for state in states:
        opens_whole(state, faults)
