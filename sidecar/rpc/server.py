"""The gRPC server on the apps' port: pools, admission, errors, health and reflection."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from purser.v1 import entitlement_service_pb2 as api
from sidecar.deciding.errors import Draining
from sidecar.rpc import validate
from sidecar.rpc.fast import FastChecks
from sidecar.rpc.fast_consume import FastConsumes
from sidecar.rpc.pools import Pool, Pools
from sidecar.rpc.service import EntitlementService
from sidecar.rpc.status import UNFORESEEN, row_for, status_of
from sidecar.runtime.listening import listening
from sidecar.runtime.trouble import Overloaded

SERVICE: Final = "purser.v1.EntitlementService"
RECEIVE_MAX_BYTES: Final = 4 * validate.MESSAGE_MAX_BYTES
"""Above 4 MiB the handler answers, with details; above this gRPC itself refuses to read."""
PENDING_MAX: Final = 1_000_000
"""Calls that wait inside gRPC for us to look at them. By default it cancels some of them beyond 1,000, without a word;
we turn them away ourselves, in words.
"""

_log = structlog.stdlib.get_logger(__name__)

Behavior = Callable[[bytes, grpc.ServicerContext], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc: its handler, what answers when its pool is full, and the pool."""

    handler: "grpc.RpcMethodHandler[bytes, Any]"
    refusal: "grpc.RpcMethodHandler[bytes, Any]"
    pool: Pool


class Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a call, and turns it away where its pool is full: before it is queued."""

    def __init__(
        self, service: EntitlementService, checks: FastChecks, consumes: FastConsumes, pools: Pools
    ) -> None:
        """Requests come as bytes: what is decoded, and whether, is each behavior's business."""
        self._is_draining = False
        self._pools = pools
        decoded = self._decoded
        methods: list[tuple[str, Behavior, Pool]] = [
            ("CheckAccess", checks.check(decoded(api.CheckAccessRequest, service.check_access)), pools.reads),
            (
                "BatchCheckAccess",
                checks.batch(decoded(api.BatchCheckAccessRequest, service.batch_check_access)),
                pools.reads,
            ),
            (
                "ConsumeUsage",
                self._guarded(consumes.consume(_decoding(api.ConsumeUsageRequest, service.consume_usage))),
                pools.writes,
            ),
            ("ReportUsage", decoded(api.ReportUsageRequest, service.report_usage), pools.writes),
            ("ReserveUsage", decoded(api.ReserveUsageRequest, service.reserve_usage), pools.writes),
            (
                "SettleReservation",
                decoded(api.SettleReservationRequest, service.settle_reservation),
                pools.writes,
            ),
            (
                "ExtendReservation",
                decoded(api.ExtendReservationRequest, service.extend_reservation),
                pools.writes,
            ),
            (
                "ReleaseReservation",
                decoded(api.ReleaseReservationRequest, service.release_reservation),
                pools.writes,
            ),
            (
                "ListEntitlements",
                decoded(api.ListEntitlementsRequest, service.list_entitlements),
                pools.reads,
            ),
        ]
        self._methods = {
            f"/{SERVICE}/{name}": self._unary(behavior, pool) for name, behavior, pool in methods
        }
        watch = self._decoded_stream(api.WatchEntitlementsRequest, service.watch_entitlements)
        self._methods[f"/{SERVICE}/WatchEntitlements"] = self._stream(watch, pools.streams)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, Any] | None":
        """Called on the server's thread for each call: a lookup and a comparison."""
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return None
        is_full = method.pool.is_full() or self._pools.are_full()
        return method.refusal if is_full else method.handler

    def drain(self) -> None:
        """New calls are turned away from now on."""
        self._is_draining = True

    def _decoded(self, kind: type[Any], call: Callable[[Any, grpc.ServicerContext], bytes]) -> Behavior:
        return self._guarded(_decoding(kind, call))

    def _guarded(self, call: Behavior) -> Behavior:
        def behavior(raw: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                if self._is_draining:
                    raise Draining
                validate.size(raw)
                answer: bytes = call(raw, context)
                return answer
            except Exception as error:  # noqa: BLE001 whatever went wrong, the caller hears a status of the table
                failed = error
            abort(context, failed)
            raise AssertionError("abort raises")

        return behavior

    def _decoded_stream(
        self, kind: type[Message], call: Callable[[Any, grpc.ServicerContext], Iterator[bytes]]
    ) -> Behavior:
        def behavior(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            try:
                if self._is_draining:
                    raise Draining
                validate.size(raw)
                yield from call(kind.FromString(raw), context)
            except Exception as error:  # noqa: BLE001 as above
                failed: Exception = error
            else:
                return
            abort(context, failed)

        return behavior

    def _unary(self, behavior: Behavior, pool: Pool) -> Method:
        make = grpc.unary_unary_rpc_method_handler
        return Method(make(_in(pool, behavior)), make(_in(self._pools.refusals, _refusal(pool))), pool)

    def _stream(self, behavior: Behavior, pool: Pool) -> Method:
        make = grpc.unary_stream_rpc_method_handler
        return Method(make(_in(pool, behavior)), make(_in(self._pools.refusals, _refusal(pool))), pool)


def _refusal(pool: Pool) -> Behavior:
    """Turns a call away. The status is made once: many hear it in a herd."""
    turned_away = status_of(Overloaded(pool.name))

    def refuse(_raw: bytes, context: grpc.ServicerContext) -> NoReturn:
        context.abort_with_status(turned_away)

    return refuse


def _decoding(kind: type[Any], call: Callable[[Any, grpc.ServicerContext], bytes]) -> Behavior:
    decode = kind.FromString
    return lambda raw, context: call(decode(raw), context)


def abort(context: grpc.ServicerContext, error: Exception) -> None:
    """Ends the call with the error's status. Raises."""
    if row_for(error) is UNFORESEEN:
        _log.error("a call failed", exc_info=error)
    context.abort_with_status(status_of(error))


def _in(pool: Pool, behavior: Behavior) -> Behavior:
    # gRPC asks each behavior for the pool that it runs in.
    behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return behavior


@dataclass(frozen=True, slots=True)
class Tls:
    """What apps are served with."""

    certificate: Path
    key: Path


class ApiServer:
    """The server and its health. Loopback, a Unix socket, or TLS."""

    def __init__(self, handlers: Handlers, pools: Pools, *, address: str, tls: Tls | None) -> None:
        """Binds. Raises CanNotListen, and OSError when the files can not be read."""
        self._handlers = handlers
        self._pools = pools
        self._server = grpc.server(
            pools.writes,
            handlers=[handlers],
            # Beyond ours, which says what is wrong: those that we turn away are calls, too, until they have heard it.
            maximum_concurrent_rpcs=pools.calls_max + pools.refusals.bound,
            options=[
                ("grpc.server.max_pending_requests", PENDING_MAX),
                ("grpc.server.max_pending_requests_hard_limit", PENDING_MAX),
                ("grpc.max_receive_message_length", RECEIVE_MAX_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._health = health.HealthServicer(experimental_thread_pool=None)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        credentials = None
        if tls is not None:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials([pair])
        with listening("grpc", address):
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        self._serving: bool | None = None

    def start(self) -> None:
        """Serves; health says NOT_SERVING until it is told otherwise."""
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.set_serving(False)
        self._server.start()

    def set_serving(self, is_serving: bool) -> None:
        """What `grpc.health.v1` says of the service; the server as a whole (the empty name) is alive either way."""
        if is_serving is self._serving:
            return
        self._serving = is_serving
        state = health_pb2.HealthCheckResponse
        self._health.set(SERVICE, state.SERVING if is_serving else state.NOT_SERVING)

    def drain(self) -> None:
        """Health turns NOT_SERVING and new calls are turned away; those in flight go on."""
        self.set_serving(False)
        self._handlers.drain()

    def stop(self, grace_seconds: float) -> None:
        """Ends calls in flight after `grace_seconds`, and the pools."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait(grace_seconds + 1)
        for pool in self._pools.everything():
            pool.shutdown(wait=False)
