"""The keeper around the book: acquires, renews, returns, obeys recalls, remembers final refusals."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases.terms import AcquireOutcome, RemoteFailure, RemoteVerdict, Shortfall


class Acquiring(Protocol):
    """The half of the keeper that decisions and the feed use. Deadlines are monotonic seconds."""

    def acquire(self, shortfalls: Sequence[Shortfall], deadline: float) -> AcquireOutcome:
        """Blocks until every shortfall was answered, or the deadline; at once for what is known: unreachable, exhausted.

        The book's lock must not be held. Never raises for trouble with the network or the disk: that is UNREACHABLE.
        """

    def decide_remote(
        self,
        ref: BalanceRef,
        *,
        needed: int,
        holder_id: str,
        adds: bool,
        occurred_at: datetime,
        idempotency_key: str,
        deadline: float,
    ) -> RemoteVerdict | RemoteFailure:
        """Lets the control plane decide a gauge, `max` or `latest`. Blocks until its answer or the deadline."""

    def recall(self, recall: feed.Recall) -> int:
        """Obeys a recall: returns are durable, and their upload has begun, when this returns the last one's number (0: none).

        Blocks for a commit. Raises NotWritten or OutcomeUnknown: then do not answer the recall.
        """

    def hints(self, hints: Sequence[session.BalanceHint]) -> None:
        """Balances changed: refusals that were remembered for an older version are forgotten. Does not block."""
