"""Many who acquire at once share transactions, on both databases: each is answered as if it had asked alone."""

import asyncio
from typing import Any

from sqlalchemy import event, select, text

from control_plane.db.unit_of_work import Database
from control_plane.leases.sessions import Superseded, lock_session
from control_plane.leases.tables import lease_returns
from purser.sync.v1 import session_pb2 as session
from tests.integration.control_plane.leases.holder import Holder, acquiring, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid


async def opened(database: Database, count: int) -> list[Holder]:
    """So many sidecars."""
    holders = [Holder(database, outbox_id=f"outbox-{n:02}") for n in range(count)]
    for holder in holders:
        await holder.open()
    return holders


async def test_twenty_holders_cost_a_few_transactions(database: Database) -> None:
    """Of a customer each: all are granted, in no more transactions than it takes."""
    names = [f"cus-{n:02}" for n in range(20)]
    for name in names:
        await prepaid(database, name)
    holders = await opened(database, 20)
    commits: list[object] = []
    event.listen(database.engine.sync_engine, "commit", commits.append)
    answers = await asyncio.gather(
        *(holder.acquire(ref(name), 75) for holder, name in zip(holders, names, strict=True))
    )
    assert [allotted(answer) for answer in answers] == [75] * 20
    assert len(commits) <= 3
    assert [answer.hint.ref.customer_id for answer in answers] == names
    assert [answer.hint.available for answer in answers] == [425] * 20
    await check_books(database)


async def test_twenty_holders_of_one_balance(database: Database) -> None:
    """Twenty ask for 75 of 500, all at once: exactly six get it, and nobody is told a lie about the others."""
    await prepaid(database)
    holders = await opened(database, 20)
    answers = await asyncio.gather(*(holder.acquire(ref("acme"), 75) for holder in holders))
    assert sorted(allotted(answer) for answer in answers) == [0] * 14 + [75] * 6
    refused = [answer.refusal.kind for answer in answers if not answer.leases]
    assert set(refused) == {session.REFUSAL_KIND_HELD_BY_OTHERS}
    await check_books(database)


async def test_who_shares_a_balance_gets_a_part(database: Database) -> None:
    """What is leased beyond the need is divided among all that hold it by then, those of the same transaction too."""
    await prepaid(database, amount=1000)
    together = await opened(database, 6)
    answers = await asyncio.gather(*(holder.acquire(ref("acme"), 1, 1000) for holder in together))
    sizes = [allotted(answer) for answer in answers]
    assert all(size > 0 for size in sizes)
    assert sum(sizes) <= 1000

    other = Holder(database, outbox_id="outbox-99")
    await other.open()
    assert allotted(await other.acquire(ref("acme"), 1, 1000)) > 0
    await check_books(database)


async def test_a_repeat_among_others_is_the_same_reply(database: Database) -> None:
    """Byte for byte, and nothing more is leased."""
    for name in ("acme", "bell"):
        await prepaid(database, name)
    one, two, three = await opened(database, 3)
    request = one.request(ref("acme"), 75, 100)
    process = acquiring(database)
    first = await process.acquire(request)
    again, *others = await asyncio.gather(
        process.acquire(request),
        process.acquire(two.request(ref("bell"), 10)),
        process.acquire(three.request(ref("bell"), 20)),
    )
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    assert [allotted(answer.acquired[0]) for answer in others] == [10, 20]
    await check_books(database)


async def test_only_the_fenced_one_is_refused(database: Database) -> None:
    """A later incarnation of its outbox has opened; those who ask with it get theirs."""
    await prepaid(database)
    one, two, fenced = await opened(database, 3)
    await Holder(database, outbox_id=fenced.outbox_id, incarnation_id="inc-2").open(("inc-1", 0))
    answers = await asyncio.gather(
        *(holder.acquire(ref("acme"), 10) for holder in (one, fenced, two)), return_exceptions=True
    )
    assert isinstance(answers[1], Superseded)
    for answer in (answers[0], answers[2]):
        assert isinstance(answer, session.Acquired)
        assert allotted(answer) == 10


async def test_one_that_can_not_be_answered_spoils_no_other(database: Database) -> None:
    """A customer's rows can not be read: who asks for it is refused for a while."""
    for name in ("ada", "odd", "zoe"):
        await prepaid(database, name)
    async with database.begin() as uow:
        await uow.connection.execute(text("UPDATE grants SET scope = '?' WHERE customer_id = 'odd'"))
    holders = await opened(database, 5)
    names = ("ada", "zoe", "odd", "zoe", "ada")
    answers = await asyncio.gather(
        *(holder.acquire(ref(name), 30) for holder, name in zip(holders, names, strict=True))
    )
    assert [allotted(answer) for answer in answers] == [30, 30, 0, 30, 30]
    assert answers[2].refusal.kind == session.REFUSAL_KIND_FAILED
    async with database.begin() as uow:
        await uow.connection.execute(text("UPDATE grants SET scope = '[]' WHERE customer_id = 'odd'"))
    await check_books(database)


async def test_a_return_of_one_that_is_short_counts_once(database: Database) -> None:
    """It gives back with its request, finds too little in its turn, and is answered by itself: the return is known."""
    for name in ("acme", "bell"):
        await prepaid(database, name)
    one, two, three = await opened(database, 3)
    lease = (await one.acquire(ref("bell"), 100)).leases[0].lease_id
    assert allotted(await two.acquire(ref("acme"), 480)) == 480
    back = one.give_back(lease, 100)
    process = acquiring(database)
    first, other, last = await asyncio.gather(
        process.acquire(two.request(ref("bell"), 10)),
        process.acquire(three.request(ref("bell"), 10)),
        process.acquire(one.request(ref("acme"), 60, returns=[back])),
    )
    assert [allotted(answer.acquired[0]) for answer in (first, other, last)] == [10, 10, 0]
    assert last.acquired[0].refusal.kind == session.REFUSAL_KIND_HELD_BY_OTHERS
    async with database.read() as uow:
        rows = (await uow.connection.execute(select(lease_returns))).all()
    assert [(row.lease_id, row.amount) for row in rows] == [(lease, 100)]
    await check_books(database)


async def test_a_locked_session_holds_up_nobody_else(postgres_database: Database) -> None:
    """What one sidecar has sent is still being booked: only its own request waits for that. On SQLite there is one
    writer at a time.
    """
    database = postgres_database
    await prepaid(database)
    one, two, busy = await opened(database, 3)
    done: dict[str, Any] = {}

    async def ask(holder: Holder) -> None:
        done[holder.outbox_id] = await holder.acquire(ref("acme"), 10)

    async with database.begin() as uow:
        await lock_session(uow, busy.name)
        asking = [asyncio.ensure_future(ask(holder)) for holder in (busy, one, two)]
        # `busy` may have begun alone, and waits then; the others go in a second round.
        await asyncio.wait_for(asyncio.wait(asking[1:]), 10)
        assert done.keys() == {one.outbox_id, two.outbox_id}
    await asyncio.gather(*asking)
    assert [allotted(answer) for answer in done.values()] == [10, 10, 10]
    await check_books(database)
