"""What the sender and the sessions need of the outside; `upstream/` satisfies it."""

from collections.abc import Sequence
from typing import Protocol

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.encoding import EncodedBatch


class ReportPort(Protocol):
    """Uploads. Every call blocks for about its timeout at most; raises Unreachable or Refused."""

    def report_batch(self, batch: EncodedBatch, timeout_seconds: float) -> usage.ReportBatchResponse:
        """Raises SequenceGap too: the batch began above what should come."""

    def report_refusals(
        self,
        holder: session.Holder,
        counts: Sequence[bytes],
        samples: Sequence[bytes],
        timeout_seconds: float,
    ) -> None:
        """Lossy; nothing is retried."""


class SessionsPort(Protocol):
    """Opens and closes sessions. Every call blocks for about its timeout at most; raises Unreachable or Refused."""

    def open_session(
        self, request: session.OpenSessionRequest, timeout_seconds: float
    ) -> session.OpenSessionResponse: ...

    def close_session(
        self, request: session.CloseSessionRequest, timeout_seconds: float
    ) -> session.CloseSessionResponse: ...
