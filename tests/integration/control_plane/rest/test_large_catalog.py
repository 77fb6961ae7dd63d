"""A large catalog is read beside the event loop."""

import asyncio
import threading

import httpx
from fastapi import Request
from prometheus_client import CollectorRegistry

from control_plane.catalog.publish import Move
from control_plane.db.unit_of_work import Database
from control_plane.rest.app import create_app
from control_plane.rest.catalogs import publish_catalog
from control_plane.rest.changes import Changes
from tests.integration.control_plane.setting import CATALOG

PATIENCE_SECONDS = 10.0


class Gated(bytes):
    """A catalog's text. Whoever reads it stands at a gate until somebody opens it."""

    reached: threading.Event
    opened: threading.Event

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        self.reached.set()
        assert self.opened.wait(PATIENCE_SECONDS), "nobody else was served meanwhile"
        return super().decode(encoding, errors)


async def test_others_are_answered_while_a_catalog_is_read(database: Database) -> None:
    """A request that comes in the middle of the reading is answered before it ends; then the catalog is published."""
    text = Gated(CATALOG.encode())
    text.reached, text.opened = threading.Event(), threading.Event()

    class Publishing(Request):
        async def body(self) -> bytes:
            return text

    app = create_app(database, ready=lambda: None, registry=CollectorRegistry())
    path = "/v1/catalog/revisions"
    request = Publishing(
        {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [], "app": app}
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rest") as others:
        publishing = asyncio.create_task(publish_catalog(request, Changes(request, None), Move.NONE))
        assert await asyncio.to_thread(text.reached.wait, PATIENCE_SECONDS)
        assert (await others.get(path)).json()["items"] == []
        assert not publishing.done()
        text.opened.set()
        assert (await publishing).status_code == 201
        assert [item["revision"] for item in (await others.get(path)).json()["items"]] == [1]
