"""A control plane in memory, as far as sessions and uploads go: one process's view of what was booked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.outbox.encoding import EncodedBatch
from sidecar.runtime.trouble import AnotherInstallation, Refused, SequenceGap, Superseded, Unreachable

Uid = tuple[str, str, int]


@dataclass
class FakeBooks:
    """Satisfies ReportPort and SessionsPort. `trouble` may raise before a call is looked at, `lost` after it
    was done.
    """

    generation: int = 1
    installation: str = "ours"
    looks_who_comes: bool = True
    """False: it takes what others' sidecars hand to it."""
    epochs: dict[str, int] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    outboxes: dict[str, set[str]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    booked: dict[Uid, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    opened: list[session.OpenSessionRequest] = field(default_factory=list)
    closed: list[session.CloseSessionRequest] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    refusals: list[tuple[int, int]] = field(default_factory=list)
    trouble: Callable[[str], None] = lambda _rpc: None
    lost: Callable[[str], None] = lambda _rpc: None
    poison: str = ""
    superseded: set[str] = field(default_factory=set)
    """Incarnations that may open no more."""

    def open_session(
        self, request: session.OpenSessionRequest, timeout_seconds: float
    ) -> session.OpenSessionResponse:
        """Opens, unless the disk was rolled back."""
        assert timeout_seconds > 0
        self.trouble("open")
        self._look(request.holder)
        if request.holder.incarnation_id in self.superseded:
            raise Superseded("declared dead")
        self.opened.append(request)
        told = {i.incarnation_id: i.last_seq for i in request.open_incarnations}
        known = self.outboxes.setdefault(request.holder.outbox_id, set())
        for incarnation in known - self.ended:
            if self.highest.get(incarnation, 0) > told.get(incarnation, -1):
                return session.OpenSessionResponse(
                    rolled_back=True, generation=self.generation, installation_id=self.installation
                )
        known |= set(told)
        epoch = self.epochs.setdefault(request.holder.incarnation_id, len(self.epochs) + 1)
        self.lost("open")
        return session.OpenSessionResponse(
            epoch=epoch,
            generation=self.generation,
            installation_id=self.installation,
            cursors=[
                session.IncarnationState(incarnation_id=i, last_seq=self.cursors.get(i, 0))
                for i in sorted(told)
            ],
        )

    def _look(self, holder: session.Holder) -> None:
        if self.looks_who_comes and holder.installation_id not in {"", self.installation}:
            raise AnotherInstallation("this is another one")

    def close_session(
        self, request: session.CloseSessionRequest, timeout_seconds: float
    ) -> session.CloseSessionResponse:
        """Ends it when nothing is kept and the cursor has arrived."""
        assert timeout_seconds > 0
        self.trouble("close")
        self.closed.append(request)
        incarnation = request.holder.incarnation_id
        cursor = self.cursors.get(incarnation, 0)
        ended = cursor >= request.final_seq and not request.keep
        if ended:
            self.ended.add(incarnation)
        return session.CloseSessionResponse(ended=ended, cursor=cursor)

    def report_batch(self, batch: EncodedBatch, timeout_seconds: float) -> usage.ReportBatchResponse:
        """Books what is new."""
        assert timeout_seconds > 0
        self.trouble("report")
        try:
            request = usage.ReportBatchRequest.FromString(batch.payload)
        except DecodeError as error:
            raise Refused("INTERNAL", "Exception deserializing request!") from error
        self._look(request.holder)
        assert [r.seq for r in request.records] == list(range(batch.first_seq, batch.last_seq + 1))
        self.sizes.append(len(request.records))
        incarnation = request.holder.incarnation_id
        cursor = self.cursors.get(incarnation, 0)
        if request.first_seq > cursor + 1:
            raise SequenceGap("gap", expected_seq=cursor + 1)
        if any(r.usage.decision_id == self.poison != "" for r in request.records):
            raise Refused("INVALID_ARGUMENT", "a record is bad")
        for record in request.records:
            first = record.first_written
            uid = (first.outbox_id, first.incarnation_id, first.seq)
            if not record.HasField("first_written"):
                uid = (request.holder.outbox_id, incarnation, record.seq)
            if uid not in self.booked and record.WhichOneof("body"):
                self.booked[uid] = record.usage.decision_id
                self.order.append(record.garbled.hex() or record.usage.decision_id)
        self.cursors[incarnation] = max(cursor, request.last_seq)
        self.highest[incarnation] = max(self.highest.get(incarnation, 0), request.last_seq)
        self.lost("report")
        return usage.ReportBatchResponse(cursor=self.cursors[incarnation])

    def report_refusals(
        self,
        holder: session.Holder,
        counts: Sequence[bytes],
        samples: Sequence[bytes],
        timeout_seconds: float,
    ) -> None:
        """Counts them."""
        assert timeout_seconds > 0
        assert holder.outbox_id
        self.refusals.append((len(counts), len(samples)))


def failing(times: int, rpc: str = "report") -> Callable[[str], None]:
    """Unreachable so many times."""
    left = [times]

    def trouble(called: str) -> None:
        if called == rpc and left[0] > 0:
            left[0] -= 1
            raise Unreachable("UNAVAILABLE")

    return trouble
