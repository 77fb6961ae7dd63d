"""A restore to an earlier point, on both databases: nothing is granted twice, and what holders present is theirs."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from control_plane.db.metadata import all_tables
from control_plane.db.tables import revisions
from control_plane.db.unit_of_work import Database
from control_plane.leases.restored import AHEAD, Marked, mark_restored
from control_plane.leases.sessions import Superseded
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.tables import leases, sessions
from control_plane.ledger.balances import hints
from control_plane.ledger.grants import NewGrant, create_grant
from control_plane.ledger.tables import balances, facts, grants
from purser.sync.v1 import session_pb2 as session
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid
from tests.integration.control_plane.leases.test_remote import PEOPLE, RATE, SEATS, begun, seat
from tests.integration.control_plane.setting import make_subscriber

Backup = Mapping[str, Sequence[Mapping[str, Any]]]
PAUSE = timedelta(seconds=60 * 1.01 + 5)


async def back_up(database: Database) -> Backup:
    """Every row of every table."""
    async with database.read() as uow:
        return {
            table.name: [dict(row) for row in (await uow.connection.execute(select(table))).mappings()]
            for table in all_tables().sorted_tables
        }


async def put_back(database: Database, backup: Backup) -> Marked:
    """The rows of the backup and no others, and an operator who says so."""
    async with database.engine.begin() as connection:
        await connection.run_sync(all_tables().drop_all)
        await connection.run_sync(all_tables().create_all)
        for table in all_tables().sorted_tables:
            if backup[table.name]:
                await connection.execute(insert(table), backup[table.name])
    return await database.transact(mark_restored)


def presented(
    lease: session.Lease, balance: session.BalanceRef, *, returned: int = 0
) -> session.PresentedLease:
    """The lease as its holder presents it."""
    return session.PresentedLease(
        lease_id=lease.lease_id,
        ref=balance,
        slices=lease.slices,
        ends_at=lease.ends_at,
        returned=returned,
    )


def is_paused(acquired: session.Acquired) -> bool:
    """Was it refused because of the pause, with an end in sight?"""
    refusal = acquired.refusal
    assert refusal.kind == session.REFUSAL_KIND_HELD_BY_OTHERS
    assert not acquired.leases
    assert not acquired.HasField("rate_share")
    return "restored" in refusal.message and refusal.retry_after.ToTimedelta() > timedelta()


async def test_an_operator_says_so(database: Database, clock: SteppedClock) -> None:
    """Another generation and revisions that nobody has seen; also when the same backup is restored twice."""
    await prepaid(database)
    backup = await back_up(database)
    first = await put_back(database, backup)
    clock.advance(hours=1)
    second = await put_back(database, backup)
    (row,) = backup["revisions"]
    assert row["generation"] < first.generation < second.generation
    assert row["revision"] + AHEAD <= first.revision
    assert first.revision + AHEAD <= second.revision
    async with database.begin() as uow:
        assert await uow.take_revision() == second.revision + 1
        stands = (await uow.connection.execute(select(revisions))).one()
        assert (stands.restored_at, stands.resumed_at) == (clock(), None)


async def test_nothing_is_leased_for_one_lease_time(database: Database, clock: SteppedClock) -> None:
    """Counted from the first session after it, with drift and grace, however long nobody came."""
    await prepaid(database)
    holder = Holder(database)
    generation = (await holder.open()).generation
    backup = await back_up(database)
    await put_back(database, backup)
    with pytest.raises(Superseded):
        await holder.acquire(ref("acme"), 10)
    clock.advance(hours=2)
    await holder.open(generation=generation)
    assert is_paused(await holder.acquire(ref("acme"), 10))
    clock.advance(seconds=30)
    late = Holder(database, outbox_id="outbox-b")
    await late.open(generation=generation)
    assert is_paused(await late.acquire(ref("acme"), 10, request_id="again"))
    left = (await late.acquire(ref("acme"), 10)).refusal.retry_after.ToTimedelta()
    assert left == PAUSE - timedelta(seconds=30)
    clock.advance(seconds=(left - timedelta(microseconds=1)).total_seconds())
    assert is_paused(await late.acquire(ref("acme"), 10))
    clock.advance(seconds=0.000001)
    assert allotted(await late.acquire(ref("acme"), 10)) == 10
    assert allotted(await holder.acquire(ref("acme"), 490)) == 490
    await check_books(database)


async def test_presented_leases_are_entered_again(database: Database, clock: SteppedClock) -> None:
    """What the backup has not seen is taken from its grants and settled by rows that are sent again."""
    await prepaid(database)
    holder = Holder(database)
    generation = (await holder.open()).generation
    known = (await holder.acquire(ref("acme"), 100)).leases[0]
    holder.consume(ref("acme"), (known.lease_id, 10), at=clock())
    await holder.upload()
    backup = await back_up(database)
    clock.advance(seconds=10)
    unknown = (await holder.acquire(ref("acme"), 200)).leases[0]
    holder.consume(ref("acme"), (known.lease_id, 20), at=clock())
    holder.consume(ref("acme"), (unknown.lease_id, 150), at=clock())
    holder.give_back(unknown.lease_id, 30)
    await holder.upload()
    before = await wallet(database)
    await put_back(database, backup)
    clock.advance(seconds=5)

    with pytest.raises(Superseded):
        await holder.upload()
    opened = await holder.open(
        generation=generation,
        presented=[presented(known, ref("acme")), presented(unknown, ref("acme"), returned=30)],
    )
    assert [(one.incarnation_id, one.last_seq) for one in opened.cursors] == [("inc-1", 1)]
    again = await holder.open(generation=generation, presented=[presented(unknown, ref("acme"))])
    assert again.epoch == opened.epoch
    await check_books(database)
    async with database.read() as uow:
        rows = {row.id: row for row in await uow.connection.execute(select(leases))}
    assert (rows[known.lease_id].allotted, rows[known.lease_id].unsettled) == (100, 90)
    assert (rows[unknown.lease_id].allotted, rows[unknown.lease_id].unsettled) == (170, 170)
    assert rows[unknown.lease_id].begins_at <= clock() - timedelta(seconds=5)
    assert (await wallet(database)).available == 230

    await holder.upload()
    assert await wallet(database) == before
    async with database.read() as uow:
        assert (await uow.connection.execute(select(facts))).all() == []
    clock.advance(seconds=PAUSE.total_seconds())
    other = Holder(database, outbox_id="outbox-b")
    await other.open()
    assert allotted(await other.acquire(ref("acme"), 230)) == 230
    assert not (await other.acquire(ref("acme"), 1)).leases
    await check_books(database)


async def test_what_was_given_back_belongs_to_who_got_it_then(
    database: Database, clock: SteppedClock
) -> None:
    """One returned most of its lease, and another leased that: both fit again, in whatever order they come back, and
    the return that is sent again gives nothing back twice. A later return is one.
    """
    await prepaid(database)
    one, two = Holder(database, outbox_id="one"), Holder(database, outbox_id="two")
    generation = (await one.open()).generation
    await two.open()
    backup = await back_up(database)
    first = (await one.acquire(ref("acme"), 500)).leases[0]
    back = one.give_back(first.lease_id, 250)
    one.give_back(first.lease_id, 150)
    await one.upload()
    second = (await two.acquire(ref("acme"), 400)).leases[0]
    one.consume(ref("acme"), (first.lease_id, 70), at=clock())
    two.consume(ref("acme"), (second.lease_id, 400), at=clock())
    await put_back(database, backup)
    await one.open(generation=generation, presented=[presented(first, ref("acme"), returned=400)])
    await two.open(generation=generation, presented=[presented(second, ref("acme"))])
    await check_books(database)
    assert (await wallet(database)).available == 0
    await one.acquire(ref("acme"), 1, returns=[back])
    assert (await wallet(database)).available == 0
    await one.upload()
    await two.upload()
    await check_books(database)
    one.give_back(first.lease_id, 25)
    await one.upload(first=4)
    await one.upload()
    await check_books(database)
    stands = await wallet(database)
    assert (stands.available, stands.used, stands.overage) == (25, 470, 0)
    async with database.read() as uow:
        assert (await uow.connection.execute(select(facts))).all() == []


async def test_what_its_grants_have_not_is_overage_once_it_is_spent(
    database: Database, clock: SteppedClock
) -> None:
    """A lease of a grant that the backup lacks: what is there is taken, and nothing falls below zero."""
    await prepaid(database, amount=100)
    holder = Holder(database)
    generation = (await holder.open()).generation
    backup = await back_up(database)
    async with database.begin() as uow:
        more = NewGrant(
            grant_id="more",
            customer_id="acme",
            unit="credit",
            scale=3,
            amount=80,
            effective_at=uow.now,
        )
        await create_grant(uow, more)
    granted = (await holder.acquire(ref("acme"), 180)).leases
    held = {piece.grant_id: piece.amount for lease in granted for piece in lease.slices}
    assert held == {"grant-acme": 100, "more": 80}
    for lease in granted:
        everything = sum(piece.amount for piece in lease.slices)
        holder.consume(ref("acme"), (lease.lease_id, everything), at=clock())
    await put_back(database, backup)
    await holder.open(generation=generation, presented=[presented(one, ref("acme")) for one in granted])
    await check_books(database)
    assert (await wallet(database)).available == 0
    await holder.upload()
    await check_books(database)
    stands = await wallet(database)
    assert (stands.used, stands.overage) == (180, 80)
    async with database.read() as uow:
        assert (await uow.connection.execute(select(facts.c.amount, facts.c.cause))).all() == [
            (80, "beyond_lease")
        ]


async def test_a_grant_that_has_ended_gives_its_slices_too(database: Database, clock: SteppedClock) -> None:
    """The slices were taken while it lived: they come out of what ended with it."""
    await prepaid(database, amount=1)
    async with database.begin() as uow:
        brief = NewGrant(
            grant_id="brief",
            customer_id="acme",
            unit="credit",
            scale=3,
            amount=50,
            effective_at=uow.now,
            expires_at=uow.now + timedelta(seconds=30),
        )
        await create_grant(uow, brief)
    holder = Holder(database)
    generation = (await holder.open()).generation
    backup = await back_up(database)
    lease = (await holder.acquire(ref("acme"), 40)).leases[0]
    assert [piece.grant_id for piece in lease.slices] == ["brief"]
    holder.consume(ref("acme"), (lease.lease_id, 25), at=clock())
    await put_back(database, backup)
    clock.advance(minutes=10)
    await holder.open(generation=generation, presented=[presented(lease, ref("acme"))])
    await check_books(database)
    holder.give_back(lease.lease_id, 15)
    await holder.upload()
    await check_books(database)
    async with database.read() as uow:
        assert (await uow.connection.execute(select(facts))).all() == []
        row = (await uow.connection.execute(select(grants).where(grants.c.id == "brief"))).one()
    assert (row.available, row.ended, row.leased) == (0, 25, 25)


async def test_occurrences_that_the_backup_lacks_are_made(database: Database, clock: SteppedClock) -> None:
    """An allowance that was first touched after the backup: its occurrence has the same id, and the lease fits."""
    (holder,) = await begun(database, "one")
    generation = (await holder.open()).generation
    backup = await back_up(database)
    assert all(row["name"] != PEOPLE.balance for row in backup[balances.name])
    lease = (await holder.acquire(PEOPLE, 2)).leases[0]
    await put_back(database, backup)
    await holder.open(generation=generation, presented=[presented(lease, PEOPLE)])
    await check_books(database)
    clock.advance(seconds=PAUSE.total_seconds())
    other = Holder(database, outbox_id="two")
    await other.open()
    assert allotted(await other.acquire(PEOPLE, 1)) == 1
    assert not (await other.acquire(PEOPLE, 1)).leases


async def test_lies_about_leases_are_harmless(database: Database, clock: SteppedClock) -> None:
    """Presented without a restore, of the present generation, of an unknown balance or grant: nothing is taken."""
    await prepaid(database)
    await prepaid_more(database)
    holder = Holder(database)
    generation = (await holder.open()).generation
    lie = session.PresentedLease(
        lease_id="lie", ref=ref("acme"), slices=[session.Slice(grant_id="grant-acme", amount=5)]
    )
    lie.ends_at.FromDatetime(clock())
    await holder.open(generation=generation + 7, presented=[lie])
    marked = await put_back(database, await back_up(database))
    await holder.open(generation=marked.generation, presented=[lie])
    others = [
        session.PresentedLease(lease_id=f"lie-{number}", ref=at, ends_at=lie.ends_at, slices=[piece])
        for number, (at, piece) in enumerate(
            (
                (ref("nobody"), session.Slice(grant_id="grant-acme", amount=5)),
                (ref("acme"), session.Slice(grant_id="none", amount=5)),
                (ref("acme"), session.Slice(grant_id="grant-bert", amount=5)),
                (ref("acme"), session.Slice(grant_id="grant-acme", amount=-5)),
            )
        )
    ]
    await holder.open(generation=generation, presented=others)
    async with database.read() as uow:
        assert (await uow.connection.execute(select(leases))).all() == []
    await check_books(database)


async def test_what_has_ended_since_the_backup_is_no_disk_rolled_back(
    database: Database, clock: SteppedClock
) -> None:
    """A sidecar was started again and its earlier incarnation closed: the backup takes it for open. It closes again."""
    await prepaid(database)
    old = Holder(database, incarnation_id="inc-1")
    await old.open()
    lease = (await old.acquire(ref("acme"), 100)).leases[0]
    backup = await back_up(database)
    old.consume(ref("acme"), (lease.lease_id, 40), at=clock())
    await old.upload()
    new = Holder(database, incarnation_id="inc-2")
    generation = (await new.open(("inc-1", 1))).generation
    assert (await new.close("inc-1", 1)).ended
    await put_back(database, backup)
    answer = await new.open(generation=generation)
    assert not answer.rolled_back
    assert {one.incarnation_id: one.last_seq for one in answer.cursors} == {"inc-1": 0, "inc-2": 0}
    assert not (await new.close("inc-1", 1)).ended
    await old.upload()
    assert (await new.close("inc-1", 1)).ended
    stands = await wallet(database)
    assert (stands.used, stands.available, stands.overage) == (40, 460, 0)
    await check_books(database)
    # Below what the backup has seen is a disk that was rolled back, restore or not.
    async with database.begin() as uow:
        await uow.connection.execute(update(sessions).values(highest_seq=9))
    assert (await new.open(("inc-1", 1), generation=generation)).rolled_back


async def test_who_ended_since_the_backup_sends_again_though_it_was_listed_only_later(
    database: Database, clock: SteppedClock
) -> None:
    """A sidecar names what is open, hears of the restore, and then names everything that has rows. The backup knows
    nobody: what was booked since must come again, also of the incarnation that had ended.
    """
    await prepaid(database)
    backup = await back_up(database)
    old = Holder(database, incarnation_id="inc-1")
    await old.open()
    lease = (await old.acquire(ref("acme"), 100)).leases[0]
    old.consume(ref("acme"), (lease.lease_id, 40), at=clock())
    await old.upload()
    new = Holder(database, incarnation_id="inc-2")
    generation = (await new.open(("inc-1", 1))).generation
    assert (await new.close("inc-1", 1)).ended
    await put_back(database, backup)
    await new.open(generation=generation)
    answer = await new.open(("inc-1", 1), generation=generation)
    assert {one.incarnation_id: one.last_seq for one in answer.cursors} == {"inc-1": 0, "inc-2": 0}
    await old.upload()
    assert (await wallet(database)).used == 40
    await check_books(database)


async def test_rates_and_gauges_wait_too(database: Database, clock: SteppedClock) -> None:
    """Shares may live on that the backup has not seen, and seats are sent again; removing is allowed at once."""
    (holder,) = await begun(database, "one")
    generation = (await holder.open()).generation
    assert (await seat(holder, "ada", clock)).used == 1
    await put_back(database, await back_up(database))
    await holder.open(generation=generation)
    assert is_paused(await holder.acquire(RATE, 1))
    bob = await holder.acquire(
        SEATS, 1, holder_id="bob", adds=True, idempotency_key="bob", occurred_at=clock()
    )
    assert is_paused(bob)
    removed = await seat(holder, "ada", clock, need=0, adds=False)
    assert (removed.allowed, removed.used) == (True, 0)
    clock.advance(seconds=PAUSE.total_seconds())
    assert (await holder.acquire(RATE, 1)).HasField("rate_share")
    assert (await seat(holder, "bob", clock)).allowed


async def test_shares_are_waited_for_as_long_as_they_last(database: Database, clock: SteppedClock) -> None:
    """Leases begin again after a lease's time, shares of rates after a share's."""
    brief = LeaseSettings(ttl=timedelta(seconds=2), rate_ttl=timedelta(seconds=20), grace=timedelta())
    (holder,) = await begun(database, "one")
    await put_back(database, await back_up(database))
    await holder.open()
    clock.advance(seconds=2.02)
    assert (await holder.acquire(PEOPLE, 1, settings=brief)).leases
    clock.advance(seconds=18)
    assert is_paused(await holder.acquire(RATE, 1, settings=brief))
    clock.advance(seconds=0.2)
    assert (await holder.acquire(RATE, 1, settings=brief)).HasField("rate_share")


async def prepaid_more(database: Database) -> None:
    """Bert, with a grant of his own, in the same catalog."""
    await make_subscriber(database, "bert", "paid")
    async with database.begin() as uow:
        new = NewGrant(
            grant_id="grant-bert",
            customer_id="bert",
            unit="credit",
            scale=3,
            amount=50,
            effective_at=datetime.fromisoformat("2029-01-01T00:00:00+00:00"),
        )
        await create_grant(uow, new)


async def wallet(database: Database) -> session.BalanceHint:
    """How acme's credits stand, whatever the version."""
    async with database.read() as uow:
        (hint,) = [one for one in await hints(uow, "acme") if one.ref.balance == "wallet:credit"]
    hint.ClearField("version")
    return hint
