"""What a customer is entitled to, now and at an earlier instant, on both databases."""

from datetime import timedelta

from sqlalchemy import select

from control_plane.catalog.publish import Move
from control_plane.customers.entitled import EntitledCache, at_instant, load
from control_plane.customers.records import suspend_customer
from control_plane.db.unit_of_work import Database
from control_plane.subscriptions.records import change_subscription, set_payment_status
from control_plane.subscriptions.tables import subscription_pins
from sidecar.engine.values import Reason
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.setting import CATALOG, make_customer, make_subscriber, publish_text


async def standing(database: Database, customer_id: str) -> Reason:
    async with database.read() as uow:
        return (await load(uow, customer_id, uow.now)).standing


async def test_standings(database: Database, clock: SteppedClock) -> None:
    """Unknown, without subscription, in trial, after it, suspended: each says why."""
    await publish_text(database)
    await make_customer(database, "bare")
    await make_subscriber(database, "tried", "trial")
    await make_subscriber(database, "acme")
    assert await standing(database, "nobody") is Reason.CUSTOMER_NOT_FOUND
    assert await standing(database, "bare") is Reason.NO_ACTIVE_SUBSCRIPTION
    assert await standing(database, "tried") is Reason.OK
    clock.advance(days=14)
    assert await standing(database, "tried") is Reason.TRIAL_ENDED
    async with database.begin() as uow:
        await suspend_customer(uow, "acme")
    assert await standing(database, "acme") is Reason.CUSTOMER_SUSPENDED


async def test_without_a_catalog_nobody_is_entitled(database: Database) -> None:
    """Before the first publish a customer stands without subscription, and nothing fails."""
    await make_customer(database, "acme")
    assert await standing(database, "acme") is Reason.NO_ACTIVE_SUBSCRIPTION


async def test_it_is_compiled_once_per_state(database: Database) -> None:
    """The same state gives the same object; any change of the customer another one, at once."""
    await publish_text(database)
    await make_subscriber(database, "acme")
    async with database.read() as uow:
        first = await load(uow, "acme", uow.now)
        assert await load(uow, "acme", uow.now) is first
    async with database.begin() as uow:
        await set_payment_status(uow, "sub_acme", past_due=True)
        assert await load(uow, "acme", uow.now) is not first
    assert len(database.kept(EntitledCache).compiled) == 2


async def test_a_fact_is_judged_by_the_pin_of_its_instant(database: Database, clock: SteppedClock) -> None:
    """Plan version, add-ons and state of that time count, whatever came since; before the first pin, the first."""
    await publish_text(database)
    began = clock()
    await make_subscriber(database, "acme", "pro")
    clock.advance(hours=1)
    async with database.begin() as uow:
        await change_subscription(uow, "sub_acme", {"add_ons": ["extra"]})
    clock.advance(hours=1)
    await publish_text(database, CATALOG.replace("limit: 1000,", "limit: 2000,"), Move.ALL)
    clock.advance(hours=1)
    async with database.begin() as uow:
        await change_subscription(uow, "sub_acme", {"state": "paused"})
    async with database.read() as uow:
        limits = []
        for hours in (-1, 0, 1, 2, 3):
            then = await at_instant(uow, "acme", began + timedelta(hours=hours))
            api = then.features.get("api")
            limits.append((then.standing.name, api.allowances[0].limit if api else None, then.add_ons))
    assert limits[1:4] == [("OK", 1000, ()), ("OK", 1000, ("extra",)), ("OK", 2000, ("extra",))]
    assert limits[4][0] == "NO_ACTIVE_SUBSCRIPTION"
    assert limits[0][0] == "NO_ACTIVE_SUBSCRIPTION"


async def test_pins_remember_each_change_once(database: Database, clock: SteppedClock) -> None:
    """One row per change, with its instant; two changes at one instant leave the later."""
    await publish_text(database)
    await make_subscriber(database, "acme")
    clock.advance(seconds=1)
    async with database.begin() as uow:
        await set_payment_status(uow, "sub_acme", past_due=True)
        await set_payment_status(uow, "sub_acme", past_due=False)
        rows = (await uow.connection.execute(select(subscription_pins).order_by("from_at"))).all()
    assert [(row.from_at, row.state) for row in rows] == [
        (clock() - timedelta(seconds=1), "active"),
        (clock(), "active"),
    ]
