"""A sidecar that answers what a test tells it to, over a real socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent import futures
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from purser.v1 import entitlement_service_pb2 as rpc_pb2
from purser.v1 import entitlement_service_pb2_grpc as rpc_grpc


class FakeSidecar(rpc_grpc.EntitlementServiceServicer):
    """Answers from `answers`, in order: a message is sent, a status aborts the call. `asked` keeps the requests."""

    def __init__(self) -> None:
        self.answers: deque[Any] = deque()
        self.asked: list[Any] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        rpc_grpc.add_EntitlementServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait()

    def _answer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append(request)
        answer = self.answers.popleft()
        if isinstance(answer, status_pb2.Status):
            self._abort(context, answer)
        return answer

    @staticmethod
    def _abort(context: grpc.ServicerContext, status: status_pb2.Status) -> NoReturn:
        context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError("abort raises")

    CheckAccess = BatchCheckAccess = ConsumeUsage = ReportUsage = ReserveUsage = _answer
    SettleReservation = ExtendReservation = ReleaseReservation = ListEntitlements = _answer

    def WatchEntitlements(
        self, request: rpc_pb2.WatchEntitlementsRequest, context: grpc.ServicerContext
    ) -> Iterator[rpc_pb2.WatchEntitlementsResponse]:
        self.asked.append(request)
        yield from self.answers


def status(code: grpc.StatusCode, message: str, *details: Any) -> status_pb2.Status:
    """A status with packed details."""
    packed = []
    for detail in details:
        message_ = any_pb2.Any()
        message_.Pack(detail)
        packed.append(message_)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def bad_request(field: str, what: str) -> error_details_pb2.BadRequest:
    """One field violation."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=what)
    return error_details_pb2.BadRequest(field_violations=[violation])
