"""How events stand in the books, and which stand so."""

from enum import StrEnum

from sqlalchemy import ColumnElement, bindparam, func, select

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.usage.tables import events


class EventStatus(StrEnum):
    """How an event stands in the books."""

    BOOKED = "booked"
    UNRATED = "unrated"
    """Booked, but a rate card had no price for it."""


def has_status(status: EventStatus) -> ColumnElement[bool]:
    """Of an event. Written out in the statement: only then does a database see that the index of that status serves."""
    return events.c.status == bindparam(None, status.value, literal_execute=True)


async def count_events(uow: UnitOfWork, status: EventStatus) -> int:
    """How many there are."""
    found = await uow.connection.execute(select(func.count()).select_from(events).where(has_status(status)))
    return int(found.scalar_one())
