"""Sidecars of the demo's tests: they answer from a script."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import purser
from clients.cli.dev.callers import Callers
from clients.cli.dev.heard import Heard
from purser import messages
from purser.errors import ErrorDetails
from purser.v1 import decision_pb2, usage_pb2
from purser.v1 import entitlement_service_pb2 as rpc_pb2


class FakeSidecar:
    """Allows everything, unless the next thing in `script` is an error to raise or a refusal's reason."""

    def __init__(self) -> None:
        self.script: list[Exception | purser.Reason] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.overage: Mapping[str, purser.Amount] = {}
        self.recorded_as = ""

    def close(self) -> None:
        """Nothing to close."""

    def reserve(self, **fields: Any) -> purser.Reservation:
        reason = self._next("reserve", fields)
        decision = decision_pb2.Decision(
            allowed=reason == purser.Reason.OK, reason=decision_pb2.Reason.Value(f"REASON_{reason}")
        )
        response = rpc_pb2.ReserveUsageResponse(decision=decision)
        return purser.Reservation(cast("purser.Client", self), fields["reservation_id"], response)

    def settle(self, **fields: Any) -> purser.Settlement:
        self._next("settle", fields)
        state = purser.ReservationState(fields["reservation_id"], "SETTLED", None, {})
        return purser.Settlement(state, {}, {}, self.overage, self.recorded_as)

    def consume(self, **fields: Any) -> purser.Decision:
        reason = self._next("consume", fields)
        decision = decision_pb2.Decision(
            allowed=reason == purser.Reason.OK,
            reason=decision_pb2.Reason.Value(f"REASON_{reason}"),
            cost=usage_pb2.Amount(unit="usd", value="1"),
        )
        return messages.decision(decision)

    def report(self, **fields: Any) -> purser.ReportResult:
        self._next("report", fields)
        return purser.ReportResult(fields["idempotency_key"], "ACCEPTED", "", "")

    def _next(self, rpc: str, fields: dict[str, Any]) -> purser.Reason:
        self.calls.append((rpc, fields))
        scripted = self.script.pop(0) if self.script else purser.Reason.OK
        if isinstance(scripted, Exception):
            raise scripted
        return scripted


class FakeTime:
    """Stands still but for waiting."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


def callers(sidecar: FakeSidecar, time: FakeTime | None = None) -> Callers:
    """Callers of one fake sidecar."""
    time = time or FakeTime()
    return Callers(
        ["fake"],
        Heard(),
        connect=lambda address: cast("purser.Client", sidecar),
        clock=time.clock,
        wait=time.wait,
    )


def overloaded(seconds: int) -> purser.Overloaded:
    """An error with a time to wait."""
    return purser.Overloaded("full", info=ErrorDetails(retry_after=timedelta(seconds=seconds)))


def usd(value: str) -> purser.Amount:
    return purser.Amount("usd", Decimal(value))
