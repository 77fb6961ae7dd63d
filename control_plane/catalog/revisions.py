"""Published revisions: read them, whole or typed."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from cachetools import LRUCache
from sqlalchemy import Row, func, select

from control_plane.catalog.tables import catalog_revisions, plan_versions
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import NotFound
from sidecar.engine.catalog import Catalog
from sidecar.engine.document import read_catalog

KEPT_CATALOGS = 64


class CatalogCache:
    """Committed revisions, typed and as the feed sends them. They never change; the least recently used goes first."""

    def __init__(self) -> None:
        self.typed: LRUCache[int, Catalog] = LRUCache(KEPT_CATALOGS)
        self.encoded: LRUCache[int, bytes] = LRUCache(KEPT_CATALOGS)


async def current_revision(uow: UnitOfWork) -> int:
    """The newest published revision; 0: none yet."""
    newest = await uow.connection.execute(select(func.max(catalog_revisions.c.revision)))
    return newest.scalar_one() or 0


async def revision_at(uow: UnitOfWork, at: datetime) -> int:
    """The revision that was the newest at that instant, or else the first of all; 0: none yet."""
    published = catalog_revisions.c
    newest = await uow.connection.execute(
        select(func.max(published.revision)).where(published.published_at <= at)
    )
    first = await uow.connection.execute(select(func.min(published.revision)))
    return newest.scalar_one() or first.scalar_one() or 0


async def read_catalogs(uow: UnitOfWork, revisions: Collection[int]) -> Mapping[int, Catalog]:
    """The typed catalogs of these revisions; revision 0 is the empty catalog. Raises NotFound."""
    cache = uow.kept(CatalogCache).typed
    found: dict[int, Catalog] = {}
    for revision in set(revisions):
        catalog = Catalog() if revision == 0 else cache.get(revision)
        if catalog is None:
            # Beside the loop: a large one takes long.
            catalog = await asyncio.to_thread(read_catalog, (await get_revision(uow, revision)).document)
            if revision != uow.revision:  # else it is not committed yet, and its number may come again
                cache[revision] = catalog
        found[revision] = catalog
    return found


async def encoded_catalog(uow: UnitOfWork, revision: int) -> bytes:
    """The canonical document as JSON, UTF-8. Raises NotFound."""
    cache = uow.kept(CatalogCache).encoded
    document = cache.get(revision)
    if document is None:
        document = orjson.dumps((await get_revision(uow, revision)).document)
        if revision != uow.revision:
            cache[revision] = document
    return document


async def get_revision(uow: UnitOfWork, revision: int) -> Row[Any]:
    """`revision`, `document`, `source`, `published_at`. Raises NotFound."""
    found = await uow.connection.execute(
        select(catalog_revisions).where(catalog_revisions.c.revision == revision)
    )
    row = found.one_or_none()
    if row is None:
        raise NotFound("catalog revision", str(revision))
    return row


async def list_revisions(uow: UnitOfWork, *, before: int, limit: int) -> Sequence[Row[int, datetime]]:
    """`revision`, `published_at`, newest first, those before `before`."""
    wanted = (
        select(catalog_revisions.c.revision, catalog_revisions.c.published_at)
        .where(catalog_revisions.c.revision < before)
        .order_by(catalog_revisions.c.revision.desc())
        .limit(limit)
    )
    return (await uow.connection.execute(wanted)).all()


async def plan_version(uow: UnitOfWork, plan: str, catalog_revision: int) -> int:
    """Which version of the plan that revision means; 0: the plan is not in it."""
    newest = await uow.connection.execute(
        select(func.max(plan_versions.c.version)).where(
            plan_versions.c.plan == plan, plan_versions.c.catalog_revision <= catalog_revision
        )
    )
    return newest.scalar_one() or 0
