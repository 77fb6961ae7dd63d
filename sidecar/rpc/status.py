"""THE table from error to gRPC status. Every error that leaves this sidecar carries `ErrorInfo` (domain
`purser.dev`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from sidecar.deciding import errors
from sidecar.runtime.trouble import ERROR_DOMAIN, NotWritten, OutcomeUnknown, Overloaded

TEXT_MAX_BYTES: Final = 600
VIOLATIONS_MAX_BYTES: Final = 2_400
"""A status travels in headers, of which gRPC takes 8 KiB gladly and 16 KiB at most: the message twice, once with three
bytes for one where it is not ASCII, and the details as four letters for three bytes.
"""

Details = Callable[[Any], list[Message]]


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is answered."""

    code: int
    reason: str
    details: Details


def _nothing(_error: Exception) -> list[Message]:
    return []


def _retry_after_seconds(seconds: int) -> Details:
    return lambda _error: [error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds))]


def _when_the_disk_may_be_back(error: NotWritten) -> list[Message]:
    delay = Duration()
    delay.FromMilliseconds(int(error.retry_after_seconds * 1000))
    return [error_details_pb2.RetryInfo(retry_delay=delay)]


def _bad_request(error: errors.Malformed) -> list[Message]:
    """Every violation, as far as they fit; the last one then says how many more there are."""
    request = error_details_pb2.BadRequest()
    left = VIOLATIONS_MAX_BYTES
    for number, violation in enumerate(error.violations):
        field, description = _cut(violation.field), _cut(violation.description)
        left -= len(field.encode()) + len(description.encode())
        if left < 0:
            more = len(error.violations) - number
            request.field_violations.add(field="", description=f"and {more} more")
            break
        request.field_violations.add(field=field, description=description)
    return [request]


def _cut(text: str) -> str:
    return text.encode()[:TEXT_MAX_BYTES].decode(errors="ignore")


def _undecodable(_error: DecodeError) -> list[Message]:
    violation = error_details_pb2.BadRequest.FieldViolation
    return [
        error_details_pb2.BadRequest(
            field_violations=[violation(field="", description="the message can not be decoded")]
        )
    ]


TABLE: Final[dict[type[Exception], Row]] = {
    errors.Malformed: Row(code_pb2.INVALID_ARGUMENT, "MALFORMED", _bad_request),
    DecodeError: Row(code_pb2.INVALID_ARGUMENT, "MALFORMED", _undecodable),
    errors.KeyConflict: Row(code_pb2.ALREADY_EXISTS, "KEY_CONFLICT", _nothing),
    errors.ReservationConflict: Row(code_pb2.ALREADY_EXISTS, "RESERVATION_CONFLICT", _nothing),
    errors.ReservationEnded: Row(code_pb2.FAILED_PRECONDITION, "RESERVATION_ENDED", _nothing),
    errors.ReservationUnknown: Row(code_pb2.NOT_FOUND, "RESERVATION_UNKNOWN", _nothing),
    NotWritten: Row(code_pb2.RESOURCE_EXHAUSTED, "NOT_WRITTEN", _when_the_disk_may_be_back),
    OutcomeUnknown: Row(code_pb2.UNAVAILABLE, "OUTCOME_UNKNOWN", _retry_after_seconds(1)),
    Overloaded: Row(code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", _retry_after_seconds(1)),
    errors.Draining: Row(code_pb2.UNAVAILABLE, "DRAINING", _retry_after_seconds(1)),
}

UNFORESEEN: Final = Row(code_pb2.INTERNAL, "INTERNAL", _nothing)


def row_for(error: Exception) -> Row:
    """The row of the error's type or of the nearest type above it."""
    for kind in type(error).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            return row
    return UNFORESEEN


def status_of(error: Exception) -> grpc.Status:
    """What to abort the call with. What was not foreseen says so and shows nothing of the inside."""
    row = row_for(error)
    message = (
        "something went wrong inside the sidecar; its log says what" if row is UNFORESEEN else str(error)
    )
    status = status_pb2.Status(code=row.code, message=_cut(message))
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=ERROR_DOMAIN)
    for detail in (info, *row.details(error)):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    answer: grpc.Status = rpc_status.to_status(status)
    return answer
