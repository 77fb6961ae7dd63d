"""The view on disk: what was written comes back, what is torn is never trusted."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from purser.sync.v1 import feed_pb2 as feed
from sidecar.view.persisting import Persisting
from sidecar.view.snapshot import SnapshotFile, SnapshotUnusable
from tests.fuzzing.calm import within_memory
from tests.unit.sidecar.view.states import catalog, customer, view

NOW = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)


def written(path: Path) -> SnapshotFile:
    """A file with one state of each kind."""
    file = SnapshotFile(path)
    subject = feed.SubjectState(subject_id="ann", customer_id="acme")
    file.write(generation=3, revision=9, as_of=NOW, states=[catalog(), customer(hint=2), subject])
    return file


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    """Generation, revision, the instant to the microsecond, and every state."""
    stored = written(tmp_path / "view").read()
    assert stored is not None
    assert (stored.generation, stored.revision, stored.as_of) == (3, 9, NOW)
    assert stored.catalogs == (catalog(),)
    assert stored.customers == (customer(hint=2),)
    assert [s.subject_id for s in stored.subjects] == ["ann"]


def test_no_file_is_no_view(tmp_path: Path) -> None:
    """A first start finds nothing, and that is no error."""
    assert SnapshotFile(tmp_path / "view").read() is None


def test_every_torn_file_is_refused(tmp_path: Path) -> None:
    """Wherever it was cut, it is not trusted."""
    path = tmp_path / "view"
    file = written(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotUnusable):
            file.read()


def test_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    """The checksum covers all of it."""
    path = tmp_path / "view"
    file = written(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(SnapshotUnusable):
            file.read()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "generation": "x", "revision": [], "as_of_micros": 1}',
        b'{"format": 1, "generation": 1, "revision": 1, "as_of_micros": 1e400}',
        b'{"format": 1, "generation": 1, "revision": 1, "as_of_micros": 99999999999999999999999}',
        b'{"format": 1, "generation": 1, "revision": 1, "as_of_micros": "now"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, header: bytes) -> None:
    """The file is unusable in so many words, whatever is in its header, though its checksum holds."""
    body = b"PURSVIEW" + b"H" + len(header).to_bytes(4, "little") + header + b"E" + bytes(4)
    path = tmp_path / "view"
    path.write_bytes(body + hashlib.sha256(body).digest())
    with pytest.raises(SnapshotUnusable):
        SnapshotFile(path).read()


@pytest.mark.parametrize("kind", [b"H", b"K", b"C", b"S", b"E", b"?"])
def test_a_record_that_promises_more_than_there_is(tmp_path: Path, kind: bytes) -> None:
    """A length of 4 GiB takes no such memory."""
    body = b"PURSVIEW" + kind + b"\xff\xff\xff\xff" + b"short"
    path = tmp_path / "view"
    path.write_bytes(body + hashlib.sha256(body).digest())
    with within_memory(mib=8), pytest.raises(SnapshotUnusable):
        SnapshotFile(path).read()


def test_an_unusable_file_is_set_aside(tmp_path: Path) -> None:
    """It is kept under another name, and the start goes on without a view."""
    path = tmp_path / "view.snapshot"
    path.write_bytes(b"something else entirely")
    held = view()
    persisting = Persisting(
        view=held, file=SnapshotFile(path), second_tier=None, wall_now=lambda: NOW, monotonic=lambda: 1.0
    )
    assert not persisting.load()
    assert held.revision == 0
    assert [p.read_bytes() for p in tmp_path.glob("*unusable*")] == [b"something else entirely"]


def test_a_view_survives_a_restart(tmp_path: Path) -> None:
    """What one process held, the next one answers from, with its age."""
    first = view()
    first.apply(revision=4, catalogs=[catalog()], customers=[customer(hint=3)], advance=True)
    file = SnapshotFile(tmp_path / "view")
    file.write(generation=1, revision=4, as_of=NOW, states=first.states())
    second = view()
    persisting = Persisting(
        view=second, file=file, second_tier=None, wall_now=lambda: NOW, monotonic=lambda: 1.0
    )
    assert persisting.load()
    entry = second.customer("acme")
    assert entry is not None
    assert "calls" in second.compiled(entry, NOW).entitlements.features
    assert second.revision == 4
    assert second.pulse.age_seconds(6.0) == 5.0
