"""What the keeper needs of the outside. The outbox, the sessions and `upstream/` satisfy it without knowing."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from purser.sync.v1 import session_pb2 as session
from sidecar.runtime.trouble import Refused, Unreachable

Answered = Callable[[session.AcquireLeasesResponse | Unreachable | Refused], None]
"""Called once per request, from whatever thread; must not block."""


class AcquirePort(Protocol):
    """Sends acquiring requests."""

    @property
    def is_down(self) -> bool:
        """Is the control plane known to be away? Answers at once, from memory."""

    def acquire(
        self, request: session.AcquireLeasesRequest, timeout_seconds: float, answered: Answered
    ) -> None:
        """Sends without waiting; `answered` is called exactly once, within about `timeout_seconds`. Never raises."""


class Journal(Protocol):
    """Where leases and returns are written before they count: the outbox. Every call waits for the disk.

    Raises NotWritten (nothing was written) or OutcomeUnknown.
    """

    def record_leases(self, leases: Sequence[session.PresentedLease]) -> None:
        """Leases of the present incarnation, before they are spent. Doing it twice is once."""

    def record_returns(self, amounts: Sequence[session.LeaseAmount]) -> Sequence[session.LeaseReturn]:
        """Returns, as records; answers them with their uids, in order."""


class SessionPort(Protocol):
    """The session of this incarnation: `Sessions`."""

    @property
    def holder(self) -> session.Holder:
        """Who we are, session or not. Answers from memory."""

    @property
    def opened(self) -> tuple[session.Holder, int] | None:
        """Who we are and our epoch; None: no session is open (yet). Answers from memory."""

    @property
    def is_fenced(self) -> bool:
        """May this incarnation open no more? Then nobody waits for a lease."""

    def superseded(self) -> None:
        """The control plane does not take our epoch: open anew."""


class Uploads(Protocol):
    """The sender."""

    def kick(self) -> None:
        """Uploads what is there without waiting for the interval. Does not block."""


class OnHints(Protocol):
    """Takes how balances stand after a reply."""

    def __call__(self, hints: Iterable[session.BalanceHint], *, counted_through: int) -> None:
        """`counted_through`: the last of this incarnation's records that they count."""
