"""What can go wrong between an app and its sidecar. A refusal is none of these: it is a falsy `Decision`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from purser.types import Decision

SIDECAR_PORT: Final = 7070


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What `google.rpc.Status` carried. `fields` maps the path of a wrong field to what is wrong and the mend."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    retry_after: timedelta | None = None


class PurserError(Exception):
    """The sidecar did not answer the question. `code` is the status of the call, where there was one."""

    def __init__(
        self, message: str, *, info: ErrorDetails | None = None, code: grpc.StatusCode | None = None
    ) -> None:
        super().__init__(message)
        self.info = info or ErrorDetails()
        self.code = code


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

    Nothing was recorded by the last attempt; where the client had tried before and was not answered, perhaps by that
    one. Try again after `retry_after`, with the same key: nothing is recorded twice.
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

_IN_OUR_WORDS: Final = frozenset({*_ERRORS, grpc.StatusCode.UNIMPLEMENTED})


def from_rpc(error: grpc.RpcError, target: str) -> PurserError:
    """The error of this module that a failed call to `target` means, with the details that came along."""
    code, info = error.code(), _details(error)
    message = error.details() or code.name
    if not info.reason:  # a sidecar gives one with every error: this is no word of its own
        message = _without_a_sidecar(code, message, target)
    return _ERRORS.get(code, PurserError)(message, info=info, code=code)


def _without_a_sidecar(code: grpc.StatusCode, message: str, target: str) -> str:
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"{target} is no sidecar (the control plane, perhaps); a sidecar listens on {SIDECAR_PORT} by default"
    if code is grpc.StatusCode.UNAVAILABLE:
        why = message.removeprefix("failed to connect to all addresses; last error: ")
        why = "" if "Connection refused" in why else f" ({why})"
        return f"no sidecar answers at {target}{why}; is one running? (`purser dev` starts one)"
    return message


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
def raising(target: str) -> Iterator[None]:
    """Turns a failed call to `target` inside into the error that it means.

    What is in words of ours says it all: gRPC's error, and where in gRPC it was raised, would only stand above it.
    """
    try:
        yield
    except grpc.RpcError as error:
        meant = from_rpc(error, target)
        raise meant from (None if meant.code in _IN_OUR_WORDS else error)
