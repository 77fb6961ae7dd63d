"""catalog/revisions: publish, list, read."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from control_plane.catalog.publish import Move, publish, read_draft
from control_plane.catalog.revisions import current_revision, get_revision, list_revisions
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import NotFound
from control_plane.rest.changes import Answer, Changing, database_of, respond
from control_plane.rest.forms import instant
from control_plane.rest.paging import LAST_KEY, Cursor, Limit, decode, page

router = APIRouter(prefix="/catalog/revisions", tags=["catalog"])

BODY = {
    "required": True,
    "content": {
        "application/yaml": {"schema": {"type": "string", "description": "The catalog file."}},
        "application/json": {"schema": {"type": "object", "description": "The catalog file as JSON."}},
    },
}


@router.post("", status_code=201, openapi_extra={"requestBody": BODY}, summary="Publish a catalog")
async def publish_catalog(
    request: Request,
    changes: Changing,
    move: Annotated[Move, Query(description="`all`: existing subscriptions move to it too.")] = Move.NONE,
) -> Response:
    """Publishes the catalog in the body. A bad one changes nothing, and the answer lists every problem.

    `plan_versions`: the plans that mean something else now, each with the number of its new version. `moved` and
    `stayed` count running subscriptions; `staying` counts those that stay by `plan` and `plan_version`. `unmovable`
    names those that `move=all` had to leave, because their plan or an add-on of theirs is gone.
    """
    draft = await asyncio.to_thread(read_draft, await request.body())

    async def work(uow: UnitOfWork) -> Answer:
        published = await publish(uow, draft, move)
        body = {
            "plan_versions": dict(published.versions),
            "moved": published.moved.subscriptions,
            "stayed": sum(each.subscriptions for each in published.staying),
            "staying": [asdict(each) for each in published.staying],
            "unmovable": list(published.moved.unmovable),
        }
        return Answer(body, 201)

    return await changes.run(work)


@router.get("", summary="List revisions, newest first")
async def list_catalogs(request: Request, limit: Limit = 100, cursor: Cursor = None) -> Response:
    (before,) = decode(cursor, (LAST_KEY,))
    async with database_of(request).read() as uow:
        newest = await current_revision(uow)
        rows = await list_revisions(uow, before=before, limit=limit + 1)
    items = [
        {
            "revision": row.revision,
            "published_at": instant(row.published_at),
            "current": row.revision == newest,
        }
        for row in rows
    ]
    return respond(page(items, [(row.revision,) for row in rows], limit))


@router.get("/current", summary="Read the newest revision")
async def read_current(request: Request) -> Response:
    async with database_of(request).read() as uow:
        newest = await current_revision(uow)
        if newest == 0:
            raise NotFound("catalog revision", "current")
        return respond(await _shown(uow, newest))


@router.get("/{revision}", summary="Read one revision")
async def read_revision(request: Request, revision: Annotated[int, Path(ge=1, le=LAST_KEY)]) -> Response:
    async with database_of(request).read() as uow:
        return respond(await _shown(uow, revision))


async def _shown(uow: UnitOfWork, revision: int) -> dict[str, Any]:
    row = await get_revision(uow, revision)
    return {
        "revision": row.revision,
        "published_at": instant(row.published_at),
        "current": row.revision == await current_revision(uow),
        "document": row.document,
        "source": row.source,
    }
