"""A database that was put back to an earlier point: what an operator says of it, and the pause before it leases
again.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import select, update

from control_plane.db.tables import revisions
from control_plane.db.types import to_micros
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.tables import sessions
from purser.sync.v1 import session_pb2 as session

AHEAD: Final = 1_000_000
"""The counter of revisions jumps at least so far. Sidecars have seen revisions that the backup has not: none of those
numbers may come again, or a catalog that they keep under one would be taken for another, `min_revision` would be
satisfied by changes that are gone, and a recall would not reach leases of a later number. Nobody knows how far they
got; a million changes are many between two backups."""


class Generation(NamedTuple):
    """Which history of the database this is, how far it is, and whether it was restored."""

    number: int
    revision: int
    restored_at: datetime | None
    resumed_at: datetime | None


class Pause(NamedTuple):
    """What is left of it; zero: it is over, or there is none."""

    leases: timedelta
    shares: timedelta


class Marked(NamedTuple):
    """What an operator is told."""

    generation: int
    revision: int


async def mark_restored(uow: UnitOfWork) -> Marked:
    """Says that this database was put back to an earlier point: a new generation, revisions far ahead, sessions
    that must be opened again, and no leases for the time being.

    Both numbers follow the clock as well, so that the same backup restored twice gets others: seconds and milliseconds
    since 1970, which outrun what the generation before has counted since.
    """
    row = (await uow.connection.execute(select(revisions.c.generation, revisions.c.revision))).one()
    micros = to_micros(uow.now)
    marked = Marked(
        generation=max(row.generation + 1, micros // 1_000_000),
        revision=max(row.revision + AHEAD, micros // 1_000),
    )
    # A holder that has not heard of it acquires under an epoch that is over, so it opens and presents what it holds.
    await uow.connection.execute(
        update(sessions)
        .where(sessions.c.state.in_(("open", "awaited")))
        .values(state="awaited", epoch=sessions.c.epoch + 1)
    )
    await uow.connection.execute(
        update(revisions).values(**marked._asdict(), restored_at=uow.now, resumed_at=None)
    )
    return marked


async def read_generation(uow: UnitOfWork) -> Generation:
    """As of this transaction."""
    columns = (
        revisions.c.generation,
        revisions.c.revision,
        revisions.c.restored_at,
        revisions.c.resumed_at,
    )
    return Generation(*(await uow.connection.execute(select(*columns))).one())


async def note_resumed(uow: UnitOfWork, generation: Generation) -> None:
    """A sidecar has opened a session: the pause begins with the first one. Call it last: it locks what orders
    revisions.
    """
    if generation.restored_at is not None and generation.resumed_at is None:
        await uow.connection.execute(
            update(revisions).where(revisions.c.resumed_at.is_(None)).values(resumed_at=uow.now)
        )


def pause_of(generation: Generation, settings: LeaseSettings, now: datetime) -> Pause:
    """How long nothing is leased or shared yet.

    It lasts as long as a lease (a share) that was handed out at its beginning, as the control plane counts that. It
    counts from the first session after the restore and not from the restore: however long the control plane
    was away, everybody who is waiting for it has the whole pause to come back and present what they hold.
    """
    if generation.restored_at is None:
        return Pause(timedelta(), timedelta())
    began = generation.resumed_at or now
    ends = (settings.lengthened(began, began + ttl) for ttl in (settings.ttl, settings.rate_ttl))
    return Pause(*(max(timedelta(), end - now) for end in ends))


def refused(left: timedelta) -> session.Acquired:
    """The answer to every want of a lease or a share during the pause, and to a gauge that would grow."""
    refusal = session.LeaseRefusal(
        kind=session.REFUSAL_KIND_HELD_BY_OTHERS,
        message="the control plane was restored: what was leased before is awaited",
    )
    refusal.retry_after.FromTimedelta(left)
    return session.Acquired(refusal=refusal)
