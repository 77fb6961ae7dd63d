"""The gRPC server: service, health, reflection, the token at the door, TLS."""

import hmac
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from control_plane.rpc.service import SyncService
from control_plane.rpc.status import Unauthenticated, status_of
from purser.sync.v1 import sync_service_pb2
from purser.sync.v1.sync_service_pb2_grpc import add_SyncServiceServicer_to_server
from sidecar.runtime.listening import listening

SERVICE = sync_service_pb2.DESCRIPTOR.services_by_name["SyncService"].full_name
MESSAGE_BYTES = 4 * 1024 * 1024
ANSWER_BYTES = 64 * 1024 * 1024
"""Catalogs and snapshots may be larger than what a sidecar sends."""
MAX_CONCURRENT_CALLS = 10_000
OPEN_TO_ALL = ("/grpc.health.", "/grpc.reflection.")

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", ANSWER_BYTES),
    ("grpc.so_reuseport", 0),  # a second control plane on the port is a mistake, and must fail
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Pings that were held up arrive together. Hanging up on them would drop sidecars when there is most to do.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)

Continuation: TypeAlias = (
    "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]"
)


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Lets in who brings the token. `token` is asked anew for each call, so that it can be rotated."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        if handler_call_details.method.startswith(OPEN_TO_ALL):
            return await continuation(handler_call_details)
        brought = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        if isinstance(brought, bytes):
            brought = brought.decode("latin-1")
        if hmac.compare_digest(brought.encode(), f"Bearer {self._token()}".encode()):
            return await continuation(handler_call_details)
        handler = await continuation(handler_call_details)
        return None if handler is None else _refusal(handler)


def _refusal(handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
    async def refuse(_request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort_with_status(status_of(Unauthenticated(Unauthenticated.__doc__)))

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)


class Decoder(grpc.aio.ServerInterceptor):
    """Bytes that are no request are answered as every error is; gRPC would answer UNKNOWN, with a class's name."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        decode: Any = handler.request_deserializer
        behavior: Any = handler.unary_unary

        async def decoded(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                request = decode(raw)
            except DecodeError as error:
                await context.abort_with_status(status_of(error))
                raise
            return await behavior(request, context)

        return grpc.unary_unary_rpc_method_handler(decoded, None, handler.response_serializer)


class GrpcServer:
    """Make it inside a running event loop. `bind` says which port it took."""

    def __init__(self, service: SyncService, *, token: Callable[[], str] | None) -> None:
        interceptors = [*([Doorkeeper(token)] if token is not None else []), Decoder()]
        self._server = grpc.aio.server(
            interceptors=interceptors, options=OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
        )
        self._health = health.aio.HealthServicer()
        add_SyncServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Takes `host:port`, and a free one for port 0: the port. Raises CanNotListen when the address is taken."""
        with listening("grpc", address):
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        """Serves on what was bound."""
        await self._server.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Says that it goes, takes no more calls, and gives those that run so long to end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def tls_credentials(certificate: Path, key: Path, client_authority: Path | None) -> grpc.ServerCredentials:
    """TLS whose files are read again for every handshake that finds them changed; with an authority, sidecars need
    certificates of their own.
    """

    def read() -> grpc.ServerCertificateConfiguration:
        roots = client_authority.read_bytes() if client_authority else None
        return grpc.ssl_server_certificate_configuration(
            [(key.read_bytes(), certificate.read_bytes())], roots
        )

    newest = read()

    def renewed() -> grpc.ServerCertificateConfiguration:
        nonlocal newest
        with suppress(OSError):  # half-way through a rotation: the old ones go on
            newest = read()
        return newest

    return grpc.dynamic_ssl_server_credentials(
        newest, renewed, require_client_authentication=client_authority is not None
    )
