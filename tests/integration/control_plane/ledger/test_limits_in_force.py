"""Which limit an occurrence has: the one in force now, whoever makes it and whatever changes meanwhile."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from sqlalchemy import select, text, update

from control_plane.customers.records import resume_customer, suspend_customer
from control_plane.db.unit_of_work import Database
from control_plane.faults import Faults
from control_plane.leases.tables import recalls
from control_plane.ledger.holding import Vault
from control_plane.ledger.in_force import specs_in_force
from control_plane.ledger.occurrences import Wanted
from control_plane.ledger.opening import lock_balances, open_balances
from control_plane.subscriptions.records import change_subscription
from control_plane.subscriptions.tables import subscriptions
from control_plane.usage.sweep import sweep
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.customer import SubscriptionState
from sidecar.engine.values import BalanceRef
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, check_books, ref
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


async def pause_big(database: Database, state: SubscriptionState) -> None:
    """The limit falls from 1010 to 10, or rises to it again."""
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": state})


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


@pytest.mark.parametrize("is_touched", [False, True])
async def test_a_fact_is_covered_by_the_limit_of_its_instant(
    database: Database, clock: SteppedClock, is_touched: bool
) -> None:
    """Twelve of before a downgrade arrive after it: they are what a lower limit leaves alone, and use it up.
    `is_touched`: the occurrence was there before.
    """
    holder = await on_both(database)
    if is_touched:
        await holder.acquire(API, 1)
    earlier = clock()
    clock.advance(days=2)
    await cancel_big(database)
    for _ in range(12):
        holder.report_fact("acme", at=earlier + timedelta(hours=1))
    for _ in range(3):
        holder.report_fact("acme", at=clock())
    await holder.upload()
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 12, 3)
    assert standing.available == 0
    await check_books(database)


async def test_an_earlier_fact_uses_up_what_a_later_one_had(database: Database, clock: SteppedClock) -> None:
    """Seven of after a downgrade were covered, until twelve of before it arrive: then as if all had been in time."""
    holder = await on_both(database)
    earlier = clock()
    clock.advance(days=2)
    await cancel_big(database)
    for _ in range(7):
        holder.report_fact("acme", at=clock())
    await holder.upload()
    assert (await stands(database)).overage == 0
    for _ in range(12):
        holder.report_fact("acme", at=earlier + timedelta(hours=1))
    await holder.upload()
    standing = await stands(database)
    assert (standing.spent, standing.overage) == (12, 7)
    await check_books(database)


async def test_a_limit_that_was_higher_for_a_while_pays_what_was_open(
    database: Database, clock: SteppedClock
) -> None:
    """Fifteen of before an upgrade that is over arrive late: it would have paid the five that were open."""
    holder = await on_both(database, state=SubscriptionState.PAUSED)
    earlier = clock()
    clock.advance(days=1)
    await pause_big(database, SubscriptionState.ACTIVE)
    clock.advance(days=1)
    await pause_big(database, SubscriptionState.PAUSED)
    clock.advance(days=1)
    for _ in range(15):
        holder.report_fact("acme", at=earlier + timedelta(hours=1))
    holder.report_fact("acme", at=clock())
    await holder.upload()
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 15, 1)
    await check_books(database)


async def test_what_a_clock_ahead_reported_is_taken_back_by_a_cut(
    database: Database, clock: SteppedClock
) -> None:
    """A fact of in two minutes, and a downgrade in one: it occurs after that."""
    holder = await on_both(database)
    for _ in range(12):
        holder.report_fact("acme", at=clock() + timedelta(minutes=2))
    await holder.upload()
    assert (await stands(database)).overage == 0
    clock.advance(minutes=1)
    await cancel_big(database)
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 10, 2)
    await check_books(database)


async def test_a_period_that_is_over_had_the_limit_of_its_end(
    database: Database, clock: SteppedClock
) -> None:
    """Nobody had used it; facts of before and after a downgrade in it arrive in the next one."""
    holder = await on_both(database)
    before = clock() + timedelta(hours=1)
    clock.advance(days=2)
    await cancel_big(database)
    after = clock() + timedelta(hours=1)
    clock.advance(days=32)
    for at in [before] * 4 + [after] * 9:
        holder.report_fact("acme", at=at)
    await holder.upload()
    (row,) = await grant_rows(database)
    assert (row.target, row.spent, row.available) == (10, 10, 0)
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


async def test_a_subscription_that_ends_by_the_clock_lowers_the_limit(
    database: Database, clock: SteppedClock
) -> None:
    """Nobody changes anything: its time is over, and whoever acquires next finds the lower limit, swept or not."""
    holder = await on_both(database, ends_at=clock() + timedelta(days=10))
    await holder.acquire(API, 1)
    clock.advance(days=11)
    assert not allotted(await holder.acquire(API, 500))
    standing = await stands(database)
    assert (standing.granted, standing.available) == (10, 9)
    assert allotted(await holder.acquire(API, 9)) == 9
    await check_books(database)


async def test_a_subscription_that_starts_by_the_clock_raises_the_limit(
    database: Database, clock: SteppedClock
) -> None:
    """Its time has come: it can be used at once."""
    holder = await on_both(database, starts_at=clock() + timedelta(days=10))
    assert allotted(await holder.acquire(API, 10)) == 10
    clock.advance(days=11)
    assert allotted(await holder.acquire(API, 1000)) == 1000
    assert (await stands(database)).granted == 1010
    await check_books(database)


async def test_what_starts_by_the_clock_pays_what_is_open(database: Database, clock: SteppedClock) -> None:
    """Facts were beyond the limit; the sweep finds that it is higher now, without anybody asking, and once."""
    holder = await on_both(database, starts_at=clock() + timedelta(days=10))
    for _ in range(15):
        holder.report_fact("acme", at=clock())
    await holder.upload()
    assert (await stands(database)).overage == 5
    clock.advance(days=10)
    await asyncio.gather(sweep(database, SETTINGS), sweep(database, SETTINGS))
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (1010, 15, 0)
    await sweep(database, SETTINGS)
    assert (await stands(database)).row.version == standing.row.version
    await check_books(database)


async def test_a_fact_finds_the_limit_that_time_has_lowered(database: Database, clock: SteppedClock) -> None:
    """What was over before it occurred does not pay it."""
    holder = await on_both(database, ends_at=clock() + timedelta(days=10))
    await holder.acquire(API, 1)
    clock.advance(days=11)
    for _ in range(12):
        holder.report_fact("acme", at=clock())
    await holder.upload()
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 9, 3)
    await check_books(database)


async def test_what_ends_by_the_clock_is_recalled(database: Database, clock: SteppedClock) -> None:
    """Once, with a revision that no lease has seen. What comes back is cut."""
    ends_at = clock() + timedelta(days=10)
    holder = await on_both(database, ends_at=ends_at)
    clock.at = ends_at - timedelta(seconds=10)
    (lease,) = (await holder.acquire(API, 500)).leases
    assert await posted(database) == []
    clock.at = ends_at
    await sweep(database, SETTINGS)
    await sweep(database, SETTINGS)
    async with database.read() as uow:
        assert await posted(database) == [("allowance:api", await uow.read_revision())]
    holder.give_back(lease.lease_id, 500)
    await holder.upload()
    assert (await stands(database)).available == 10
    await check_books(database)


async def test_who_acquires_first_does_not_keep_others_from_being_recalled(
    database: Database, clock: SteppedClock
) -> None:
    """The limit was lowered by the one who asked next; the sweep recalls what is to be cut all the same."""
    ends_at = clock() + timedelta(days=10)
    holder = await on_both(database, ends_at=ends_at)
    clock.at = ends_at - timedelta(seconds=10)
    await holder.acquire(API, 500)
    clock.at = ends_at
    await holder.acquire(API, 0, 1)
    assert (await stands(database)).granted == 10
    await sweep(database, SETTINGS)
    assert len(await posted(database)) == 1


async def test_what_is_allowed_while_past_due_ends_by_the_clock(
    database: Database, clock: SteppedClock
) -> None:
    """Its week is over: the limit is that of what is in good order."""
    holder = await on_both(database, on_past_due="allow_for:P7D")
    await holder.acquire(API, 1)
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": "past_due"})
    clock.advance(days=6)
    await sweep(database, SETTINGS)
    assert (await stands(database)).granted == 1010
    clock.advance(days=1)
    await sweep(database, SETTINGS)
    assert (await stands(database)).granted == 10


async def test_another_period_by_the_clock(database: Database, clock: SteppedClock) -> None:
    """What was given for a month is over with its subscription, and the day's limit is all that there is."""
    daily = "  daily: {entitlements: {api: {limit: 5, every: P1D, anchor: calendar}}}\n"
    await publish_text(database, TWO_PLANS + daily)
    await make_customer(database, "acme")
    turn = clock() + timedelta(days=10)
    await subscribe(database, "acme", "big", subscription_id="big", ends_at=turn)
    await subscribe(database, "acme", "daily", subscription_id="daily", starts_at=turn)
    holder = Holder(database)
    await holder.open()
    await holder.acquire(API, 1)
    clock.at = turn
    assert not allotted(await holder.acquire(API, 6))
    assert allotted(await holder.acquire(API, 5)) == 5
    await check_books(database)


async def test_what_was_made_ahead_keeps_the_limit_of_its_beginning(
    database: Database, clock: SteppedClock
) -> None:
    """The next period's occurrence has the limit of then, also after a change that is none of its own."""
    holder = await on_both(database, ends_at=datetime(2030, 2, 1, tzinfo=UTC))
    clock.at = datetime(2030, 1, 31, 23, 59, tzinfo=UTC)
    assert allotted(await holder.acquire(API, 5, next_period=True)) == 5
    async with database.begin() as uow:
        await change_subscription(uow, "small", {"external_ids": {"crm": "1"}})
    (ahead,) = await grant_rows(database)
    assert (ahead.effective_at, ahead.target) == (datetime(2030, 2, 1, tzinfo=UTC), 10)


async def test_one_that_can_not_be_read_keeps_nobody_waiting(database: Database, clock: SteppedClock) -> None:
    """A customer whose plan is nowhere is set apart; the others' limits follow the time."""
    ends_at = clock() + timedelta(days=10)
    holder = await on_both(database, ends_at=ends_at)
    await holder.acquire(API, 1)
    await make_customer(database, "odd")
    await subscribe(database, "odd", "big", subscription_id="odd", trial_ends_at=ends_at)
    async with database.begin() as uow:
        gone = update(subscriptions).where(subscriptions.c.id == "odd").values(plan="gone")
        await uow.connection.execute(gone)
    clock.advance(days=10)
    await sweep(database, SETTINGS)
    assert (await stands(database)).granted == 10
    assert database.kept(Faults).counted["limits"] == 1


async def posted(database: Database) -> list[tuple[str, int]]:
    """The balances that were recalled for good, with the revisions of that."""
    async with database.read() as uow:
        query = select(recalls.c.name, recalls.c.revision).where(recalls.c.idle_only.is_(False))
        return [(row.name, row.revision) for row in await uow.connection.execute(query)]


async def test_a_suspension_keeps_the_limit_until_it_is_lifted(
    database: Database, clock: SteppedClock
) -> None:
    """A plan is paused meanwhile: facts of before it was lifted are covered as before, those of after it are not."""
    holder = await on_both(database)
    await holder.acquire(API, 1)
    async with database.begin() as uow:
        await suspend_customer(uow, "acme")
    await pause_big(database, SubscriptionState.PAUSED)
    clock.advance(days=1)
    for _ in range(20):
        holder.report_fact("acme", at=clock())
    await holder.upload(1, 20)
    assert (await stands(database)).overage == 0
    clock.advance(days=1)
    async with database.begin() as uow:
        await resume_customer(uow, "acme")
    await check_books(database)
    holder.report_fact("acme", at=clock() - timedelta(days=1))
    holder.report_fact("acme", at=clock())
    await holder.upload(21, 22)
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 21, 1)
    await check_books(database)


async def test_an_end_that_is_told_afterwards(database: Database, clock: SteppedClock) -> None:
    """An hour ago, says its owner now: what was used meanwhile is what a lower limit leaves alone."""
    holder = await on_both(database)
    ended_at = clock() + timedelta(hours=1)
    clock.advance(hours=2)
    for _ in range(12):
        holder.report_fact("acme", at=clock() - timedelta(minutes=30))
    await holder.upload()
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": "canceled", "ends_at": ended_at})
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 12, 0)
    await check_books(database)


async def test_facts_ahead_of_an_end_by_the_clock_are_taken_back(
    database: Database, clock: SteppedClock
) -> None:
    """A clock was ahead: they occur after the subscription ended, and the sweep comes later still."""
    ends_at = clock() + timedelta(days=10)
    holder = await on_both(database, ends_at=ends_at)
    clock.at = ends_at - timedelta(seconds=1)
    for _ in range(12):
        holder.report_fact("acme", at=ends_at + timedelta(seconds=1))
    await holder.upload()
    clock.at = ends_at + timedelta(seconds=2)
    await sweep(database, SETTINGS)
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 10, 2)
    await check_books(database)


async def test_a_fact_of_between_an_end_and_the_sweep(database: Database, clock: SteppedClock) -> None:
    """Nobody has looked since the subscription ended: a fact of a second later meets the limit of then."""
    ends_at = clock() + timedelta(days=10)
    holder = await on_both(database, ends_at=ends_at)
    await holder.acquire(API, 1)
    clock.at = ends_at + timedelta(seconds=9)
    for _ in range(12):
        holder.report_fact("acme", at=ends_at + timedelta(seconds=1))
    await holder.upload()
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 9, 3)
    await check_books(database)


async def test_a_waiting_batch_sees_the_cut_that_it_waited_for(
    postgres_database: Database, clock: SteppedClock
) -> None:
    """It began before the downgrade, and its facts are of before it."""
    database = postgres_database
    holder = await on_both(database)
    await holder.acquire(API, 1)
    clock.advance(days=1)
    for _ in range(12):
        holder.report_fact("acme", at=clock() - timedelta(minutes=1))
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": "canceled"})
        uploading = asyncio.create_task(holder.upload())
        async with asyncio.timeout(10):
            while not (await uow.connection.execute(WAITING)).scalar_one():
                assert not uploading.done(), "it did not wait"
    assert not (await uploading).dead_letters
    standing = await stands(database)
    assert (standing.granted, standing.spent, standing.overage) == (10, 12, 0)
    await check_books(database)


CAPPED: Final = TWO_PLANS.replace("limit: 10,", "limit: 10, overage: {allow_up_to: 10},")


async def test_a_cap_beside_a_limit_that_rises_and_falls(database: Database, clock: SteppedClock) -> None:
    """Fifteen are used of 10 and a cap of 10; the limit rises, which takes them back from the cap, and falls."""
    await publish_text(database, CAPPED)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "small", subscription_id="small")
    await subscribe(database, "acme", "big", subscription_id="big", state=SubscriptionState.PAUSED)
    holder = Holder(database)
    await holder.open()
    for _ in range(15):
        holder.report_fact("acme", at=clock())
    await holder.upload(1, 15)
    clock.advance(days=1)
    await pause_big(database, SubscriptionState.ACTIVE)
    clock.advance(days=1)
    await pause_big(database, SubscriptionState.PAUSED)
    await check_books(database)
    clock.advance(days=1)
    for _ in range(12):
        holder.report_fact("acme", at=clock())
    await holder.upload(16, 27)
    assert sum(row.spent for row in await grant_rows(database)) == 25
    await check_books(database)


async def test_untouched_periods_of_one_batch_have_their_own_pasts(
    database: Database, clock: SteppedClock
) -> None:
    """Every day 60, cut to 5 on the second one at noon; on the fourth come a fact of the first day and forty of the
    second's morning, in one batch.
    """
    daily = TWO_PLANS.replace("P1M", "P1D").replace("1000", "55").replace("limit: 10,", "limit: 5,")
    await publish_text(database, daily)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "small", subscription_id="small")
    await subscribe(database, "acme", "big", subscription_id="big")
    holder = Holder(database)
    await holder.open()
    midnight = clock().replace(hour=0) + timedelta(days=1)
    clock.at = midnight + timedelta(days=1, hours=12)
    await pause_big(database, SubscriptionState.PAUSED)
    clock.advance(days=2)
    holder.report_fact("acme", at=midnight + timedelta(hours=1))
    for _ in range(40):
        holder.report_fact("acme", at=midnight + timedelta(days=1, hours=10))
    await holder.upload()
    assert sorted(row.spent for row in await grant_rows(database)) == [1, 40]
    await check_books(database)


@pytest.mark.parametrize("acquires_first", [False, True])
async def test_what_is_allowed_while_past_due_ended_before_anybody_came(
    database: Database, clock: SteppedClock, acquires_first: bool
) -> None:
    """Not paid since before the period, allowed until its third day, and untouched until the fifth: facts of the second
    day have the limit of then, those of the fourth the one of now.
    """
    holder = await on_both(database, on_past_due="allow_for:P7D")
    clock.at = datetime(2030, 1, 27, tzinfo=UTC)
    async with database.begin() as uow:
        await change_subscription(uow, "big", {"state": "past_due"})
    clock.at = datetime(2030, 2, 5, tzinfo=UTC)
    await sweep(database, SETTINGS)
    if acquires_first:
        await holder.acquire(API, 0, 1)
    for day, count in ((2, 15), (4, 4)):
        for _ in range(count):
            holder.report_fact("acme", at=datetime(2030, 2, day, tzinfo=UTC))
    await holder.upload()
    (row,) = await grant_rows(database)
    assert (row.target, row.spent) == (10, 15)
    assert (await stands(database)).overage == 4
    await check_books(database)
