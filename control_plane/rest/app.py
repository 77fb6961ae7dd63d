"""The FastAPI app: resources under /v1, the door, health, metrics, documentation."""

import hmac
from collections.abc import Callable, Sequence

from fastapi import APIRouter, Depends, FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.db.unit_of_work import Database
from control_plane.rest import (
    books,
    catalogs,
    customers,
    dead_letters,
    events,
    fleet,
    grants,
    health,
    problems,
    subscriptions,
    trace,
)
from control_plane.rest.addresses import check_address

MAX_BODY_BYTES = 4 * 1024 * 1024
ROUTERS: Sequence[APIRouter] = (
    catalogs.router,
    customers.router,
    books.router,
    subscriptions.router,
    grants.router,
    events.router,
    fleet.router,
    dead_letters.router,
    trace.router,
)


def create_app(
    database: Database,
    *,
    ready: Callable[[], str | None],
    registry: CollectorRegistry,
    token: Callable[[], str] | None = None,
) -> FastAPI:
    """REST over this database. `ready` says why it is not; `token` None: nobody is asked."""
    app = FastAPIOffline(
        title="Purser control plane",
        summary="Catalog, customers, subscriptions and the credit ledger.",
        version="1",
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/openapi.json",
        swagger_ui_parameters={"validatorUrl": None},  # else the page asks a validator on the internet
    )
    app.state.database = database
    problems.install(app)
    v1 = APIRouter(
        prefix="/v1",
        dependencies=[Depends(check_address)],
        responses={"4XX": {"description": "An RFC 9457 problem, application/problem+json."}},
    )
    for router in ROUTERS:
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(health.router(ready, registry))
    app.add_middleware(BoundedBody)
    if token is not None:
        app.add_middleware(Doorkeeper, token=token)
    return app


class Doorkeeper:
    """Lets only those into /v1 who bring the token, which is asked anew each time so that it can be rotated."""

    def __init__(self, app: ASGIApp, token: Callable[[], str]) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            brought = Headers(scope=scope).get("authorization", "")
            if not hmac.compare_digest(brought.encode(), f"Bearer {self._token()}".encode()):
                await problems.answer(problems.Unauthenticated())(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BoundedBody:
    """Reads no more of a body than MAX_BODY_BYTES."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            await problems.answer(problems.TooLarge(f"at most {MAX_BODY_BYTES} bytes"))(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                raise problems.TooLarge(f"at most {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, bounded, send)
