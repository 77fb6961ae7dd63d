"""Many sidecars at once on one wallet, on both databases: nothing is lost, doubled or oversold."""

import asyncio
import random

from sqlalchemy import func, select

from control_plane.db.unit_of_work import Database
from control_plane.ledger.audit import oversold
from control_plane.ledger.tables import facts, postings
from control_plane.usage.sweep import sweep
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import prepaid


async def test_four_sidecars_spend_exactly_what_there_is(database: Database, clock: SteppedClock) -> None:
    """They consume, report facts and give back at once, with a key of each spent twice; then everything adds up."""
    await prepaid(database, amount=2000)
    holders = [Holder(database, outbox_id=f"outbox-{n}") for n in range(4)]
    for holder in holders:
        await holder.open()
    spent = await asyncio.gather(*(_busy(holder, number, clock) for number, holder in enumerate(holders)))
    for holder in holders:
        await holder.close(holder.incarnation_id, holder.last_seq)
    await sweep(database, SETTINGS)
    await check_books(database)
    async with database.read() as uow:
        assert await oversold(uow) == 0
        reported = (await uow.connection.execute(select(func.sum(facts.c.amount)))).scalar_one()
        assert reported == 4 * 6 * 10
        used = select(func.sum(postings.c.amount)).where(postings.c.account == "usage:api")
        total = (await uow.connection.execute(used)).scalar_one()
        doubled = 3 * 5  # one key was spent by all four
        assert total == sum(spent) - doubled + reported


async def _busy(holder: Holder, number: int, clock: SteppedClock) -> int:
    """Takes leases and uses them up bit by bit; returns what was spent under leases."""
    chance = random.Random(number)
    spent = sent = 0
    for turn in range(12):
        acquired = await holder.acquire(ref("acme"), 20, chance.randint(20, 90))
        for lease in acquired.leases:
            left = sum(piece.amount for piece in lease.slices)
            if turn == 0:
                holder.consume(ref("acme"), (lease.lease_id, 5), at=clock(), key="of-all")
                spent, left = spent + 5, left - 5
            part = chance.randint(1, left)
            holder.consume(ref("acme"), (lease.lease_id, part), at=clock())
            spent, left = spent + part, left - part
            if left:
                holder.give_back(lease.lease_id, left)
        if turn % 2:
            holder.report_fact("acme", at=clock(), measures={"size": "0.02"})
        if holder.last_seq > sent:
            await holder.upload(sent + 1)
            sent = holder.last_seq
    return spent
