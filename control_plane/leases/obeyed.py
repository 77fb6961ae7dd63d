"""Who else holds what is missing, and whether they have obeyed the recalls that are out."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, or_, select

from control_plane.db.among import among
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.feed.bus import Bus
from control_plane.leases.rows import OPEN, QUARANTINED
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.tables import HolderKey, holder_key, leases, recall_answers, sessions
from control_plane.ledger.holding import Holding, Vault
from purser.sync.v1 import session_pb2 as session


class Other(NamedTuple):
    """A lease of somebody else with something unsettled."""

    balance_id: str
    lease_id: str
    state: str
    outbox_id: str
    incarnation_id: str


class Answers(NamedTuple):
    """What holders said to recalls."""

    obeyed: set[str]
    """Leases of which nothing idle is left with their holders: they have said so, and what came back is in the books.
    One that was granted while the recall was on its way is not among them: its holder may not have known of it.
    """
    heard: set[HolderKey]
    """Outbox and incarnation of all that have answered: they live, and may have more to say."""


@dataclass(slots=True)
class Pending:
    """Recalls are out; nothing was granted yet."""

    recall_ids: dict[str, str]
    """Balance → recall."""
    needs: dict[str, int]
    """Balance → how much of it is needed."""
    asked: set[str]
    """Leases that the recalls are about: those that others hold by now."""


async def others_of(uow: UnitOfWork, holder: session.Holder, balance_ids: Collection[str]) -> set[Other]:
    """Leases that somebody else holds of these balances, with something that may come back."""
    if not balance_ids:
        return set()
    columns = (leases.c.balance_id, leases.c.id, leases.c.state, leases.c.outbox_id, leases.c.incarnation_id)
    query = select(*columns).where(
        among(leases.c.balance_id, balance_ids),
        leases.c.state.in_((OPEN, QUARANTINED)),
        leases.c.unsettled > 0,
        or_(leases.c.outbox_id != holder.outbox_id, leases.c.incarnation_id != holder.incarnation_id),
    )
    return {Other(*row) for row in await uow.connection.execute(query)}


async def answers_to(uow: UnitOfWork, recall_ids: Mapping[str, str]) -> Answers:
    """What was said to these recalls, by balance."""
    found = Answers(set(), set())
    if not recall_ids:
        return found
    said = recall_answers.c
    by = and_(sessions.c.outbox_id == said.outbox_id, sessions.c.incarnation_id == said.incarnation_id)
    query = (
        select(said.outbox_id, said.incarnation_id, said.lease_ids, sessions.c.cursor >= said.last_seq)
        .join(sessions, by)
        .where(among(said.recall_id, recall_ids.values()))
    )
    for outbox_id, incarnation_id, lease_ids, is_booked in await uow.connection.execute(query):
        found.heard.add((outbox_id, incarnation_id))
        if is_booked:
            found.obeyed.update(lease_ids)
    return found


async def wait_obeyed(
    database: Database,
    settings: LeaseSettings,
    request: session.AcquireLeasesRequest,
    pending: Pending,
    until: float,
) -> None:
    """Waits until all that was asked for was obeyed, or enough came back; until the time of a recall is over for
    holders who say nothing; or `until`, by the loop's clock, for those who have more to say. No transaction
    is open meanwhile.
    """
    loop = asyncio.get_running_loop()
    silence = loop.time() + settings.recall_wait.total_seconds()
    bus = database.kept(Bus)
    while (left := until - loop.time()) > 0:
        async with database.read() as uow:
            answers = await answers_to(uow, pending.recall_ids)
            others = await others_of(uow, request.holder, list(pending.needs))
            asked = {other for other in others if other.state == OPEN and other.lease_id in pending.asked}
            unobeyed = {other for other in asked if other.lease_id not in answers.obeyed}
            if not unobeyed:
                return
            vault = Vault(uow, reading=True)
            held = await vault.lock(list(pending.needs))
            await vault.load_live(list(held))
            if all(_enough(holding, pending.needs[identity], uow.now) for identity, holding in held.items()):
                return
        if any(holder_key(other) not in answers.heard for other in unobeyed):
            left = min(left, silence - loop.time())
            if left <= 0:
                return
        await asyncio.wait(
            [asyncio.ensure_future(bus.wait_changed(identity, left)) for identity in pending.needs],
            return_when=asyncio.FIRST_COMPLETED,
        )


def _enough(holding: Holding, need: int, now: datetime) -> bool:
    return sum(grant.available for grant in holding.grants.values() if grant.active(now)) >= need
