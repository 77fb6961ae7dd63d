"""The view on disk: written beside the old one, synced and renamed; read back only if its checksum holds."""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from purser.sync.v1 import feed_pb2 as feed
from sidecar.runtime.clock import from_microseconds, microseconds

MAGIC: Final = b"PURSVIEW"
FORMAT: Final = 1
_LENGTH = struct.Struct("<cI")
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_END: Final = b"E"
_HEADER: Final = b"H"
_KINDS: Final[dict[bytes, type[Message]]] = {
    b"K": feed.CatalogRevision,
    b"C": feed.CustomerState,
    b"S": feed.SubjectState,
}


class SnapshotUnusable(Exception):
    """The file is torn, foreign or of another format."""


@dataclass(frozen=True, slots=True)
class StoredView:
    """What a view looks like outside the process. `as_of`: last confirmed then, by the control plane's
    clock; None: never.
    """

    generation: int
    revision: int
    as_of: datetime | None
    catalogs: tuple[feed.CatalogRevision, ...]
    customers: tuple[feed.CustomerState, ...]
    subjects: tuple[feed.SubjectState, ...]


class _Header(NamedTuple):
    """What stands before the states."""

    generation: int
    revision: int
    as_of: datetime | None


class SnapshotFile:
    """One snapshot file. Only one thread at a time may write."""

    def __init__(self, path: Path) -> None:
        """The folder must exist. Nothing is read yet."""
        self._path = path

    def write(
        self, *, generation: int, revision: int, as_of: datetime | None, states: Iterable[Message]
    ) -> None:
        """Replaces the file by one with these states; the old one stands until the new one is on disk.

        `states` is consumed while writing, so that a large view needs no second copy. Raises OSError.
        """
        fresh = self._path.with_suffix(".new")
        micros = None if as_of is None else microseconds(as_of)
        header = {"format": FORMAT, "generation": generation, "revision": revision, "as_of_micros": micros}
        with fresh.open("wb") as file:
            digest = hashlib.sha256()
            for chunk in _chunks(json.dumps(header).encode(), states):
                digest.update(chunk)
                file.write(chunk)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_folder(self._path.parent)

    def read(self) -> StoredView | None:
        """What was last written; None: nothing was. Raises `SnapshotUnusable` and OSError."""
        try:
            with self._path.open("rb") as file:
                return _read(file)
        except FileNotFoundError:
            return None

    def set_aside(self, at: datetime) -> Path:
        """Renames the file, so that it can be looked at, and returns its new name. Raises OSError."""
        aside = self._path.with_name(f"{self._path.name}.unusable-{at:%Y%m%dT%H%M%S%f}")
        self._path.replace(aside)
        return aside


def _chunks(header: bytes, states: Iterable[Message]) -> Iterator[bytes]:
    yield MAGIC
    yield _LENGTH.pack(_HEADER, len(header)) + header
    kinds = {kind: letter for letter, kind in _KINDS.items()}
    for state in states:
        body = state.SerializeToString()
        yield _LENGTH.pack(kinds[type(state)], len(body)) + body
    yield _LENGTH.pack(_END, 0)


def _read(file: BinaryIO) -> StoredView:
    # The checksum first: nothing of a file that fails it is looked at.
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise SnapshotUnusable("it is no snapshot of a view")
    if size < len(MAGIC) + _DIGEST_BYTES:
        raise SnapshotUnusable("it is cut short")
    file.seek(0)
    digest = hashlib.sha256()
    left = size - _DIGEST_BYTES
    while left:
        chunk = file.read(min(left, 1 << 16))
        digest.update(chunk)
        left -= len(chunk)
    if file.read(_DIGEST_BYTES) != digest.digest():
        raise SnapshotUnusable("its checksum does not hold")
    file.seek(len(MAGIC))
    return _read_records(file, size - _DIGEST_BYTES)


def _read_records(file: BinaryIO, end: int) -> StoredView:
    # The checksum holds, but it may be that of another version's file: what is in it is read with care all the same.
    header = _header(*_record(file, end))
    found: dict[bytes, list[Message]] = {letter: [] for letter in _KINDS}
    while (record := _record(file, end))[0] != _END:
        letter, body = record
        try:
            message = _KINDS[letter]()
            message.ParseFromString(body)
        except (KeyError, DecodeError) as error:
            raise SnapshotUnusable(f"a record of kind {letter!r} can not be read") from error
        found[letter].append(message)
    return StoredView(
        generation=header.generation,
        revision=header.revision,
        as_of=header.as_of,
        catalogs=tuple(m for m in found[b"K"] if isinstance(m, feed.CatalogRevision)),
        customers=tuple(m for m in found[b"C"] if isinstance(m, feed.CustomerState)),
        subjects=tuple(m for m in found[b"S"] if isinstance(m, feed.SubjectState)),
    )


def _header(letter: bytes, body: bytes) -> _Header:
    try:
        found = json.loads(body) if letter == _HEADER else None
        if found is None or found["format"] != FORMAT:
            raise SnapshotUnusable(f"it is not of format {FORMAT}, which this version reads")
        micros = found["as_of_micros"]
        return _Header(
            int(found["generation"]),
            int(found["revision"]),
            None if micros is None else from_microseconds(micros),
        )
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SnapshotUnusable("its header can not be read") from error


def _record(file: BinaryIO, end: int) -> tuple[bytes, bytes]:
    head = file.read(_LENGTH.size)
    if len(head) != _LENGTH.size:
        raise SnapshotUnusable("it is cut short")
    letter, length = _LENGTH.unpack(head)
    if length > end - file.tell():
        raise SnapshotUnusable("a record promises more than there is")
    return letter, file.read(length)


def _sync_folder(folder: Path) -> None:
    # The rename itself is only durable once the folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
