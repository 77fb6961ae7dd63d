"""The table from the control plane's gRPC status to what it means here."""

from typing import Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from sidecar.runtime.trouble import (
    ERROR_DOMAIN,
    AnotherInstallation,
    Refused,
    SequenceGap,
    Superseded,
    Unreachable,
)

_DIGITS_MAX: Final = 19
"""No number of a record has more."""

# With these the control plane has looked at what was asked, and done nothing. All others leave it open.
_NOTHING_HAPPENED: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


def meaning(error: grpc.RpcError) -> Unreachable | Refused:
    """What a failed call means; SequenceGap for OUT_OF_RANGE, AnotherInstallation and Superseded where the reason
    says so.
    """
    code = error.code()
    message = str(error.details() or "")[:500]
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return SequenceGap(message, expected_seq=_expected_seq(error))
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        by_reason = {"ANOTHER_INSTALLATION": AnotherInstallation, "SUPERSEDED": Superseded}
        found = by_reason.get(_info(error).reason)
        if found is not None:
            return found(message)
    if code in _NOTHING_HAPPENED:
        return Refused(code.name, message)
    return Unreachable(code.name, message)


def is_own_word(error: grpc.RpcError) -> bool:
    """Has the control plane itself said that it can not, as when its database is away? Then it is there. One that is
    stopping will not be.
    """
    info = _info(error)
    return bool(info.domain == ERROR_DOMAIN and info.reason != "SHUTTING_DOWN")


def _expected_seq(error: grpc.RpcError) -> int:
    said = _info(error).metadata.get("expected_seq", "")
    return int(said) if said.isdecimal() and len(said) <= _DIGITS_MAX else 0


def _info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """Empty when the answer brings none."""
    info = error_details_pb2.ErrorInfo()
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))  # a failed call raises itself
        for detail in () if status is None else status.details:
            if detail.Unpack(info):
                return info
    except (ValueError, DecodeError):  # details that contradict the status, or are none
        return error_details_pb2.ErrorInfo()
    return info
