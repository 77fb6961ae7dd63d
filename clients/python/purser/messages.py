"""Between keywords and protobuf: the sync and the async client share every line of it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from purser import types
from purser.errors import AccessDenied
from purser.v1 import decision_pb2, usage_pb2
from purser.v1 import entitlement_service_pb2 as rpc_pb2

SERVICE_CONFIG: Final = json.dumps(
    {
        # Safe on every method: a repeat carries the same key, reservation id and cumulative measures.
        "methodConfig": [
            {
                "name": [{"service": "purser.v1.EntitlementService"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
CHANNEL_OPTIONS: Final = (
    ("grpc.enable_retries", 1),
    ("grpc.service_config", SERVICE_CONFIG),
    # A sidecar that restarts is back within a second; gRPC's own backoff would grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


_GAUGE_CHANGE: Final = "GAUGE_CHANGE_"
_MAX_EXPONENT: Final = 60
"""Far above what any balance can hold."""
_MAX_PORT: Final = 65535
_SCHEME: Final = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):(?!\d+$).")
_ONLY_IN_CHECKS: Final = types.CheckFields.__annotations__.keys() - types.EventFields.__annotations__.keys()


def target(text: str, name: str) -> str:
    """Where a sidecar listens, as it was written.

    Raises:
        ValueError: it names no port. (gRPC would take 443.) What gRPC resolves by a scheme of its own is left to it.
    """
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) <= _MAX_PORT
    if not _SCHEME.match(text) and not (host and "/" not in host and is_port):
        raise ValueError(f"{name} {text}: write HOST:PORT or unix:PATH, for instance localhost:7070")
    return text


def event(fields: types.EventFields) -> usage_pb2.UsageEvent:
    """The keywords as a message; numbers become decimal strings without exponent.

    Raises:
        TypeError: an unknown keyword, or a number that is a float (a float is not the number that was meant).
        ValueError: a text that is no number, an unknown `gauge_change`, or a naive `occurred_at`.
    """
    given = dict(fields)
    measures = {
        name: decimal(value, f"measures.{name}") for name, value in (fields.get("measures") or {}).items()
    }
    at = fields.get("occurred_at")
    message = usage_pb2.UsageEvent(
        measures=measures, attributes=dict(fields.get("attributes") or {}), occurred_at=timestamp(at)
    )
    change = fields.get("gauge_change")
    if change:
        message.gauge_change = gauge_change(change)
    for name in given.keys() - {"measures", "attributes", "occurred_at", "gauge_change"}:
        if name not in types.EventFields.__annotations__:
            raise TypeError(
                f"unknown field {name!r}; an event has {', '.join(types.EventFields.__annotations__)}"
            )
        setattr(message, name, given[name] or "")
    return message


def check(fields: types.CheckFields) -> rpc_pb2.CheckAccessRequest:
    """A check by event when an event is described, else by quantity."""
    request = rpc_pb2.CheckAccessRequest(
        customer_id=fields.get("customer_id", ""),
        subject_id=fields.get("subject_id", ""),
        feature=fields.get("feature", ""),
        explain=fields.get("explain", False),
        max_staleness=duration(fields.get("max_staleness")),
        min_revision=fields.get("min_revision"),
    )
    described = {name: value for name, value in fields.items() if name not in _ONLY_IN_CHECKS}
    if described.keys() - {"customer_id", "subject_id"}:
        request.event.CopyFrom(event(cast("types.EventFields", described)))
    elif "quantity" in fields:
        request.quantity = decimal(fields["quantity"], "quantity")
    return request


def consume(
    fields: types.EventFields, feature: str, min_revision: int | None, *, explain: bool
) -> rpc_pb2.ConsumeUsageRequest:
    return rpc_pb2.ConsumeUsageRequest(
        event=_keyed(fields), feature=feature, min_revision=min_revision, explain=explain
    )


def report(events: Iterable[types.EventFields]) -> rpc_pb2.ReportUsageRequest:
    return rpc_pb2.ReportUsageRequest(events=map(_keyed, events))


def reserve(
    fields: types.EventFields,
    reservation_id: str,
    feature: str,
    ttl: timedelta | None,
    min_revision: int | None,
    *,
    explain: bool,
) -> rpc_pb2.ReserveUsageRequest:
    return rpc_pb2.ReserveUsageRequest(
        reservation_id=reservation_id or new_id(),
        event=event(fields),
        feature=feature,
        ttl=duration(ttl),
        min_revision=min_revision,
        explain=explain,
    )


def settle(
    fields: types.EventFields, reservation_id: str, *, final: bool
) -> rpc_pb2.SettleReservationRequest:
    return rpc_pb2.SettleReservationRequest(reservation_id=reservation_id, event=event(fields), final=final)


def extend(
    fields: types.EventFields, reservation_id: str, ttl: timedelta | None
) -> rpc_pb2.ExtendReservationRequest:
    return rpc_pb2.ExtendReservationRequest(
        reservation_id=reservation_id, ttl=duration(ttl), event=event(fields) if fields else None
    )


def new_id() -> str:
    """A random idempotency key or reservation id."""
    return uuid.uuid4().hex


def _keyed(fields: types.EventFields) -> usage_pb2.UsageEvent:
    return event({"idempotency_key": new_id(), **fields})


def decimal(value: Decimal | int | str, name: str) -> str:
    """A decimal string without exponent. What no sidecar takes (NaN, hundreds of digits) is left for it to refuse."""
    if isinstance(value, bool | float):
        raise TypeError(f"{name}: pass an int, a Decimal or a str, not {value!r}: a float is not exact")
    if not isinstance(value, Decimal | int | str):
        raise TypeError(f"{name}: pass an int, a Decimal or a str, not {value!r}")
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise ValueError(f"{name}: {value!r} is not a number; write digits such as 412 or 0.5") from error
    # Written out, a number such as 1e999999999 would fill the memory.
    writable = number.is_finite() and abs(number.adjusted()) <= _MAX_EXPONENT
    return f"{number:f}" if writable else str(number)


def gauge_change(name: str) -> usage_pb2.GaugeChange.ValueType:
    """A change by its name without prefix."""
    known = [each.removeprefix(_GAUGE_CHANGE) for each, number in usage_pb2.GaugeChange.items() if number]
    if name not in known:
        raise ValueError(f"gauge_change: {name!r} is unknown; write {', '.join(known)}")
    return usage_pb2.GaugeChange.Value(_GAUGE_CHANGE + name)


def timestamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError(f"occurred_at: {at} has no time zone; pass an aware datetime")
    message = Timestamp()
    message.FromDatetime(at.astimezone(UTC))
    return message


def duration(span: timedelta | None) -> Duration | None:
    if span is None:
        return None
    message = Duration()
    message.FromTimedelta(span)
    return message


def decision(message: decision_pb2.Decision, status: str = "") -> types.Decision:
    return types.Decision(
        decision_id=message.decision_id,
        allowed=message.allowed,
        reason=_reason(message.reason),
        message=message.message,
        value=value(message.value) if message.HasField("value") else None,
        balances=tuple(map(balance, message.balances)),
        cost=amount(message.cost) if message.HasField("cost") else None,
        shortfall=amount(message.shortfall) if message.HasField("shortfall") else None,
        retry_after=message.retry_after.ToTimedelta() if message.HasField("retry_after") else None,
        upgrade_options=tuple(message.upgrade_options),
        warnings=tuple(message.warnings),
        freshness=freshness(message.freshness),
        explanation=tuple(
            types.ExplanationStep(step.step, step.about, step.finding, _reason(step.reason), step.source)
            for step in message.explanation
        ),
        status=status,
    )


def require(answer: types.Decision) -> types.Decision:
    """The decision, when it allows.

    Raises:
        AccessDenied: it does not.
    """
    if not answer:
        raise AccessDenied(answer)
    return answer


def extended(
    response: rpc_pb2.ExtendReservationResponse,
) -> tuple[types.Decision | None, types.ReservationState]:
    decided = decision(response.decision) if response.HasField("decision") else None
    return decided, reservation(response.reservation)


def consumed(response: rpc_pb2.ConsumeUsageResponse) -> types.Decision:
    return decision(response.decision, _plain(rpc_pb2.UsageStatus.Name(response.status), "USAGE_STATUS_"))


def balance(message: decision_pb2.BalanceState) -> types.BalanceState:
    return types.BalanceState(
        balance=message.balance,
        kind=_plain(decision_pb2.BalanceKind.Name(message.kind), "BALANCE_KIND_"),
        unit=message.unit,
        limit=Decimal(message.limit) if message.HasField("limit") else None,
        used=Decimal(message.used or 0),
        remaining=Decimal(message.remaining) if message.HasField("remaining") else None,
        overage=Decimal(message.overage or 0),
        reserved=Decimal(message.reserved or 0),
        resets_at=_datetime(message.resets_at) if message.HasField("resets_at") else None,
        next_expiry_at=_datetime(message.next_expiry_at) if message.HasField("next_expiry_at") else None,
    )


def value(message: decision_pb2.FeatureValue) -> types.Value:
    match message.WhichOneof("value"):
        case "on":
            return message.on
        case "number":
            return Decimal(message.number)
        case "text":
            return message.text
        case "set":
            return frozenset(message.set.items)
        case "json":
            parsed: types.Value = json.loads(message.json)
            return parsed
        case _:
            return None


def amount(message: usage_pb2.Amount) -> types.Amount:
    return types.Amount(message.unit, Decimal(message.value or 0))


def freshness(message: decision_pb2.Freshness) -> types.Freshness:
    return types.Freshness(
        revision=message.revision,
        as_of=_datetime(message.as_of) if message.HasField("as_of") else None,
        age=message.age.ToTimedelta() if message.HasField("age") else None,
        source=_plain(decision_pb2.ViewSource.Name(message.source), "VIEW_SOURCE_"),
    )


def report_result(message: rpc_pb2.ReportResult) -> types.ReportResult:
    return types.ReportResult(
        message.idempotency_key,
        _plain(rpc_pb2.UsageStatus.Name(message.status), "USAGE_STATUS_"),
        _plain(rpc_pb2.RejectReason.Name(message.reason), "REJECT_REASON_"),
        message.message,
    )


def reservation(message: rpc_pb2.Reservation) -> types.ReservationState:
    return types.ReservationState(
        reservation_id=message.reservation_id,
        state=_plain(rpc_pb2.ReservationState.Name(message.state), "RESERVATION_STATE_"),
        expires_at=_datetime(message.expires_at) if message.HasField("expires_at") else None,
        held=held(message.held),
    )


def settlement(message: rpc_pb2.SettleReservationResponse) -> types.Settlement:
    return types.Settlement(
        reservation(message.reservation),
        held(message.charged),
        held(message.returned),
        held(message.overage),
        message.recorded_as,
    )


def held(messages: Iterable[rpc_pb2.HeldAmount]) -> Mapping[str, types.Amount]:
    return {message.balance: amount(message.amount) for message in messages}


def entitlements(
    message: rpc_pb2.ListEntitlementsResponse | rpc_pb2.WatchEntitlementsResponse,
) -> types.Entitlements:
    return types.Entitlements(
        by_feature={
            each.feature: types.Entitlement(
                each.feature,
                each.type,
                value(each.value) if each.HasField("value") else None,
                tuple(each.sources),
                tuple(map(balance, each.balances)),
            )
            for each in message.entitlements
        },
        freshness=freshness(message.freshness),
        reason=_reason(message.reason),
    )


def _reason(number: int) -> types.Reason:
    known = decision_pb2.Reason.DESCRIPTOR.values_by_number.get(number)
    return types.Reason(_plain(known.name, "REASON_") if known else "")


def _plain(name: str, prefix: str) -> str:
    short = name.removeprefix(prefix)
    return "" if short == "UNSPECIFIED" else short


def _datetime(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
