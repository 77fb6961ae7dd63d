"""What can go wrong between an app and its sidecar. A refusal is none of these: it is a falsy `Decision`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from purser.types import Decision


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What `google.rpc.Status` carried. `fields` maps the path of a wrong field to what is wrong and the mend."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    retry_after: timedelta | None = None


class PurserError(Exception):
    """The sidecar did not answer the question."""

    def __init__(self, message: str, *, info: ErrorDetails | None = None) -> None:
        super().__init__(message)
        self.info = info or ErrorDetails()


class AccessDenied(PurserError):
    """`require` asked, and the answer was no; `decision` says why."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(f"{decision.reason}: {decision.message}")
        self.decision = decision


class InvalidRequest(PurserError):
    """The request is malformed; `fields` says which field and how to mend it. Nothing was changed."""

    @property
    def fields(self) -> Mapping[str, str]:
        return self.info.fields


class KeyConflict(PurserError):
    """The idempotency key or reservation id was used before with other content."""


class ReservationClosed(PurserError):
    """The reservation had its final settle, and this one says something else."""


class Overloaded(PurserError):
    """The sidecar can not take it now: its disk is full, or too much is in flight.

    Nothing was recorded; try again after `retry_after`.
    """

    @property
    def retry_after(self) -> timedelta | None:
        return self.info.retry_after


class Unavailable(PurserError):
    """The sidecar could not be reached, or the outcome is unknown: the same call with the same key is safe."""


class DeadlineExceeded(PurserError):
    """No answer in time: the outcome is unknown, and the same call with the same key is safe."""


_ERRORS: Mapping[grpc.StatusCode, type[PurserError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: KeyConflict,
    grpc.StatusCode.FAILED_PRECONDITION: ReservationClosed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def from_rpc(error: grpc.RpcError) -> PurserError:
    """The error of this module that a failed call means, with the details that came along."""
    code, message = error.code(), error.details() or ""
    kind = _ERRORS.get(code, PurserError)
    return kind(message or code.name, info=_details(error))


def _details(error: grpc.RpcError) -> ErrorDetails:
    # Named pairs from a channel of threads, plain ones from asyncio: both unpack.
    trailers = dict(cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ()))
    status = status_pb2.Status()
    try:
        status.ParseFromString(trailers.get("grpc-status-details-bin", b""))
    except DecodeError:  # a proxy's own details: the code and the message still say what happened
        return ErrorDetails()
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    found = {
        type(message) for message in (info, bad, retry) for any_ in status.details if any_.Unpack(message)
    }
    return ErrorDetails(
        reason=info.reason,
        metadata=dict(info.metadata),
        fields={violation.field: violation.description for violation in bad.field_violations},
        retry_after=retry.retry_delay.ToTimedelta() if type(retry) in found else None,
    )


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Turns a failed call inside into the error that it means."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc(error) from error
