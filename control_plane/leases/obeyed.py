"""Who else holds what is missing, and whether they have obeyed the recalls that are out."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, or_, select

from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.feed.bus import Bus
from control_plane.leases.rows import OPEN, QUARANTINED
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.tables import leases, recall_answers, sessions
from control_plane.ledger.holding import Holding, Vault
from purser.sync.v1 import session_pb2 as session


class Other(NamedTuple):
    """A lease of somebody else with something unsettled."""

    balance_id: str
    lease_id: str
    state: str


@dataclass(slots=True)
class Pending:
    """Recalls are out; nothing was granted yet."""

    recall_ids: dict[str, str] = field(default_factory=dict)
    """Balance → recall."""
    needs: dict[str, int] = field(default_factory=dict)


async def others_of(uow: UnitOfWork, holder: session.Holder, balance_ids: Collection[str]) -> set[Other]:
    """Leases that somebody else holds of these balances, with something that may come back."""
    if not balance_ids:
        return set()
    query = select(leases.c.balance_id, leases.c.id, leases.c.state).where(
        leases.c.balance_id.in_(balance_ids),
        leases.c.state.in_((OPEN, QUARANTINED)),
        leases.c.unsettled > 0,
        or_(leases.c.outbox_id != holder.outbox_id, leases.c.incarnation_id != holder.incarnation_id),
    )
    return {Other(*row) for row in await uow.connection.execute(query)}


async def have_obeyed(uow: UnitOfWork, recall_ids: Mapping[str, str]) -> set[str]:
    """Leases of which nothing idle is left with their holders: they have said so, and what came back is in the books.

    A lease that was granted while the recall was on its way is not among them: its holder may not have known of it.
    """
    if not recall_ids:
        return set()
    reached = and_(
        sessions.c.outbox_id == recall_answers.c.outbox_id,
        sessions.c.incarnation_id == recall_answers.c.incarnation_id,
        sessions.c.cursor >= recall_answers.c.last_seq,
    )
    query = (
        select(recall_answers.c.lease_ids)
        .join(sessions, reached)
        .where(recall_answers.c.recall_id.in_(recall_ids.values()))
    )
    answers = (await uow.connection.execute(query)).scalars()
    return {lease_id for lease_ids in answers for lease_id in lease_ids}


async def wait_obeyed(
    database: Database, settings: LeaseSettings, request: session.AcquireLeasesRequest, pending: Pending
) -> None:
    """Until every holder has obeyed, or enough came back, or the time is over. No transaction is open
    meanwhile.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.recall_wait.total_seconds()
    bus = database.kept(Bus)
    while (left := deadline - loop.time()) > 0:
        async with database.read() as uow:
            obeyed = await have_obeyed(uow, pending.recall_ids)
            others = await others_of(uow, request.holder, list(pending.recall_ids))
            if all(other.lease_id in obeyed or other.state != OPEN for other in others):
                return
            vault = Vault(uow, reading=True)
            held = await vault.lock(list(pending.recall_ids))
            await vault.load_live(list(held))
            if all(_enough(holding, pending.needs[identity], uow.now) for identity, holding in held.items()):
                return
        await asyncio.wait(
            [asyncio.ensure_future(bus.wait_changed(identity, left)) for identity in pending.recall_ids],
            return_when=asyncio.FIRST_COMPLETED,
        )


def _enough(holding: Holding, need: int, now: datetime) -> bool:
    return sum(grant.available for grant in holding.grants.values() if grant.active(now)) >= need
