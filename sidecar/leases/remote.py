"""What only the control plane can decide: gauges, and meters that aggregate by `max` or `latest`."""

import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef
from sidecar.leases import arrival
from sidecar.leases.asking import MIN_CALL_SECONDS
from sidecar.leases.giving_up import GivingUp
from sidecar.leases.ports import AcquirePort, SessionPort
from sidecar.leases.requests import wire_ref
from sidecar.leases.terms import UNREACHABLE, Grade, RemoteFailure, RemoteVerdict
from sidecar.runtime.clock import Clock
from sidecar.runtime.trouble import Refused, Unreachable


@dataclass(frozen=True, slots=True)
class Remote:
    """Asks for verdicts. Thread-safe."""

    port: AcquirePort
    sessions: SessionPort
    clock: Clock
    make_id: Callable[[], str]
    heard: Callable[[session.AcquireLeasesResponse], None]
    """Told of every answer."""
    giving_up: GivingUp

    def decide(
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
        """Blocks until the answer or the deadline. What holds a seat and comes to nothing is to be given up."""
        opened = self.sessions.opened
        if opened is None or self.port.is_down:
            return RemoteFailure(Grade.UNREACHABLE, UNREACHABLE.message)
        want = session.Want(
            ref=wire_ref(ref),
            need=needed,
            amount=needed,
            holder_id=holder_id,
            adds=adds,
            idempotency_key=idempotency_key,
        )
        want.occurred_at.FromDatetime(occurred_at)
        holder, epoch = opened
        request = session.AcquireLeasesRequest(
            holder=holder, epoch=epoch, request_id=self.make_id(), wants=[want]
        )
        answers: queue.SimpleQueue[session.AcquireLeasesResponse | Unreachable | Refused] = (
            queue.SimpleQueue()
        )
        seconds = max(MIN_CALL_SECONDS, deadline - self.clock.monotonic())
        self.port.acquire(request, seconds, answers.put)
        try:
            answer = answers.get(timeout=seconds)
        except queue.Empty:
            self._give_up(ref, request.request_id if holder_id else "")
            return RemoteFailure(Grade.UNREACHABLE, "the control plane did not answer in time")
        if isinstance(answer, Unreachable):
            self._give_up(ref, request.request_id if holder_id else "")
        if isinstance(answer, Refused) and answer.code == "FAILED_PRECONDITION":
            self.sessions.superseded()
        if isinstance(answer, session.AcquireLeasesResponse):
            self.heard(answer)
        said = arrival.verdict(answer)
        if isinstance(said, RemoteVerdict) and said.allowed and holder_id:
            return replace(said, request_id=request.request_id, may_free=not adds)
        return said

    def give_up(self, verdicts: Mapping[BalanceRef, RemoteVerdict]) -> None:
        """What these hold is free again. Waits for nobody."""
        for ref, verdict in verdicts.items():
            self._give_up(ref, verdict.request_id)

    def _give_up(self, ref: BalanceRef, request_id: str) -> None:
        if request_id:
            self.giving_up.add(ref, request_id)
