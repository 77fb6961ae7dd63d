"""The outbox's contract: the durable file of what this sidecar acknowledged. What was answered survives `kill -9`.

Amounts are integers in the balance's scale. Bytes that hold messages are encoded protobuf. Instants are aware, in UTC.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from purser.sync.v1 import session_pb2 as session
from sidecar.runtime.trouble import NotWritten, OutcomeUnknown

__all__ = [
    "Durability",
    "Identity",
    "Incarnation",
    "KeyEntry",
    "KeyTaken",
    "LeaseChange",
    "Outbox",
    "OutboxFailed",
    "OutboxFull",
    "OutboxLocked",
    "OutcomeUnknown",
    "Reservation",
    "ReservationMoved",
    "Write",
    "Written",
]


class Durability(StrEnum):
    """What an acknowledged write survives."""

    POWER_LOSS = "power_loss"
    """Synced to the disk: synchronous=FULL."""
    PROCESS_CRASH = "process_crash"
    """Handed to the operating system: synchronous=NORMAL."""
    REMOTE = "remote"
    """Synced to the disk, and in the control plane's books."""


class OutboxFull(NotWritten):
    """The disk has no room: nothing was written. What is in the outbox still drains."""


class OutboxFailed(NotWritten):
    """The disk does not take writes, or the outbox is closed: nothing was written."""


class OutboxUnusable(Exception):
    """The file can not be opened, and is not damaged: something else stands in its place, its disk is away, or another
    version wrote it. It stays as it is.
    """


class OutboxLocked(Exception):
    """Another process holds this outbox. One file has one process; give each sidecar a folder of its own."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes now. It changes only when the first control plane is met, and when a file is set aside."""

    outbox_id: str
    incarnation_id: str
    installation_id: str = ""
    """Whose books this outbox's usage belongs to; empty: no control plane was met yet."""

    @property
    def holder(self) -> session.Holder:
        """The same as the wire says it."""
        return session.Holder(
            outbox_id=self.outbox_id,
            incarnation_id=self.incarnation_id,
            installation_id=self.installation_id,
        )


class KeyEntry(NamedTuple):
    """An idempotency key, what the caller sent under it, and what was answered."""

    customer_id: str
    key: str
    content_hash: bytes
    """SHA-256 over what the caller sent."""
    answer: bytes
    """The first answer, encoded."""


class LeaseChange(NamedTuple):
    """What a write does to one lease: differences, which may be negative. Rates and gauges have none."""

    lease_id: str
    charged: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reservation as it stands after a write. `state` is the caller's own encoding and is not looked into."""

    reservation_id: str
    version: int
    """1 when it is made, one more with each write."""
    is_open: bool
    state: bytes


class Write(NamedTuple):
    """What is written together: all of it or, when the key or the reservation stands in the way, nothing of it."""

    usage: bytes = b""
    """An encoded `purser.sync.v1.Usage`. Empty: this write makes no record."""
    key: KeyEntry | None = None
    reservation: Reservation | None = None
    """Applies only when the stored version is one less (none stored: 0)."""
    leases: tuple[LeaseChange, ...] = ()
    is_remembered: bool = False
    """Who writes knows the reservation as open: where none is stored the disk has lost it, and this takes its place."""


class Written(NamedTuple):
    """It is durable. `seq` is the record's number in the present incarnation; 0: the write made none."""

    seq: int


@dataclass(frozen=True, slots=True)
class KeyTaken:
    """The key was there already, with this; nothing of the write was applied."""

    entry: KeyEntry


@dataclass(frozen=True, slots=True)
class ReservationMoved:
    """Somebody else changed the reservation meanwhile; nothing of the write was applied. None: there is none."""

    stored: Reservation | None


WriteResult = Written | KeyTaken | ReservationMoved


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One process that wrote this file."""

    incarnation_id: str
    last_seq: int
    cursor: int
    """Everything up to this number is in the control plane's books."""
    ended: bool
    """The control plane has closed it."""
    closable: bool
    """False: a reboot may have lost what it wrote, so its leases are left to the control plane's policy."""


class Outbox(Protocol):
    """A file of one process. Thread-safe. Only `commit`, `commit_all` and the `record_…` calls wait for the disk."""

    @property
    def identity(self) -> Identity:
        """Who writes now; never blocks."""

    @property
    def is_healthy(self) -> bool:
        """Does it take writes? Turns False on a full or failing disk, and True again by itself; never blocks."""

    def commit(self, write: Write, *, timeout_seconds: float | None = None) -> WriteResult:
        """Blocks until the write is durable (in `remote`: until the control plane has it, `timeout_seconds` at most).

        Raises OutboxFull or OutboxFailed when nothing was written; OutcomeUnknown when that is not known (yet) or, in
        `remote`, when the acknowledgement did not come in time: the write stands then, and its resolution says so.
        A key or a reservation that stands in the way is answered once the control plane has what it stands for.
        """

    def commit_all(
        self, writes: Sequence[Write], *, timeout_seconds: float | None = None
    ) -> Sequence[WriteResult]:
        """As many commits in one go: each is all or nothing by itself, and they become durable together."""

    def wait_acknowledged(self, identity: Identity, seq: int, timeout_seconds: float) -> bool:
        """Blocks until everything up to `seq` is in the control plane's books. False: not in time."""

    def key(self, customer_id: str, key: str) -> KeyEntry | None:
        """A key that was written in the last 40 days. Reads committed data from the file; goes on while writes fail.

        In `remote` it waits for the control plane to have what was written, and raises OutcomeUnknown when that takes
        too long. So does `reservation`, of one that has ended.
        """

    def reservation(self, reservation_id: str) -> Reservation | None:
        """As it stands; open ones for good, others for 40 days."""

    def open_reservations(self) -> Iterator[Reservation]:
        """All that are open, for replay at the start."""

    def count_refusals(self, counts: Iterable[bytes], samples: Iterable[bytes]) -> None:
        """Takes encoded `RefusalCount`s and `RefusalSample`s to report once. Lossy: never raises, never waits."""

    def record_leases(self, leases: Sequence[session.PresentedLease]) -> None:
        """Writes what was leased, before it is spent. Doing it twice is once. Raises as `commit` does."""

    def record_returns(self, amounts: Sequence[session.LeaseAmount]) -> Sequence[session.LeaseReturn]:
        """Writes returns as records that go up with the usage; answers them with their uids. Raises as
        `commit` does.
        """

    def set_aside(self, cause: str) -> Identity:
        """The disk was rolled back, or the file can not be trusted: renames it, and goes on in a new one with a new id.

        Readable rows are written again with the uid they had; nothing of the old one will be closed. Blocks
        while it copies.
        Raises OutboxFailed.
        """
