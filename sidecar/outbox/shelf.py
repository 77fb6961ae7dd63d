"""What the sender and the sessions need of the outbox, beside the port: what waits, how far it got, what must
be kept.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from purser.sync.v1 import session_pb2 as session
from sidecar.outbox.encoding import EncodedBatch
from sidecar.outbox.port import Identity, Incarnation


class Shelf(Protocol):
    """Thread-safe. Reads come from the file and go on while writes fail; what is to be written raises as
    `Outbox.commit` does.
    """

    @property
    def identity(self) -> Identity:
        """Who writes now."""

    @property
    def generation(self) -> int:
        """The control plane's generation that this file last spoke to; 0: none."""

    def belong_to(self, installation_id: str) -> None:
        """From now on `identity` names that installation. While the disk takes nothing it is kept in memory."""

    def incarnations(self) -> Sequence[Incarnation]:
        """All that wrote this file, in order, the present one last."""

    def read_batch(self, incarnation_id: str, *, max_records: int, max_bytes: int) -> EncodedBatch | None:
        """The next run above the cursor. None: everything is acknowledged. One record is answered whatever its size."""

    def acknowledge(self, incarnation_id: str, cursor: int) -> None:
        """Moves the cursor on. While the disk takes nothing it moves in memory: then a restart sends a
        stretch again.
        """

    def rewind(self, cursors: Mapping[str, int], generation: int) -> None:
        """The control plane was restored: its cursors hold, and rows above them wait again."""

    def keep(self, incarnation_id: str) -> Sequence[session.LeaseAmount]:
        """What an earlier incarnation's leases are still needed for: open holds, and charges that are not
        acknowledged.
        """

    def mark_ended(self, incarnation_id: str) -> None:
        """The control plane has closed it."""

    def presented(self) -> Sequence[session.PresentedLease]:
        """The present incarnation's leases of the last day, for a control plane that may not know them."""

    def take_refusals(self, limit: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Counts and samples, which are gone from the file when this answers: reporting them is lossy."""

    def purge(self) -> bool:
        """Deletes a slice of what is older than is kept. True: there is more."""

    def set_aside(self, cause: str) -> Identity:
        """As in the port."""
