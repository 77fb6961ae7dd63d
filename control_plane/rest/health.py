"""/livez, /readyz and /metrics."""

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import PlainTextResponse, Response


def router(ready: Callable[[], str | None], registry: CollectorRegistry) -> APIRouter:
    """`ready` answers None, or why the process should get no traffic."""
    made = APIRouter(tags=["health"])

    @made.get("/livez", summary="Is the process alive?")
    async def livez() -> Response:
        return PlainTextResponse("ok")

    @made.get("/readyz", summary="Should it get traffic?")
    async def readyz() -> Response:
        why_not = ready()
        return PlainTextResponse(why_not or "ok", 503 if why_not else 200)

    @made.get("/metrics", summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return made
