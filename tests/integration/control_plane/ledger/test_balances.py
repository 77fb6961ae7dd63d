"""Grants, limits, expiry and rollover on both databases."""

from datetime import timedelta
from itertools import permutations

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from control_plane.catalog.publish import Move
from control_plane.customers.records import resume_customer, suspend_customer
from control_plane.db.unit_of_work import Database
from control_plane.leases.tables import recalls
from control_plane.ledger.balances import Standing, hints, standings
from control_plane.ledger.grants import GrantConflict, GrantRefused, NewGrant, create_grant, void_grant
from control_plane.ledger.rows import GrantRow
from control_plane.ledger.tables import facts, grants, postings, transactions
from control_plane.usage.sweep import sweep
from purser.sync.v1 import session_pb2 as session
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid
from tests.integration.control_plane.setting import CATALOG, make_subscriber, publish_text

API = ref("acme", "allowance:api")
ROLLING = CATALOG.replace(
    "  paid: {entitlements: {api: {spends: credit}}}",
    '  paid: {entitlements: {api: {spends: credit}}, grants: [{unit: credit, amount: "20", every: P1M,'
    ' rollover_max: "5"}]}',
)
SOFT = CATALOG.replace("limit: 100, every: P1M", "limit: 100, every: P1M, overage: {allow_up_to: 20}")


async def stands(database: Database, balance: str = "allowance:api", customer_id: str = "acme") -> Standing:
    """How a balance stands."""
    async with database.read() as uow:
        (found,) = [one for one in await standings(uow, customer_id) if one.row.name == balance]
        return found


async def grant_rows(database: Database) -> list[GrantRow]:
    """All grants, oldest first."""
    async with database.read() as uow:
        query = select(grants).order_by(grants.c.effective_at, grants.c.role)
        return [GrantRow(**row) for row in (await uow.connection.execute(query)).mappings()]


async def limited(database: Database, text: str = CATALOG) -> Holder:
    """A customer with 100 calls a month, and a holder with a session."""
    await publish_text(database, text)
    await make_subscriber(database, "acme", "free")
    holder = Holder(database)
    await holder.open()
    return holder


async def test_an_untouched_balance_stands_as_its_plan_says(database: Database) -> None:
    """Before anything was used the hint shows the whole limit, with its period."""
    await limited(database)
    async with database.read() as uow:
        (hint,) = await hints(uow, "acme")
    assert (hint.granted, hint.used, hint.available) == (100, 0, 100)
    assert hint.HasField("period_end")


async def test_the_same_grant_again_changes_nothing(database: Database, clock: SteppedClock) -> None:
    """Twice with the same id and content is once; other content is a conflict; nothing and less are
    refused.
    """
    await prepaid(database)
    again = NewGrant(
        grant_id="grant-acme", customer_id="acme", unit="credit", scale=3, amount=500, effective_at=clock()
    )
    async with database.begin() as uow:
        await create_grant(uow, again)
    assert (await stands(database, "wallet:credit")).available == 500
    other = NewGrant(
        grant_id="grant-acme", customer_id="acme", unit="credit", scale=3, amount=501, effective_at=clock()
    )
    with pytest.raises(GrantConflict):
        async with database.begin() as uow:
            await create_grant(uow, other)
    none = NewGrant(
        grant_id="none", customer_id="acme", unit="credit", scale=3, amount=0, effective_at=clock()
    )
    with pytest.raises(GrantRefused):
        async with database.begin() as uow:
            await create_grant(uow, none)
    await check_books(database)


async def test_the_books_refuse_to_be_rewritten(database: Database) -> None:
    """Neither postings nor transactions can be updated or deleted, by whomever."""
    await prepaid(database)
    for statement in (
        update(postings).values(amount=0),
        delete(postings),
        update(transactions).values(cause="x"),
        delete(transactions),
    ):
        with pytest.raises(DBAPIError):
            async with database.begin() as uow:
                await uow.connection.execute(statement)


async def test_a_lower_limit_takes_what_is_available_and_the_rest_as_it_returns(
    database: Database, clock: SteppedClock
) -> None:
    """From 100, 60 of them leased, to 7: nothing is left to lease, holders are recalled, and what returns is
    cut.
    """
    holder = await limited(database)
    lease = (await holder.acquire(API, 60)).leases[0].lease_id
    await publish_text(database, CATALOG.replace("limit: 100,", "limit: 7,"), Move.ALL)
    stood = await stands(database)
    assert (stood.available, stood.leased, stood.ended) == (0, 60, 40)
    async with database.read() as uow:
        (recall,) = (await uow.connection.execute(select(recalls))).all()
        assert not recall.idle_only
        assert recall.revision == await uow.read_revision()
    assert allotted(await holder.acquire(API, 1)) == 0
    holder.consume(API, (lease, 3), at=clock())
    holder.give_back(lease, 57)
    await holder.upload()
    stood = await stands(database)
    assert (stood.granted, stood.available, stood.used) == (7, 4, 3)
    await check_books(database)


async def test_a_higher_limit_gives_back_at_once(database: Database) -> None:
    """Down and up again leaves the balance as it was; higher than ever is issued anew."""
    holder = await limited(database)
    await holder.acquire(API, 0, 0)
    for limit in (7, 100, 250):
        await publish_text(database, CATALOG.replace("limit: 100,", f"limit: {limit},"), Move.ALL)
        assert (await stands(database)).available == limit
    await check_books(database)


async def test_a_soft_limit_leases_its_cap_apart(database: Database, clock: SteppedClock) -> None:
    """100 and 20 beyond: slices beyond the limit say so, what is spent there is overage, and not one more is
    granted.
    """
    holder = await limited(database, SOFT)
    acquired = await holder.acquire(API, 120)
    slices = [(piece.amount, piece.beyond_limit) for lease in acquired.leases for piece in lease.slices]
    assert slices == [(100, False), (20, True)]
    assert (await holder.acquire(API, 1)).refusal.kind == session.REFUSAL_KIND_EXHAUSTED
    parts = [(lease.lease_id, sum(piece.amount for piece in lease.slices)) for lease in acquired.leases]
    holder.consume(API, *parts, at=clock())
    await holder.upload()
    stood = await stands(database)
    assert (stood.granted, stood.used, stood.overage) == (100, 120, 20)
    await check_books(database)


async def test_a_new_period_starts_anew(database: Database, clock: SteppedClock) -> None:
    """At the period's end what is left is over, and the next occurrence is full."""
    holder = await limited(database)
    await holder.acquire(API, 60)
    clock.advance(days=31)
    await sweep(database)
    assert (await stands(database)).available == 100
    assert allotted(await holder.acquire(API, 100)) == 100
    rows = await grant_rows(database)
    assert [(row.available, row.ended, row.presumed) for row in rows] == [(0, 40, 60), (0, 0, 0)]
    await check_books(database)


async def test_the_next_period_can_be_leased_ahead(database: Database, clock: SteppedClock) -> None:
    """Its occurrence exists before it begins, and the lease begins with it."""
    holder = await limited(database)
    await holder.acquire(API, 100)
    clock.advance(days=31, seconds=-60)
    ahead = await holder.acquire(API, 30, next_period=True)
    (lease,) = ahead.leases
    assert lease.begins_at.ToDatetime(clock().tzinfo) == clock() + timedelta(seconds=60)
    assert allotted(await holder.acquire(API, 1)) == 0
    await check_books(database)


async def test_what_was_to_be_leased_ahead_and_comes_late_is_leased_now(
    database: Database, clock: SteppedClock
) -> None:
    """The period that it was sent for has begun; the one after is a month away, and a lease of it as long."""
    holder = await limited(database)
    clock.advance(days=31, seconds=1)
    (lease,) = (await holder.acquire(API, 30, next_period=True)).leases
    assert not lease.HasField("begins_at")  # at once
    await check_books(database)


async def test_what_is_left_rolls_over_up_to_its_most(database: Database, clock: SteppedClock) -> None:
    """12 left of 20, at most 5 roll over: 20 + 5 in the next month, and the 5 end with it."""
    await publish_text(database, ROLLING)
    await make_subscriber(database, "acme", "paid")
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 8000)).leases[0].lease_id
    holder.consume(ref("acme"), (lease, 8000), at=clock())
    await holder.upload()
    clock.advance(days=31)
    assert (await stands(database, "wallet:credit")).available in {20_000, 25_000}
    await sweep(database)
    await holder.acquire(ref("acme"), 1)
    stood = await stands(database, "wallet:credit")
    assert stood.available + stood.leased == 25_000
    await check_books(database)
    clock.advance(days=28)
    await sweep(database)
    await check_books(database)


async def test_slices_that_return_after_the_end_roll_over_too(
    database: Database, clock: SteppedClock
) -> None:
    """Rollover counts what is not leased, and again as slices return."""
    await publish_text(database, ROLLING)
    await make_subscriber(database, "acme", "paid")
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 18_000)).leases[0].lease_id
    clock.advance(days=31)
    await sweep(database)
    rolled = [row for row in await grant_rows(database) if row.role == "rollover"]
    assert [row.amount for row in rolled] == [2000]
    holder.give_back(lease, 18_000)
    await holder.upload()
    rolled = [row for row in await grant_rows(database) if row.role == "rollover"]
    assert [row.amount for row in rolled] == [5000]
    await check_books(database)


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_facts_converge(database: Database, clock: SteppedClock, order: tuple[int, ...]) -> None:
    """Three facts over two grants, one of which has ended, in any order of arrival: the same fact burns the
    same grants.
    """
    await prepaid(database, amount=300)
    began = clock()
    async with database.begin() as uow:
        early = NewGrant(
            grant_id="early",
            customer_id="acme",
            unit="credit",
            scale=3,
            amount=200,
            effective_at=began,
            expires_at=began + timedelta(hours=1),
        )
        await create_grant(uow, early)
    holder = Holder(database)
    await holder.open()
    for minute, size in ((10, "0.3"), (20, "0.2"), (90, "0.4")):
        at = began + timedelta(minutes=minute)
        holder.report_fact("acme", at=at, key=f"at-{minute}", measures={"size": size})
    clock.advance(hours=2)
    await sweep(database)
    records = [holder.written[n] for n in order]
    holder.written = []
    for record in records:
        holder.write(record)
        await holder.upload(holder.last_seq)
        await check_books(database)
    rows = {row.id: (row.spent, row.ended, row.available) for row in await grant_rows(database)}
    assert rows == {"early": (200, 0, 0), "grant-acme": (250, 0, 50)}
    async with database.read() as uow:
        assert all(row.covered == row.amount for row in await uow.connection.execute(select(facts)))


async def test_a_later_grant_pays_overage_first_in_first_out(database: Database, clock: SteppedClock) -> None:
    """What nothing covered is paid by the next top-up, the oldest fact first."""
    await prepaid(database, amount=100)
    holder = Holder(database)
    await holder.open()
    for key in ("a", "b"):
        clock.advance(seconds=1)
        holder.report_fact("acme", at=clock(), key=key, measures={"size": "0.16"})
    await holder.upload()
    assert (await stands(database, "wallet:credit")).overage == 60
    async with database.begin() as uow:
        more = NewGrant(
            grant_id="more", customer_id="acme", unit="credit", scale=3, amount=25, effective_at=uow.now
        )
        await create_grant(uow, more)
    async with database.read() as uow:
        covered = {row.event_key: row.covered for row in await uow.connection.execute(select(facts))}
    assert covered == {"a": 80, "b": 45}
    await check_books(database)


async def test_what_returns_pays_before_grants_that_began_later(
    database: Database, clock: SteppedClock
) -> None:
    """A fact found everything leased, and a later grant paid it. The slice that comes back was there when it happened,
    and pays it instead: as if nothing had been leased.
    """
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    (lease,) = (await holder.acquire(ref("acme"), 500)).leases
    holder.report_fact("acme", at=clock(), measures={"size": "0.05"})
    await holder.upload()
    clock.advance(seconds=10)
    async with database.begin() as uow:
        soon = clock() + timedelta(hours=1)
        await create_grant(
            uow,
            NewGrant(
                grant_id="later",
                customer_id="acme",
                unit="credit",
                scale=3,
                amount=25,
                effective_at=uow.now,
                expires_at=soon,
            ),
        )
    assert [row.burned for row in await grant_rows(database)] == [0, 25]
    holder.give_back(lease.lease_id, 100)
    await holder.upload(2)
    assert [row.burned for row in await grant_rows(database)] == [25, 0]
    await check_books(database)


async def test_a_void_ends_what_is_left(database: Database, clock: SteppedClock) -> None:
    """What is available is over at once, what is leased as it returns; what was spent stays spent."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 200)).leases[0].lease_id
    async with database.begin() as uow:
        await void_grant(uow, "grant-acme")
    holder.consume(ref("acme"), (lease, 50), at=clock())
    holder.give_back(lease, 150)
    await holder.upload()
    await sweep(database)
    (row,) = await grant_rows(database)
    assert (row.available, row.leased, row.spent, row.ended) == (0, 0, 50, 450)
    await check_books(database)


async def test_a_suspension_recalls_and_a_resumption_restores(database: Database) -> None:
    """Suspended, nothing is leased and holders are recalled; limits stay, so resuming brings all of it
    back.
    """
    holder = await limited(database)
    await holder.acquire(API, 60)
    async with database.begin() as uow:
        await suspend_customer(uow, "acme")
    refused = await holder.acquire(API, 1)
    assert refused.refusal.kind == session.REFUSAL_KIND_NO_SUCH_BALANCE
    async with database.read() as uow:
        assert len((await uow.connection.execute(select(recalls))).all()) == 1
    async with database.begin() as uow:
        await resume_customer(uow, "acme")
    assert allotted(await holder.acquire(API, 40)) == 40
    await check_books(database)
