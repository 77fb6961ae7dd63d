"""Which window a fact falls into, and what it costs there, is said by the plan of its own instant, whatever else its
batch holds; on both databases.
"""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from control_plane.catalog.publish import Move
from control_plane.db.unit_of_work import Database
from control_plane.ledger.tables import facts, grants, postings
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.setting import make_subscriber, publish_text

ANCHORED = """\
purser: catalog/v1
units:
  usd: {name: US dollar, kind: currency, scale: 2}
meters:
  calls: {event: call, aggregate: count}
rate_cards:
  calls: {event: call, unit: usd, prices: [{dimension: size, per: 1, price: "1"}]}
features:
  api: {type: metered, event: call, rate_card: calls}
plans:
  pro:
    entitlements:
      api:
        included: {meter: calls, amount: 10, every: P1M, anchor: subscription}
        overage: {allow: {charge: calls}}
"""
API = ref("acme", "allowance:api")
ONE, TWO = [(1, 13)], [(1, 12), (13, 13)]


async def moved(database: Database, clock: SteppedClock) -> Holder:
    """A customer whose allowance was anchored at its subscription, on the first at noon, and is anchored at the
    calendar since the fifth.
    """
    await publish_text(database, ANCHORED)
    await make_subscriber(database, "acme", "pro")
    clock.advance(days=4)
    await publish_text(database, ANCHORED.replace("anchor: subscription", "anchor: calendar"), Move.ALL)
    clock.advance(days=2)
    holder = Holder(database)
    await holder.open()
    return holder


async def by_window(database: Database, *columns: Any) -> list[tuple[Any, ...]]:
    """Sums over the facts of each window, by its start: at noon for the old one, at midnight for the new one."""
    query = select(facts.c.window_start, *columns).group_by(facts.c.window_start)
    async with database.read() as uow:
        rows = (await uow.connection.execute(query.order_by(facts.c.window_start.desc()))).all()
    return [(row[0].hour, *(int(value) for value in row[1:])) for row in rows]


@pytest.mark.parametrize("batches", [ONE, TWO])
async def test_facts_fall_into_the_window_of_their_own_plan(
    database: Database, clock: SteppedClock, batches: list[tuple[int, int]]
) -> None:
    """Twelve calls before the move, of which ten are included, however late they arrive, and one after it, which is."""
    holder = await moved(database, clock)
    before, after = clock() - timedelta(days=4), clock() - timedelta(days=1)
    for number in range(12):
        holder.report_fact("acme", at=before + timedelta(seconds=number), measures={"size": "1"})
    holder.report_fact("acme", at=after, measures={"size": "1"})
    for first, last in batches:
        assert not (await holder.upload(first, last)).dead_letters
    covered = func.sum(facts.c.covered)
    assert await by_window(database, func.count(), covered) == [(12, 12, 10), (0, 1, 1)]
    async with database.read() as uow:
        query = select(func.sum(postings.c.amount)).where(postings.c.account == "receivable:acme")
        billed = (await uow.connection.execute(query)).scalar_one()
        spent = select(grants.c.spent).order_by(grants.c.window_start.desc())
        assert list((await uow.connection.execute(spent)).scalars()) == [10, 1]
    assert billed == 200
    await check_books(database)


@pytest.mark.parametrize("batches", [[(1, 2)], [(1, 1), (2, 2)]])
async def test_what_no_lease_covers_falls_into_the_window_of_its_decision(
    database: Database, clock: SteppedClock, batches: list[tuple[int, int]]
) -> None:
    """Decided before the move, and after it."""
    holder = await moved(database, clock)
    holder.consume(API, at=clock() - timedelta(days=4), uncovered=3)
    holder.consume(API, at=clock() - timedelta(days=1), uncovered=2)
    for first, last in batches:
        assert not (await holder.upload(first, last)).dead_letters
    assert await by_window(database, func.sum(facts.c.amount)) == [(12, 3), (0, 2)]
    await check_books(database)
