"""ReportBatch on both databases: exactly once, whatever comes twice, late, or broken."""

from datetime import timedelta

import pytest
from sqlalchemy import event, func, select

from control_plane.customers.records import add_subject
from control_plane.db.unit_of_work import Database
from control_plane.leases.tables import lease_returns, leases
from control_plane.ledger.audit import oversold
from control_plane.ledger.tables import facts, grants, postings
from control_plane.usage.dead_letters import count_dead_letters, list_dead_letters
from control_plane.usage.report import SequenceGap, replay_dead_letter
from control_plane.usage.sweep import forget
from control_plane.usage.tables import event_keys, events
from purser.sync.v1 import usage_pb2 as sync
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid
from tests.integration.control_plane.setting import make_subscriber, publish_text


async def counted(database: Database) -> dict[str, int]:
    """How much is used, by account."""
    async with database.read() as uow:
        query = (
            select(postings.c.account, func.sum(postings.c.amount))
            .where(postings.c.account.like("usage:%"))
            .group_by(postings.c.account)
        )
        return {account: int(amount) for account, amount in await uow.connection.execute(query)}


async def lease_row(database: Database, lease_id: str) -> tuple[int, int, int]:
    """Unsettled, spent, returned."""
    async with database.read() as uow:
        row = (await uow.connection.execute(select(leases).where(leases.c.id == lease_id))).one()
        return (row.unsettled, row.spent, row.returned)


async def test_decided_usage_is_booked_once(database: Database, clock: SteppedClock) -> None:
    """The same batch twice, and an overlapping one, book every record once; a gap is refused with the
    expected number.
    """
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    for _ in range(5):
        holder.consume(ref("acme"), (lease, 7), at=clock())
    assert (await holder.upload(1, 3)).cursor == 3
    assert (await holder.upload(1, 3)).cursor == 3
    assert (await holder.upload(2, 5)).cursor == 5
    holder.consume(ref("acme"), (lease, 7), at=clock())
    holder.consume(ref("acme"), (lease, 7), at=clock())
    with pytest.raises(SequenceGap) as gap:
        await holder.upload(7, 7)
    assert gap.value.expected_seq == 6
    assert await counted(database) == {"usage:api": 35}
    assert await lease_row(database, lease) == (65, 35, 0)
    await check_books(database)


async def test_a_key_that_two_sidecars_spent_counts_once(database: Database, clock: SteppedClock) -> None:
    """The second record with the key is a duplicate: its charge goes back to its lease, once, and may not be
    spent.
    """
    await prepaid(database)
    one, two = Holder(database, outbox_id="one"), Holder(database, outbox_id="two")
    await one.open()
    await two.open()
    first = (await one.acquire(ref("acme"), 50)).leases[0].lease_id
    second = (await two.acquire(ref("acme"), 50)).leases[0].lease_id
    one.consume(ref("acme"), (first, 20), at=clock(), key="same")
    two.consume(ref("acme"), (second, 20), at=clock(), key="same")
    await one.upload()
    answer = await two.upload()
    assert list(answer.duplicate_seqs) == [1]
    assert await lease_row(database, first) == (30, 20, 0)
    assert await lease_row(database, second) == (30, 0, 20)
    await two.upload()
    assert await lease_row(database, second) == (30, 0, 20)
    assert await counted(database) == {"usage:api": 20}
    await check_books(database)


async def test_other_content_under_a_key_is_a_conflict(database: Database, clock: SteppedClock) -> None:
    """It ends in the dead letters, its charge goes back, and the rest of the batch is booked."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    holder.consume(ref("acme"), (lease, 10), at=clock(), key="k")
    holder.consume(ref("acme"), (lease, 20), at=clock(), key="k", attributes={"model": "other"})
    holder.consume(ref("acme"), (lease, 30), at=clock())
    answer = await holder.upload()
    assert [(dead.seq, dead.reason[:12]) for dead in answer.dead_letters] == [(2, "KEY_CONFLICT")]
    assert await lease_row(database, lease) == (40, 40, 20)
    await check_books(database)


async def test_a_poisonous_record_stops_nobody(database: Database, clock: SteppedClock) -> None:
    """What can not be booked is a dead letter; the others are in the books and the cursor has moved."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    for number in range(7):
        record = holder.consume(ref("acme"), (lease, 5), at=clock())
        if number == 2:
            record.usage.charges[0].covered[0].amount = -5
        if number == 4:
            record.usage.event.measures["size"] = "much"
        if number == 5:
            record.usage.costs.add(
                rate_card="api", feature="api", unit="credit", amount=2**63 - 1, exact="x\0"
            )
    answer = await holder.upload()
    assert answer.cursor == 7
    dead = {letter.seq for letter in answer.dead_letters}
    assert dead >= {3, 5}
    assert await lease_row(database, lease) == (100 - 5 * (7 - len(dead)), 5 * (7 - len(dead)), 0)
    async with database.read() as uow:
        assert await count_dead_letters(uow) == len(dead)
    await check_books(database)


async def test_a_salvaged_record_is_known_by_its_first_uid(database: Database, clock: SteppedClock) -> None:
    """Rows that are sent again under a new outbox, with their old uid, change nothing where they were
    booked.
    """
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    holder.consume(ref("acme"), (lease, 10), at=clock())
    holder.give_back(lease, 30)
    await holder.upload(1, 1)
    salvage = Holder(database, outbox_id="new", incarnation_id="inc-9")
    await salvage.open()
    for record in holder.written:
        again = sync.Record()
        again.CopyFrom(record)
        again.first_written.outbox_id, again.first_written.incarnation_id = "outbox-a", "inc-1"
        again.first_written.seq = record.seq
        salvage.write(again)
    answer = await salvage.upload()
    assert not answer.duplicate_seqs
    assert await lease_row(database, lease) == (60, 10, 30)
    await holder.upload()
    assert await lease_row(database, lease) == (60, 10, 30)
    assert await counted(database) == {"usage:api": 10}
    await check_books(database)


async def test_what_exceeds_its_lease_is_kept_and_marked(database: Database, clock: SteppedClock) -> None:
    """Usage of a lease that was closed is never lost: it burns what is free, and the rest is overage that is
    counted as oversold.
    """
    await prepaid(database)
    holder, other = Holder(database, outbox_id="one"), Holder(database, outbox_id="two")
    await holder.open()
    await other.open()
    lease = (await holder.acquire(ref("acme"), 500)).leases[0].lease_id
    await holder.close("inc-1", 0)
    taken = await other.acquire(ref("acme"), 400)
    assert allotted(taken) == 400
    holder.consume(ref("acme"), (lease, 150), at=clock())
    await holder.upload()
    async with database.read() as uow:
        (fact,) = (await uow.connection.execute(select(facts))).all()
        assert (fact.cause, fact.amount, fact.covered) == ("beyond_lease", 150, 100)
        assert await oversold(uow) == 50
    await check_books(database)


async def test_a_fact_is_rated_and_burns_what_no_lease_holds(database: Database, clock: SteppedClock) -> None:
    """A reported event is priced here; what its wallet can not pay is overage, paid by what returns."""
    await prepaid(database, amount=1000)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 800)).leases[0].lease_id
    holder.report_fact("acme", at=clock(), measures={"size": "0.6"})
    await holder.upload()
    async with database.read() as uow:
        (fact,) = (await uow.connection.execute(select(facts))).all()
        assert (fact.amount, fact.covered) == (300, 200)
        assert await oversold(uow) == 0
    await check_books(database)
    holder.give_back(lease, 250)
    await holder.upload()
    async with database.read() as uow:
        (fact,) = (await uow.connection.execute(select(facts))).all()
        assert (fact.amount, fact.covered) == (300, 300)
        (grant,) = (await uow.connection.execute(select(grants))).all()
        assert (grant.available, grant.leased, grant.spent) == (150, 550, 300)
    await check_books(database)


async def replay_the_letter(database: Database) -> None:
    """Replays the one dead letter there is; it is booked now."""
    async with database.read() as uow:
        (letter,) = await list_dead_letters(uow)
    async with database.begin() as uow:
        booked = await replay_dead_letter(uow, letter["uid"])
    assert len(booked.accepted) == 1


async def test_a_fact_of_an_unknown_customer_waits_for_it(database: Database, clock: SteppedClock) -> None:
    """It is a dead letter until the customer exists; replayed, it is booked once."""
    await publish_text(database)
    holder = Holder(database)
    await holder.open()
    holder.report_fact("late", at=clock())
    answer = await holder.upload()
    assert [dead.reason[:16] for dead in answer.dead_letters] == ["UNKNOWN_CUSTOMER"]
    await make_subscriber(database, "late", "free")
    await replay_the_letter(database)
    async with database.read() as uow:
        assert await count_dead_letters(uow) == 0
        assert len((await uow.connection.execute(select(events))).all()) == 1
    assert await counted(database) == {"usage:api": 1}
    await check_books(database)


async def test_a_fact_of_an_unknown_subject_waits_for_it(database: Database, clock: SteppedClock) -> None:
    """Named by its subject alone it is a dead letter until somebody registers that; replayed, its customer has it."""
    await publish_text(database)
    await make_subscriber(database, "acme", "free")
    holder = Holder(database)
    await holder.open()
    holder.report_fact("", subject_id="ada", at=clock())
    answer = await holder.upload()
    assert [dead.reason[:16] for dead in answer.dead_letters] == ["UNKNOWN_CUSTOMER"]
    async with database.begin() as uow:
        await add_subject(uow, "acme", "ada")
    await replay_the_letter(database)
    holder.report_fact("", subject_id="ada", at=clock())
    assert not (await holder.upload(2)).dead_letters
    async with database.read() as uow:
        rows = (await uow.connection.execute(select(events))).all()
    assert [(row.customer_id, row.subject_id) for row in rows] == [("acme", "ada")] * 2
    await check_books(database)


async def test_decided_usage_is_booked_inside_its_leases_window(
    database: Database, clock: SteppedClock
) -> None:
    """An instant after the lease's end is booked at its last one; the event keeps its own."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    late = clock() + timedelta(minutes=10)
    holder.consume(ref("acme"), (lease, 10), at=late)
    await holder.upload()
    async with database.read() as uow:
        (row,) = (await uow.connection.execute(select(events))).all()
        assert row.occurred_at == late
    await check_books(database)


async def test_a_batch_takes_few_statements(database: Database, clock: SteppedClock) -> None:
    """Five hundred decided records are booked with a handful of statements more than one is."""
    await prepaid(database, amount=10_000_000)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 1_000_000)).leases[0].lease_id
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    async def taken_by(records: int) -> int:
        nonlocal statements
        for _ in range(records):
            holder.consume(
                ref("acme"), (lease, 3), at=clock(), measures={"size": "1"}, attributes={"model": "m"}
            )
        statements = 0
        await holder.upload()
        return statements

    event.listen(database.engine.sync_engine, "before_cursor_execute", count)
    one = await taken_by(1)
    assert one > 5, "they are counted"
    assert await taken_by(500) <= one + 10
    assert await lease_row(database, lease) == (1_000_000 - 1503, 1503, 0)
    await check_books(database)


async def test_returns_in_a_batch_apply_once(database: Database, clock: SteppedClock) -> None:
    """A return that came with an acquire is not applied again by the batch, nor by a repeat of it."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    with_acquire = holder.give_back(lease, 40)
    await holder.acquire(ref("acme"), 1, returns=[with_acquire])
    await holder.upload()
    await holder.upload()
    assert await lease_row(database, lease) == (60, 0, 40)
    async with database.read() as uow:
        assert len((await uow.connection.execute(select(lease_returns))).all()) == 1
    await check_books(database)


async def test_what_a_disk_has_spoiled_is_kept(database: Database, clock: SteppedClock) -> None:
    """Noticed there, or only seen here as fields that no record has: a dead letter with the bytes, which replaying does
    not mend; an empty number is none, and the rest is booked.
    """
    await publish_text(database)
    await make_subscriber(database, "acme")
    holder = Holder(database)
    await holder.open()
    holder.write(sync.Record(garbled=b"\x1a\x7fspoiled"))
    foreign = sync.Record()
    foreign.ParseFromString(b"\xfa\x01\x03abc")
    holder.write(foreign)
    holder.write(sync.Record())
    holder.report_fact("acme", at=clock())
    answer = await holder.upload()
    assert answer.cursor == 4
    assert [(letter.seq, letter.reason.split(":")[0]) for letter in answer.dead_letters] == [
        (1, "UNREADABLE"),
        (2, "UNREADABLE"),
    ]
    async with database.read() as uow:
        rows = await list_dead_letters(uow)
    assert [b"spoiled" in row["record"] or b"abc" in row["record"] for row in rows] == [True, True]
    async with database.begin() as uow:
        assert (await replay_dead_letter(uow, rows[0]["uid"])).dead
    async with database.read() as uow:
        assert await count_dead_letters(uow) == 2
        assert len((await uow.connection.execute(select(events))).all()) == 1


async def test_a_repeat_after_a_week_away_is_known(database: Database, clock: SteppedClock) -> None:
    """A fact is booked; another sidecar takes the same one as late as it may, and is then away for a week: it is a
    duplicate all the same.
    """
    await prepaid(database)
    first, second = Holder(database, outbox_id="a"), Holder(database, outbox_id="b")
    for holder in (first, second):
        await holder.open()
        holder.report_fact("acme", at=clock(), key="k")
    await first.upload()
    clock.advance(days=34 + 7)
    await forget(database)
    assert (await second.upload()).duplicate_seqs == [1]
    clock.advance(days=2)
    await forget(database)
    async with database.read() as uow:
        assert (await uow.connection.execute(select(event_keys))).first() is None, "and forgotten one day"
