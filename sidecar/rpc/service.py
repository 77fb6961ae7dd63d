"""`purser.v1.EntitlementService`: decode, one call, encode. Answers are bytes, so that what is compiled can
be joined to what changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import grpc
from google.protobuf.message import Message

from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.deciding.asked import Asked, content_hash
from sidecar.deciding.check import Check, Question
from sidecar.deciding.consume import Consume
from sidecar.deciding.entitlements import Entitled, Held, Listing
from sidecar.deciding.errors import Malformed, Violation
from sidecar.deciding.holding import Standing
from sidecar.deciding.report import Report
from sidecar.deciding.reserving.extend import Extend, Release
from sidecar.deciding.reserving.reserve import Reserve
from sidecar.deciding.reserving.settle import Settle
from sidecar.rpc import validate, wire
from sidecar.runtime.clock import Clock
from sidecar.runtime.fields import block

DEADLINE_MAX_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 0.02
ANSWER_SHARE: Final = 0.05
"""What is left of a caller's deadline for the way back: the one at least, of a long one the other."""


@dataclass(frozen=True, slots=True)
class Verbs:
    """What the service calls."""

    check: Check
    consume: Consume
    report: Report
    reserve: Reserve
    settle: Settle
    extend: Extend
    release: Release
    listing: Listing
    clock: Clock


class EntitlementService:
    """One method per rpc: a decoded request and the call's context in, an encoded response out. Raises what
    `status.py` knows.
    """

    def __init__(self, verbs: Verbs) -> None:
        """Serves nothing by itself."""
        self._verbs = verbs

    def check_access(self, request: api.CheckAccessRequest, context: grpc.ServicerContext) -> bytes:
        """CheckAccess."""
        validate.check_access(request)
        return framed(self._verbs.check(question(request), deadline=self._deadline(context)))

    def batch_check_access(
        self, request: api.BatchCheckAccessRequest, context: grpc.ServicerContext
    ) -> bytes:
        """BatchCheckAccess."""
        validate.batch(request)
        deadline = self._deadline(context)
        answers: list[bytes] = []
        wrong: list[Violation] = []
        for index, item in enumerate(request.requests):
            try:
                answers.append(framed(self._verbs.check(question(item), deadline=deadline)))
            except Malformed as error:
                wrong += [Violation(f"requests[{index}].{v.field}", v.description) for v in error.violations]
        if wrong:
            raise Malformed(wrong)
        return b"".join(answers)

    def consume_usage(self, request: api.ConsumeUsageRequest, context: grpc.ServicerContext) -> bytes:
        """ConsumeUsage."""
        validate.consume(request)
        consumed = self._verbs.consume(
            asked(request.event, request.feature),
            feature=request.feature,
            min_revision=request.min_revision,
            explain=request.explain,
            deadline=self._deadline(context),
        )
        rest = api.ConsumeUsageResponse(status=int(consumed.status))  # type: ignore[arg-type]
        return framed(consumed.decision) + rest.SerializeToString()

    def report_usage(self, request: api.ReportUsageRequest, context: grpc.ServicerContext) -> bytes:
        """ReportUsage."""
        validate.report(request)
        results = self._verbs.report(
            [asked(event) for event in request.events], deadline=self._deadline(context)
        )
        return api.ReportUsageResponse(
            results=[
                api.ReportResult(
                    idempotency_key=result.idempotency_key,
                    status=int(result.status),  # type: ignore[arg-type]
                    reason=int(result.reason),  # type: ignore[arg-type]
                    message=result.message,
                )
                for result in results
            ]
        ).SerializeToString()

    def reserve_usage(self, request: api.ReserveUsageRequest, context: grpc.ServicerContext) -> bytes:
        """ReserveUsage."""
        validate.reserve(request)
        event = usage.UsageEvent()
        event.CopyFrom(request.event)
        event.ClearField("idempotency_key")
        reserved = self._verbs.reserve(
            request.reservation_id,
            asked(event),
            feature=request.feature,
            ttl=wire.span(request.ttl) if request.HasField("ttl") else None,
            min_revision=request.min_revision,
            explain=request.explain,
            deadline=self._deadline(context),
        )
        response = api.ReserveUsageResponse()
        if reserved.standing is not None:
            response.reservation.CopyFrom(_reservation(reserved.standing))
        return framed(reserved.decision) + response.SerializeToString()

    def settle_reservation(
        self, request: api.SettleReservationRequest, context: grpc.ServicerContext
    ) -> bytes:
        """SettleReservation."""
        validate.settle(request)
        settled = self._verbs.settle(
            request.reservation_id,
            request.event if request.HasField("event") else None,
            final=request.final,
            deadline=self._deadline(context),
        )
        return api.SettleReservationResponse(
            reservation=_reservation(settled.standing),
            charged=[_held(item) for item in settled.charged],
            returned=[_held(item) for item in settled.returned],
            overage=[_held(item) for item in settled.overage],
            recorded_as=settled.recorded_as,
        ).SerializeToString()

    def extend_reservation(
        self, request: api.ExtendReservationRequest, context: grpc.ServicerContext
    ) -> bytes:
        """ExtendReservation."""
        validate.extend(request)
        extended = self._verbs.extend(
            request.reservation_id,
            request.event if request.HasField("event") else None,
            ttl=wire.span(request.ttl) if request.HasField("ttl") else None,
            deadline=self._deadline(context),
        )
        rest = api.ExtendReservationResponse(reservation=_reservation(extended.standing)).SerializeToString()
        return rest if extended.decision is None else framed(extended.decision) + rest

    def release_reservation(
        self, request: api.ReleaseReservationRequest, context: grpc.ServicerContext
    ) -> bytes:
        """ReleaseReservation."""
        validate.release(request)
        standing = self._verbs.release(request.reservation_id, deadline=self._deadline(context))
        return api.ReleaseReservationResponse(reservation=_reservation(standing)).SerializeToString()

    def list_entitlements(self, request: api.ListEntitlementsRequest, context: grpc.ServicerContext) -> bytes:
        """ListEntitlements."""
        validate.entitlements(request)
        entitled = self._verbs.listing.list(
            request.customer_id, request.subject_id, deadline=self._deadline(context)
        )
        return _entitled(api.ListEntitlementsResponse(), entitled)

    def watch_entitlements(
        self, request: api.WatchEntitlementsRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """WatchEntitlements."""
        validate.entitlements(request)
        watch = self._verbs.listing.watch(
            request.customer_id, request.subject_id, is_active=context.is_active
        )
        context.add_callback(watch.close)
        try:
            for entitled in watch:
                yield _entitled(api.WatchEntitlementsResponse(), entitled)
        finally:
            self._verbs.listing.forget(watch)

    def _deadline(self, context: grpc.ServicerContext) -> float:
        return deadline_of(context, self._verbs.clock)


def deadline_of(context: grpc.ServicerContext, clock: Clock) -> float:
    """Until when the answer must be there, in monotonic seconds: a little before the caller stops waiting."""
    # None without a deadline, whatever the stubs say.
    remaining = cast("float | None", context.time_remaining())
    if remaining is None or remaining > DEADLINE_MAX_SECONDS:
        remaining = DEADLINE_MAX_SECONDS
    return clock.monotonic() + max(0.0, remaining - max(ANSWER_SECONDS, remaining * ANSWER_SHARE))


def asked(event: usage.UsageEvent, feature: str = "") -> Asked:
    """A validated event; `feature`: of the request, which names the gauge of a gauge event."""
    gauge = ""
    if event.gauge_change:
        gauge = feature or event.gauge_feature
        if event.gauge_feature != gauge:
            # However the gauge was named, it is the same event.
            filled = usage.UsageEvent()
            filled.CopyFrom(event)
            filled.gauge_feature = gauge
            event = filled
    occurred_at = wire.instant(event.occurred_at) if event.HasField("occurred_at") else None
    return Asked(event, content_hash(event), occurred_at, gauge)


def question(request: api.CheckAccessRequest) -> Question:
    """A validated check."""
    has_event = request.HasField("event")
    return Question(
        customer_id=request.customer_id,
        subject_id=request.subject_id,
        feature=request.feature,
        event=request.event if has_event else None,
        quantity=request.quantity if request.HasField("quantity") else None,
        max_staleness=wire.span(request.max_staleness) if request.HasField("max_staleness") else None,
        min_revision=request.min_revision,
        explain=request.explain,
    )


def framed(decision: bytes) -> bytes:
    """An encoded decision as field 1 of a response."""
    length = len(decision)
    if 0x80 <= length < 0x4000:
        # As most are, and cheaper than by parts.
        return b"\x0a%c%c%b" % (length & 0x7F | 0x80, length >> 7, decision)
    return block(b"\x0a", decision)


def _reservation(standing: Standing) -> api.Reservation:
    message = api.Reservation(
        reservation_id=standing.reservation_id,
        state=int(standing.state),  # type: ignore[arg-type]
        held=[_held(item) for item in standing.held],
    )
    if standing.expires_at is not None:
        message.expires_at.CopyFrom(wire.timestamp(standing.expires_at))
    return message


def _held(item: Held) -> api.HeldAmount:
    return api.HeldAmount(balance=item.balance, amount=wire.amount_message(item.amount))


def _entitled(response: Message, entitled: Entitled) -> bytes:
    assert isinstance(response, api.ListEntitlementsResponse | api.WatchEntitlementsResponse)
    for item in entitled.entitlements:
        message = response.entitlements.add(
            feature=item.feature,
            type=item.type,
            sources=item.sources,
            balances=[wire.balance_message(state) for state in item.balances],
        )
        if item.value is not None:
            message.value.CopyFrom(wire.value_message(item.value))
    response.freshness.CopyFrom(wire.freshness_message(entitled.freshness))
    response.reason = int(entitled.reason)  # type: ignore[assignment]
    return response.SerializeToString()
