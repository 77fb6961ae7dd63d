"""What rolls over is what was had in the period before, used or not, and nothing else."""

from datetime import timedelta
from typing import Final

from control_plane.catalog.publish import Move
from control_plane.db.unit_of_work import Database
from control_plane.subscriptions.records import change_subscription
from control_plane.usage.sweep import sweep
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted
from tests.integration.control_plane.ledger.test_balances import grant_rows, stands
from tests.integration.control_plane.setting import make_customer, publish_text, subscribe

PLAIN: Final = """\
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 0}
meters:
  calls: {event: call, aggregate: count}
rate_cards:
  api: {event: call, unit: credit, prices: [{dimension: size, per: 1, price: "1"}]}
features:
  api: {type: metered, meter: calls, rate_card: api}
plans:
  pro: {entitlements: {api: {spends: credit}}}
add_ons:
  pack: {grants: [{unit: credit, amount: 20, every: P1M, rollover_max: 15}]}
"""
ROLLING: Final = PLAIN.replace(
    "{api: {spends: credit}}}",
    "{api: {spends: credit}}, grants: [{unit: credit, amount: 20, every: P1M, rollover_max: 15}]}",
)


async def add_pack(database: Database, *names: str) -> None:
    """The add-ons from now on."""
    async with database.begin() as uow:
        await change_subscription(uow, "sub_acme", {"add_ons": list(names)})


async def subscribed(database: Database, text: str = PLAIN) -> Holder:
    """A customer on `pro`, and a holder with a session."""
    await publish_text(database, text)
    await make_customer(database, "acme")
    await subscribe(database, "acme", "pro")
    holder = Holder(database)
    await holder.open()
    return holder


async def test_an_add_on_that_is_new_brings_nothing_of_before(
    database: Database, clock: SteppedClock
) -> None:
    """The subscription is old, the add-on is of today: 20, and not what would have been left of last month's."""
    holder = await subscribed(database)
    clock.advance(days=100)
    await add_pack(database, "pack")
    await sweep(database, SETTINGS)
    assert (await stands(database, "wallet:credit")).available == 20
    assert not allotted(await holder.acquire(ref("acme"), 21))
    assert len(await grant_rows(database)) == 1
    await check_books(database)


async def test_a_revision_that_moves_all_brings_nothing_of_before(
    database: Database, clock: SteppedClock
) -> None:
    """A plan gives credits from today on."""
    holder = await subscribed(database)
    clock.advance(days=100)
    await publish_text(database, ROLLING, Move.ALL)
    assert not allotted(await holder.acquire(ref("acme"), 21))
    assert allotted(await holder.acquire(ref("acme"), 20)) == 20
    await check_books(database)


async def test_what_was_had_and_never_touched_rolls_over(database: Database, clock: SteppedClock) -> None:
    """Nobody asked for anything for two months: what was left of the second goes on, as if somebody had looked."""
    holder = await subscribed(database, ROLLING)
    clock.advance(days=70)
    assert allotted(await holder.acquire(ref("acme"), 35)) == 35
    await check_books(database)


async def test_untouched_it_rolls_over_at_the_amount_of_then(database: Database, clock: SteppedClock) -> None:
    """A plan gave 3 and gives 20: 3 go on."""
    holder = await subscribed(
        database,
        ROLLING.replace(
            "amount: 20, every: P1M, rollover_max: 15}]}\nadd",
            "amount: 3, every: P1M, rollover_max: 15}]}\nadd",
        ),
    )
    clock.advance(days=70)
    await publish_text(database, ROLLING, Move.ALL)
    assert allotted(await holder.acquire(ref("acme"), 23)) == 23
    assert not allotted(await holder.acquire(ref("acme"), 1))
    await check_books(database)


async def test_an_add_on_of_the_last_period_rolls_over(database: Database, clock: SteppedClock) -> None:
    """It came in the middle of it, and nobody used it."""
    holder = await subscribed(database)
    clock.advance(days=40)
    await add_pack(database, "pack")
    clock.advance(days=31)
    assert allotted(await holder.acquire(ref("acme"), 35)) == 35
    await check_books(database)


async def test_nothing_rolls_over_of_a_time_without_rights(database: Database, clock: SteppedClock) -> None:
    """The subscription was paused all through the period before."""
    holder = await subscribed(database, ROLLING)
    clock.advance(days=20)
    async with database.begin() as uow:
        await change_subscription(uow, "sub_acme", {"state": "paused"})
    clock.advance(days=50)
    async with database.begin() as uow:
        await change_subscription(uow, "sub_acme", {"state": "active"})
    clock.advance(seconds=timedelta(minutes=1).total_seconds())
    assert not allotted(await holder.acquire(ref("acme"), 21))
    assert allotted(await holder.acquire(ref("acme"), 20)) == 20
    await check_books(database)
