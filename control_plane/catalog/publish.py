"""Publishing: a text becomes a numbered revision, and existing subscriptions stay or move, in one transaction."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import func, insert, select

from control_plane.catalog.scales import keep_scales
from control_plane.catalog.tables import catalog_revisions, plan_versions
from control_plane.catalog.text import BadText, LocatedData, read_text
from control_plane.db.unit_of_work import ChangeKind, UnitOfWork
from control_plane.subscriptions.moves import Moved, Staying, find_staying, lock_all_customers, move_all
from sidecar.engine.catalog import Catalog
from sidecar.engine.document import CatalogError, read_catalog, write_catalog
from sidecar.engine.meaning import plan_meaning


class Move(StrEnum):
    """What becomes of existing subscriptions."""

    NONE = "none"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Draft:
    """A catalog that was read and found good, with all that a publish would compute of it."""

    source: str
    catalog: Catalog
    document: Mapping[str, Any]
    """Its canonical form."""
    meanings: Mapping[str, str]
    """Of each plan, a digest of what it means."""
    located: LocatedData
    """Where the text says what."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did. `versions`: plans that got a new version, with its number."""

    revision: int
    versions: Mapping[str, int]
    moved: Moved
    staying: Sequence[Staying]
    """Whatever runs on and is not pinned to this revision."""


def read_draft(source: bytes) -> Draft:
    """The catalog in a YAML or JSON text. Raises BadText with every problem, each with line, column and mend.

    A large one takes seconds: an event loop has a thread do it.
    """
    located = read_text(source)
    try:
        catalog = read_catalog(located.data)
    except CatalogError as error:
        problems = (located.problem(problem.path, problem.what, problem.mend) for problem in error.problems)
        raise BadText(problems) from error
    meanings = {
        name: hashlib.sha256(plan_meaning(catalog, name).encode()).hexdigest() for name in catalog.plans
    }
    return Draft(source.decode("utf-8-sig"), catalog, write_catalog(catalog), meanings, located)


async def publish(uow: UnitOfWork, draft: Draft, move: Move) -> Published:
    """Makes the draft the newest revision. With `Move.ALL` every running subscription is pinned to it.

    Raises BadText where it would count in other digits than were published before.
    """
    customer_ids = await lock_all_customers(uow) if move is Move.ALL else ()
    revision = await uow.take_revision()
    await keep_scales(uow, draft.catalog, draft.located)
    await uow.connection.execute(
        insert(catalog_revisions).values(
            revision=revision,
            document=draft.document,
            source=draft.source,
            published_at=uow.now,
        )
    )
    versions = await _new_versions(uow, draft.meanings, revision)
    uow.change(ChangeKind.CATALOG, str(revision))
    moved = await move_all(uow, draft.catalog, revision, customer_ids)
    return Published(revision, versions, moved, await find_staying(uow, revision))


async def _new_versions(uow: UnitOfWork, meanings: Mapping[str, str], revision: int) -> Mapping[str, int]:
    newest = select(plan_versions.c.plan, func.max(plan_versions.c.version).label("version"))
    newest_of = newest.group_by(plan_versions.c.plan).subquery()
    rows = await uow.connection.execute(
        select(plan_versions).join(
            newest_of,
            (plan_versions.c.plan == newest_of.c.plan) & (plan_versions.c.version == newest_of.c.version),
        )
    )
    known = {row.plan: row for row in rows}
    made: dict[str, int] = {}
    for name, meaning in meanings.items():
        before = known.get(name)
        if before is None or before.meaning != meaning:
            made[name] = before.version + 1 if before is not None else 1
            await uow.connection.execute(
                insert(plan_versions).values(
                    plan=name, version=made[name], catalog_revision=revision, meaning=meaning
                )
            )
    return made
