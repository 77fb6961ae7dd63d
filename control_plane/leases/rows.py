"""Leases as they are worked on in memory: totals, and what they say about each slice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import select

from control_plane.db.among import among
from control_plane.db.bulk import append, update_rows
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import lease_slices, leases

OPEN: Final = "open"
QUARANTINED: Final = "quarantined"
PRESUMED: Final = "presumed"
CLOSED: Final = "closed"


class Slice(NamedTuple):
    """A part of one grant occurrence."""

    grant_id: str
    amount: int


@dataclass(slots=True, kw_only=True)
class LeaseRow:
    """As in the table `leases`, with its slices in burn order. The methods keep the sum of its terms."""

    id: str
    balance_id: str
    outbox_id: str
    incarnation_id: str
    scope: list[str]
    allotted: int
    unsettled: int
    spent: int = 0
    returned: int = 0
    state: str = OPEN
    begins_at: datetime
    ends_at: datetime
    never_after: datetime | None
    quarantine_at: datetime
    revision: int
    created_at: datetime
    changed_at: datetime
    slices: list[Slice] = field(default_factory=list)

    def spend(self, amount: int) -> list[Slice]:
        """Moves it from unsettled to spent; returns which grants pay, in burn order. At most what is
        unsettled.
        """
        assert 0 <= amount <= self.unsettled, "a lease never spends more than is unsettled"
        paid = list(self._part(self.spent, amount))
        self.unsettled -= amount
        self.spent += amount
        return paid

    def give_back(self, amount: int) -> list[Slice]:
        """Moves it from unsettled to returned; returns which grants get it, the last slices first."""
        assert 0 <= amount <= self.unsettled, "a lease never returns more than is unsettled"
        back = list(self._part(self.allotted - self.returned - amount, amount))
        self.unsettled -= amount
        self.returned += amount
        return back[::-1]

    def spent_slices(self) -> list[Slice]:
        """What it has spent of each grant."""
        return list(self._part(0, self.spent))

    def unsettled_slices(self) -> list[Slice]:
        """What is unsettled of each grant."""
        return list(self._part(self.spent, self.unsettled))

    def kept_slices(self) -> list[Slice]:
        """What it has not given back of each grant."""
        return list(self._part(0, self.allotted - self.returned))

    def clamp(self, at: datetime) -> datetime:
        """The instant, moved into the lease's window: usage is booked there."""
        last = max(self.begins_at, self.ends_at - _MICROSECOND)
        return min(max(at, self.begins_at), last)

    def _part(self, start: int, amount: int) -> Iterator[Slice]:
        """The slices between two positions of the lease, cut to size."""
        end, position = start + amount, 0
        for piece in self.slices:
            low, high = max(start, position), min(end, position + piece.amount)
            if low < high:
                yield Slice(piece.grant_id, high - low)
            position += piece.amount


_MICROSECOND: Final = datetime.resolution
_CHANGING: Final = ("id", "unsettled", "spent", "returned", "state")
_COLUMNS: Final = tuple(column.name for column in leases.columns)


async def read_leases(uow: UnitOfWork, condition: Any, *, lock: bool = True) -> dict[str, LeaseRow]:
    """Leases in the order of their ids, with slices; their rows locked unless told otherwise."""
    query = select(leases).where(condition).order_by(leases.c.id)
    rows = (await uow.connection.execute(query.with_for_update() if lock else query)).mappings()
    found = {row["id"]: LeaseRow(**row) for row in rows}
    if found:
        slices = (
            select(lease_slices.c.lease_id, lease_slices.c.grant_id, lease_slices.c.amount)
            .where(among(lease_slices.c.lease_id, found))
            .order_by(lease_slices.c.lease_id, lease_slices.c.position)
        )
        for lease_id, grant_id, amount in await uow.connection.execute(slices):
            found[lease_id].slices.append(Slice(grant_id, amount))
    return found


async def insert_leases(uow: UnitOfWork, made: Sequence[LeaseRow]) -> None:
    """Writes new leases with their slices."""
    rows = [{name: getattr(lease, name) for name in _COLUMNS} for lease in made]
    await append(uow.connection, leases, rows)
    slices = [
        {"lease_id": lease.id, "position": position, "grant_id": piece.grant_id, "amount": piece.amount}
        for lease in made
        for position, piece in enumerate(lease.slices)
    ]
    await append(uow.connection, lease_slices, slices)


async def update_leases(uow: UnitOfWork, changed: Sequence[LeaseRow]) -> None:
    """Writes totals and states back."""
    rows = [
        {**{name: getattr(lease, name) for name in _CHANGING}, "changed_at": uow.now} for lease in changed
    ]
    await update_rows(uow.connection, leases, "id", rows)
