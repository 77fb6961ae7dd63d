"""Which limit an occurrence has: the one in force now, whoever makes it and whatever changes meanwhile."""

import asyncio
from datetime import timedelta
from typing import Final

import pytest
from sqlalchemy import text

from control_plane.db.unit_of_work import Database
from control_plane.ledger.holding import Vault
from control_plane.ledger.in_force import specs_in_force
from control_plane.ledger.occurrences import Wanted
from control_plane.ledger.opening import lock_balances, open_balances
from control_plane.subscriptions.records import change_subscription
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.customer import SubscriptionState
from sidecar.engine.values import BalanceRef
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted
from tests.integration.control_plane.ledger.test_balances import grant_rows, stands
from tests.integration.control_plane.setting import make_customer, publish_text, subscribe

TWO_PLANS: Final = """\
purser: catalog/v1
meters:
  calls: {event: call, aggregate: count}
features:
  api: {type: metered, meter: calls}
plans:
  small: {entitlements: {api: {limit: 10, every: P1M, anchor: calendar}}}
  big: {entitlements: {api: {limit: 1000, every: P1M, anchor: calendar}}}
"""
API: Final = ref("acme", "allowance:api")
WAITING: Final = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def on_both(database: Database, **of_big: object) -> Holder:
    """A customer on both plans, and a holder with a session. Nothing was used yet."""
    await publish_text(database, TWO_PLANS)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "small", subscription_id="small")
    await subscribe(database, "acme", "big", subscription_id="big", **of_big)
    holder = Holder(database)
    await holder.open()
    return holder


async def cancel_big(database: Database) -> None:
    """The limit falls from 1010 to 10."""
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": "canceled"})


async def test_a_late_fact_revives_no_limit(database: Database, clock: SteppedClock) -> None:
    """Nothing was used before a downgrade; a fact of the time before it makes the period's occurrence: what was cut
    since can not be leased.
    """
    holder = await on_both(database)
    earlier = clock()
    clock.advance(days=2)
    await cancel_big(database)
    clock.advance(days=1)
    holder.report_fact("acme", at=earlier + timedelta(hours=1))
    assert not (await holder.upload()).dead_letters
    (row,) = await grant_rows(database)
    assert (row.target, row.available, row.spent) == (10, 9, 1)
    assert row.cut == row.amount - 10
    assert not allotted(await holder.acquire(API, 500))
    assert allotted(await holder.acquire(API, 9)) == 9
    await check_books(database)


async def test_late_facts_beyond_the_limit_are_overage(database: Database, clock: SteppedClock) -> None:
    """The same as when the occurrence had been there: a cut is not burned."""
    holder = await on_both(database)
    earlier = clock()
    clock.advance(days=2)
    await cancel_big(database)
    for _ in range(12):
        holder.report_fact("acme", at=earlier + timedelta(hours=1))
    await holder.upload()
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 10, 2)
    await check_books(database)


async def test_a_late_fact_keeps_no_old_limit(database: Database, clock: SteppedClock) -> None:
    """A fact of the time before an upgrade makes the occurrence: who pays for more has more."""
    await publish_text(database, TWO_PLANS)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "small", subscription_id="small")
    earlier = clock()
    clock.advance(days=2)
    await subscribe(database, "acme", "big", subscription_id="big")
    holder = Holder(database)
    await holder.open()
    holder.report_fact("acme", at=earlier + timedelta(hours=1))
    await holder.upload()
    assert allotted(await holder.acquire(API, 1009)) == 1009
    await check_books(database)


async def test_a_fact_of_a_customer_that_may_do_nothing(database: Database, clock: SteppedClock) -> None:
    """It keeps its limits while it is paused: a late fact is paid by what was in force when it occurred."""
    await publish_text(database, TWO_PLANS)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "small", subscription_id="small")
    earlier = clock()
    clock.advance(days=2)
    async with database.begin() as uow:
        await change_subscription(uow, "small", {"state": "paused"})
    holder = Holder(database)
    await holder.open()
    holder.report_fact("acme", at=earlier + timedelta(hours=1))
    await holder.upload()
    (row,) = await grant_rows(database)
    assert (row.target, row.available, row.spent, row.ended) == (10, 9, 1, 0)


async def _waiting(database: Database, task: "asyncio.Task[session.Acquired]") -> None:
    """Until the task waits for a lock, or is done."""
    async with asyncio.timeout(10):
        while not task.done():
            async with database.read() as uow:
                if (await uow.connection.execute(WAITING)).scalar_one():
                    return


@pytest.mark.parametrize("is_touched", [False, True])
async def test_who_acquires_during_a_downgrade_gets_no_old_limit(
    postgres_database: Database, clock: SteppedClock, is_touched: bool
) -> None:
    """Another replica lowers the limit while the first lease of a period is acquired: the occurrence has the lower one.
    `is_touched`: the balance is there from an earlier period.
    """
    database = postgres_database
    holder = await on_both(database)
    if is_touched:
        await holder.acquire(API, 1)
        clock.advance(days=40)
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": "canceled"})
        acquiring = asyncio.create_task(holder.acquire(API, 1))
        await _waiting(database, acquiring)
    assert allotted(await acquiring) == 1
    assert (await stands(database)).granted == 10
    assert not allotted(await holder.acquire(API, 500))
    await check_books(database)


async def test_who_acquires_during_an_upgrade_gets_the_new_limit(postgres_database: Database) -> None:
    """And a paying customer is not kept at the old one."""
    database = postgres_database
    holder = await on_both(database, state=SubscriptionState.PAUSED)
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": "active"})
        acquiring = asyncio.create_task(holder.acquire(API, 1))
        await _waiting(database, acquiring)
    assert allotted(await acquiring) == 1
    assert (await stands(database)).granted == 1010


async def test_a_downgrade_waits_for_who_makes_the_balance(postgres_database: Database) -> None:
    """The other way round: the first use of a balance is not committed yet when its limit is lowered."""
    database = postgres_database
    await on_both(database)
    wanted = BalanceRef("acme", "", "allowance:api")
    async with database.begin() as uow:
        vault = Vault(uow)
        await lock_balances(vault, [wanted])
        in_force = await specs_in_force(uow, [wanted])
        spec = in_force[wanted]
        assert spec is not None
        await open_balances(vault, [Wanted(wanted, spec, uow.now)], in_force)
        cancelling = asyncio.create_task(cancel_big(database))
        async with asyncio.timeout(10):
            while not (await uow.connection.execute(WAITING)).scalar_one():
                assert not cancelling.done(), "it found nothing to cut"
        await vault.save()
    await cancelling
    assert (await stands(database)).granted == 10
    await check_books(database)
