"""When an incarnation was last heard of, by what does not write its session anyway."""

from datetime import timedelta
from typing import Final

from sqlalchemy import select, update

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import of_holder, sessions
from purser.sync.v1 import session_pb2 as session

SEEN_EVERY: Final = timedelta(minutes=1)
"""It is noted at most so often."""


async def note_seen(uow: UnitOfWork, holder: session.Holder) -> None:
    """Its session says so, unless that was noted within SEEN_EVERY. Waits for nobody: who has the row locked
    notes it.
    """
    stale = of_holder(sessions, holder) & (sessions.c.seen_at <= uow.now - SEEN_EVERY)
    free = select(sessions.c.epoch).where(stale).with_for_update(skip_locked=True)
    if (await uow.connection.execute(free)).first() is not None:
        await uow.connection.execute(update(sessions).where(stale).values(seen_at=uow.now))
