"""The only composer of the control plane: database, feed, sweeper, gRPC and HTTP, started and stopped in order."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from control_plane.config import Settings
from control_plane.db.engine import create_engine
from control_plane.db.migrate import make_ready
from control_plane.db.unit_of_work import Clock, Database
from control_plane.faults import Faults
from control_plane.feed.poller import Poller
from control_plane.leases.installation import read_installation
from control_plane.metrics import Metrics
from control_plane.rest.app import create_app
from control_plane.rpc.server import GrpcServer, tls_credentials
from control_plane.rpc.service import SyncService
from control_plane.sweeper import Sweeper
from sidecar.runtime.listening import listening
from sidecar.runtime.logs import set_up_logs

UNHEARD_SECONDS = 5.0
"""So long the database may be silent until the process says that it is not ready."""
TOKEN_READ_SECONDS = 1.0


class EmptyToken(ValueError):
    """The file with the bearer token is empty."""


@dataclass(frozen=True, slots=True)
class Running:
    """A control plane that serves. Addresses are `host:port`, with the ports that were really taken."""

    grpc_address: str
    http_address: str
    database: Database


@asynccontextmanager
async def running(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Serves inside the block, and stops gracefully at its end.

    Raises NotMigrated, UnsupportedDatabase, EmptyToken, OSError, and its kind CanNotListen when an address is taken.
    """
    async with AsyncExitStack() as stack:
        engine = create_engine(settings.database, pool_size=settings.database_pool)
        database = Database(engine, clock=clock)
        stack.push_async_callback(database.close)
        await make_ready(engine)
        poller = Poller(database)
        async with database.read() as uow:
            installation_id = await read_installation(uow)
        service = SyncService(database, poller, settings.leases, installation_id)
        grpc_server = GrpcServer(service, token=_token(settings.sync_token_file))
        # Both addresses are ours before anything runs that would have to be ended again.
        port = grpc_server.bind(settings.grpc, _credentials(settings))
        listener = stack.enter_context(_listener(settings.http))

        await poller.poll()
        metrics = Metrics(CollectorRegistry(), poller, database.kept(Faults))
        await stack.enter_async_context(_task(Sweeper(database, settings, metrics).run()))
        await stack.enter_async_context(_task(poller.run()))

        await grpc_server.start()
        stack.push_async_callback(grpc_server.stop, settings.stop_seconds)
        stack.callback(poller.close)

        rest = create_app(
            database,
            ready=lambda: _why_not_ready(poller),
            registry=metrics.registry,
            token=_token(settings.admin_token_file),
        )
        await stack.enter_async_context(_http(rest, settings, listener))
        yield Running(
            _with_port(settings.grpc, port), _with_port(settings.http, listener.getsockname()[1]), database
        )


async def serve(settings: Settings, *, started: Callable[[Running], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT. `started` is told the addresses."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    log = structlog.get_logger("control_plane")
    async with running(settings) as control_plane:
        log.info("listening", grpc=control_plane.grpc_address, http=control_plane.http_address)
        if started is not None:
            started(control_plane)
        await stopped.wait()
        log.info("stopping")
    log.info("stopped")


def run(settings: Settings, *, started: Callable[[Running], None] | None = None) -> None:
    """`serve` on an event loop of its own, with JSON lines on standard error for a log."""
    set_up_logs(service="control-plane")
    for talkative in ("alembic", "uvicorn"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    uvloop.run(serve(settings, started=started))


@asynccontextmanager
async def _task(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Beside the block; at its end the task is over, and has let go of the database."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _why_not_ready(poller: Poller) -> str | None:
    if poller.closed:
        return "stopping"
    if poller.heard is None or time.monotonic() - poller.heard.at_monotonic > UNHEARD_SECONDS:
        return "the database does not answer"
    return None


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return tls_credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_authority)


def _token(file: Path | None) -> Callable[[], str] | None:
    """The token in the file, read again at most once a second, so that it can be rotated. Raises EmptyToken."""
    if file is None:
        return None
    kept, read_at = _read_token(file), time.monotonic()

    def token() -> str:
        nonlocal kept, read_at
        if time.monotonic() - read_at > TOKEN_READ_SECONDS:
            with suppress(OSError, EmptyToken):  # half-way through a rotation: the old one goes on
                kept = _read_token(file)
            read_at = time.monotonic()
        return kept

    return token


def _read_token(file: Path) -> str:
    token = file.read_text(encoding="utf-8").strip()
    if not token:
        raise EmptyToken(f"{file}: {EmptyToken.__doc__}")
    return token


class _HttpServer(uvicorn.Server):
    """Signals are for the whole process, and handled by `serve`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"


def _listener(address: str) -> socket.socket:
    """A socket that listens on `host:port`; it closes itself as a context. Raises CanNotListen."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with listening("http", address):
        return socket.create_server((host, int(port)), family=family, backlog=1024)


@asynccontextmanager
async def _http(app: ASGIApp, settings: Settings, listener: socket.socket) -> AsyncIterator[None]:
    server = _HttpServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if serving.done():
                await serving
                raise OSError(f"HTTP does not serve on {settings.http}")
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await serving
