"""THE table from error to gRPC status. Every error carries `ErrorInfo` (domain `purser.dev`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from control_plane import errors
from control_plane.leases.installation import AnotherInstallation
from control_plane.leases.sessions import Superseded
from control_plane.rpc.follow import ShuttingDown, SlowFollower
from control_plane.usage.report import SequenceGap
from sidecar.runtime.trouble import ERROR_DOMAIN

Facts = Callable[[Any], Mapping[str, str]]
Details = Callable[[Any], list[Message]]


def _nothing(_error: Exception) -> Mapping[str, str]:
    return {}


def _no_details(_error: Exception) -> list[Message]:
    return []


def _fields(error: errors.Invalid) -> list[Message]:
    violation = error_details_pb2.BadRequest.FieldViolation
    return [
        error_details_pb2.BadRequest(
            field_violations=[violation(field=one.field, description=one.problem) for one in error.problems]
        )
    ]


def _soon(_error: Exception) -> list[Message]:
    return [error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1))]


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is answered. `shown`: its text may leave the house."""

    code: int
    reason: str
    facts: Facts = _nothing
    details: Details = _no_details
    shown: bool = True


class Unauthenticated(Exception):
    """The bearer token is missing or wrong."""


TABLE: Final[Mapping[type[Exception], Row]] = {
    errors.Invalid: Row(code_pb2.INVALID_ARGUMENT, "INVALID", details=_fields),
    errors.NotFound: Row(code_pb2.NOT_FOUND, "NOT_FOUND"),
    Superseded: Row(code_pb2.FAILED_PRECONDITION, "SUPERSEDED"),
    AnotherInstallation: Row(code_pb2.FAILED_PRECONDITION, "ANOTHER_INSTALLATION"),
    SequenceGap: Row(
        code_pb2.OUT_OF_RANGE, "SEQUENCE_GAP", facts=lambda error: {"expected_seq": str(error.expected_seq)}
    ),
    SlowFollower: Row(code_pb2.RESOURCE_EXHAUSTED, "SLOW_FOLLOWER", details=_soon),
    ShuttingDown: Row(code_pb2.UNAVAILABLE, "SHUTTING_DOWN", details=_soon),
    Unauthenticated: Row(code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED"),
    DecodeError: Row(code_pb2.INVALID_ARGUMENT, "MALFORMED"),
    DataError: Row(code_pb2.INVALID_ARGUMENT, "INVALID", shown=False),
    DBAPIError: Row(code_pb2.UNAVAILABLE, "DATABASE_UNAVAILABLE", details=_soon, shown=False),
    PoolTimeout: Row(code_pb2.UNAVAILABLE, "DATABASE_UNAVAILABLE", details=_soon, shown=False),
    OSError: Row(code_pb2.UNAVAILABLE, "DATABASE_UNAVAILABLE", details=_soon, shown=False),
}

UNFORESEEN: Final = Row(code_pb2.INTERNAL, "INTERNAL", shown=False)


def row_for(error: BaseException) -> Row:
    """The row of the error's type or of the nearest type above it."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), UNFORESEEN)


def status_of(error: BaseException) -> grpc.Status:
    """What to end the call with."""
    row = row_for(error)
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=ERROR_DOMAIN, metadata=row.facts(error))
    details = []
    for message in (info, *row.details(error)):
        packed = any_pb2.Any()
        packed.Pack(message)
        details.append(packed)
    text = str(error) or (type(error).__doc__ or row.reason) if row.shown else row.reason
    return rpc_status.to_status(status_pb2.Status(code=row.code, message=text[:1000], details=details))
