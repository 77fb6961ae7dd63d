"""One way from an app to a sidecar: a call, and what was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import grpc

from purser import messages
from purser.errors import PurserError, raising
from purser.types import CheckFields, EventFields
from purser.v1 import entitlement_service_pb2 as rpc_pb2
from purser.v1 import entitlement_service_pb2_grpc as rpc_grpc
from tests.e2e.histories.history import Answer, Asked, Told, Verb

TIMEOUT_SECONDS: Final = 2.0
CHECK_SECONDS: Final = 8.0
"""Of a check: the 5 s that one waits at most for a customer who is not known there, and some for a busy machine. With
less a sidecar waits until 20 ms before the end, and whether its answer comes in time is luck."""
_UNKNOWN: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL}
)
_CHANNEL: Final = (
    ("grpc.enable_retries", 0),  # each try is a call of the history
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Line:
    """The way to one sidecar, which many callers share."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self._address = address
        self._channel = grpc.insecure_channel(address, _CHANNEL)
        self._stub = rpc_grpc.EntitlementServiceStub(self._channel)

    def close(self) -> None:
        """Calls under way fail."""
        self._channel.close()

    def make(self, asked: Asked) -> Answer:
        """One call, and what was told."""
        try:
            with raising(self._address):
                return _CALLS[asked.verb](self._stub, asked)
        except PurserError as error:
            return _failed(error)

    def report(self, batch: Sequence[Asked]) -> list[Answer]:
        """Several facts in one call."""
        try:
            with raising(self._address):
                response = self._stub.ReportUsage(
                    messages.report(map(_event, batch)), timeout=TIMEOUT_SECONDS
                )
        except PurserError as error:
            return [_failed(error)] * len(batch)
        results = map(messages.report_result, response.results)
        return [
            Answer(
                told=Told.ACCEPTED if result else Told.REFUSED,
                why=result.reason,
                is_duplicate=result.status == "DUPLICATE",
            )
            for result in results
        ]


def _failed(error: PurserError) -> Answer:
    told = Told.UNKNOWN if error.code in _UNKNOWN else Told.FAILED
    return Answer(told=told, why=f"{error.code and error.code.name} {error.info.reason} {error}"[:200])


def _event(asked: Asked) -> EventFields:
    return {
        "idempotency_key": asked.key,
        "customer_id": asked.customer_id,
        "event_name": "job",
        "measures": {"points": asked.points},
    }


def _estimate(asked: Asked) -> EventFields:
    return {"customer_id": asked.customer_id, "event_name": "job", "measures": {"points": asked.points}}


def _check(stub: Any, asked: Asked) -> Answer:
    fields: CheckFields = {
        "customer_id": asked.customer_id,
        "event_name": "job",
        "measures": {"points": asked.points},
    }
    request = messages.check(fields)
    decision = messages.decision(stub.CheckAccess(request, timeout=CHECK_SECONDS).decision)
    return Answer(
        told=Told.ACCEPTED if decision else Told.REFUSED, why="" if decision else decision.reason.value
    )


def _consume(stub: Any, asked: Asked) -> Answer:
    request = messages.consume(_event(asked), "", None, explain=False)
    return _consumed(stub, request)


def _seat(stub: Any, asked: Asked) -> Answer:
    event: EventFields = {
        "idempotency_key": asked.key,
        "customer_id": asked.customer_id,
        "holder_id": asked.holder,
        "gauge_change": asked.verb.upper(),
    }
    return _consumed(stub, messages.consume(event, "seats", None, explain=False))


def _consumed(stub: Any, request: Any) -> Answer:
    decision = messages.consumed(stub.ConsumeUsage(request, timeout=TIMEOUT_SECONDS))
    return Answer(
        told=Told.ACCEPTED if decision else Told.REFUSED,
        why="" if decision else decision.reason.value,
        is_duplicate=decision.status == "DUPLICATE",
    )


def _reserve(stub: Any, asked: Asked) -> Answer:
    ttl = timedelta(seconds=asked.ttl_seconds)
    request = messages.reserve(_estimate(asked), asked.key, "", ttl, None, explain=False)
    response = stub.ReserveUsage(request, timeout=TIMEOUT_SECONDS)
    decision, state = messages.decision(response.decision), messages.reservation(response.reservation)
    return Answer(
        told=Told.ACCEPTED if decision else Told.REFUSED,
        why="" if decision else decision.reason.value,
        state=state.state,
    )


def _extend(stub: Any, asked: Asked) -> Answer:
    response = stub.ExtendReservation(
        messages.extend(_estimate(asked), asked.key, None), timeout=TIMEOUT_SECONDS
    )
    decision, state = messages.extended(response)
    return Answer(
        told=Told.ACCEPTED if decision else Told.REFUSED,
        why="" if decision is None else decision.reason.value,
        state=state.state,
    )


def _settle(stub: Any, asked: Asked) -> Answer:
    request = messages.settle(_estimate(asked), asked.key, final=asked.is_final)
    settlement = messages.settlement(stub.SettleReservation(request, timeout=TIMEOUT_SECONDS))
    charged = sum((amount.value for amount in settlement.charged.values()), Decimal(0))
    over = sum((amount.value for amount in settlement.overage.values()), Decimal(0))
    return Answer(
        told=Told.ACCEPTED,
        state=settlement.reservation.state,
        recorded_as=settlement.recorded_as,
        covered=Decimal(0) if settlement.recorded_as else charged - over,
    )


def _release(stub: Any, asked: Asked) -> Answer:
    request = rpc_pb2.ReleaseReservationRequest(reservation_id=asked.key)
    response = stub.ReleaseReservation(request, timeout=TIMEOUT_SECONDS)
    return Answer(told=Told.ACCEPTED, state=messages.reservation(response.reservation).state)


_CALLS: Final[Mapping[Verb, Callable[[Any, Asked], Answer]]] = {
    Verb.CHECK: _check,
    Verb.CONSUME: _consume,
    Verb.RESERVE: _reserve,
    Verb.EXTEND: _extend,
    Verb.SETTLE: _settle,
    Verb.RELEASE: _release,
    Verb.ADD: _seat,
    Verb.REMOVE: _seat,
}
