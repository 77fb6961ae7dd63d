"""An operator's word that an incarnation will not come back, and what becomes of its leases."""

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import NotFound
from control_plane.leases.letting_go import gauges_asked, release
from control_plane.leases.rows import OPEN, LeaseRow, update_leases
from control_plane.leases.sessions import (
    AWAITED,
    SUPERSEDED,
    SessionRow,
    lock_leases,
    lock_session,
    save_session,
)
from control_plane.leases.sessions import OPEN as SESSION_OPEN
from purser.sync.v1 import session_pb2 as session


class DeadLeases(StrEnum):
    """What becomes of the leases of an incarnation that is declared dead."""

    QUARANTINE = "quarantine"
    """Nobody gets them until it returns and closes them, or the timeout's policy has its say: nothing is oversold even
    if it still runs. The same goes for seats that it was allowed and that are not in the books."""
    RELEASE = "release"
    """They are given back at once. If it still runs, or its usage is still in its outbox, late usage becomes
    overage: the documented road to it."""


@dataclass(slots=True)
class Touched:
    """What was quarantined or given back of one balance."""

    leases: int = 0
    verdicts: int = 0
    """Of a gauge; given back when they are released. Quarantine leaves them as they are: nobody else gets them."""
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Declared:
    """The session from now on, and what was done, by balance id."""

    row: SessionRow
    touched: dict[str, Touched]


async def declare_dead(uow: UnitOfWork, holder: session.Holder, dead_leases: DeadLeases) -> Declared:
    """From now on this incarnation acquires nothing. What it reports is booked as ever, and a later incarnation of its
    outbox closes it as ever.

    Said again it does what is left to do. Raises NotFound.
    """
    row = await lock_session(uow, holder)
    if row is None:
        raise NotFound("sidecar", f"{holder.outbox_id}/{holder.incarnation_id}")
    row.declared_dead_at = row.declared_dead_at or uow.now
    row.state = SUPERSEDED if row.state in {SESSION_OPEN, AWAITED} else row.state
    await save_session(uow, row)
    releases = dead_leases is DeadLeases.RELEASE
    freed, found = await lock_leases(uow, holder, also=await gauges_asked(uow, holder) if releases else ())
    touched: defaultdict[str, Touched] = defaultdict(Touched)
    for lease in found:
        if releases:
            _count(touched[lease.balance_id], lease)
            freed.close(lease)
        elif lease.state == OPEN:
            _count(touched[lease.balance_id], lease)
            freed.quarantine(lease)
    for balance_id, ended in (await release(uow, holder)).items() if releases else ():
        freed.vault.held[balance_id].touched = True
        touched[balance_id].verdicts += ended.verdicts
        touched[balance_id].amount += ended.freed
    await freed.pay(cause="release")
    await update_leases(uow, found)
    await freed.vault.save()
    return Declared(row, dict(touched))


def _count(touched: Touched, lease: LeaseRow) -> None:
    touched.leases += 1
    touched.amount += lease.unsettled
