"""The feed's rows: what changed between two revisions, and from which revision on that can be told."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select

from control_plane.db.tables import feed, revisions
from control_plane.db.unit_of_work import ChangeKind, UnitOfWork


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed in `(from_revision, to_revision]`."""

    from_revision: int
    to_revision: int
    catalogs: AbstractSet[int]
    customers: AbstractSet[str]
    subjects: AbstractSet[str]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the database is. `history_from`: changes after this revision are all known."""

    generation: int
    revision: int
    history_from: int


async def read_standing(uow: UnitOfWork) -> Standing:
    """Generation, newest revision and how far back the feed reaches, all as of this transaction."""
    row = (await uow.connection.execute(select(revisions.c.generation, revisions.c.revision))).one()
    oldest = (await uow.connection.execute(select(func.min(feed.c.revision)))).scalar_one()
    return Standing(row.generation, row.revision, row.revision if oldest is None else oldest - 1)


async def read_changed(uow: UnitOfWork, *, after: int) -> Changed:
    """Everything after that revision, up to the newest."""
    newest = await uow.read_revision()
    rows = await uow.connection.execute(
        select(feed.c.kind, feed.c.key).where(feed.c.revision > after, feed.c.revision <= newest).distinct()
    )
    keys: dict[str, set[str]] = {kind.value: set() for kind in ChangeKind}
    for row in rows:
        keys[row.kind].add(row.key)
    return Changed(
        from_revision=after,
        to_revision=newest,
        catalogs={int(key) for key in keys[ChangeKind.CATALOG]},
        customers=keys[ChangeKind.CUSTOMER],
        subjects=keys[ChangeKind.SUBJECT],
    )


async def forget_history(uow: UnitOfWork, *, before: datetime) -> int:
    """Deletes feed rows older than `before`, up to the first revision that is not; returns how many rows. The newest
    revision's stay: they say where we are.

    A row's instant is when its transaction began, and one that waited for locks is committed after younger ones:
    revisions and instants do not rise together.
    """
    newest = await uow.read_revision()
    first_kept = select(func.min(feed.c.revision)).where(feed.c.at >= before).scalar_subquery()
    gone = await uow.connection.execute(
        delete(feed).where(feed.c.revision < func.coalesce(first_kept, newest), feed.c.revision < newest)
    )
    return gone.rowcount
