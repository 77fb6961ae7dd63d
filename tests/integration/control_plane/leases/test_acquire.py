"""Acquiring on both databases: never more than there is, whoever asks."""

import asyncio
from datetime import UTC, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from control_plane.db.unit_of_work import Database
from control_plane.feed.bus import Bus
from control_plane.leases.quarantine import sweep_leases
from control_plane.leases.sessions import Superseded
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.tables import leases, recall_answers, recalls
from control_plane.ledger.balances import hints, standings
from control_plane.ledger.grants import NewGrant, create_grant
from control_plane.ledger.tables import grants
from purser.sync.v1 import session_pb2 as session
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, acquiring, check_books, ref
from tests.integration.control_plane.setting import make_subscriber, publish_text


async def prepaid(database: Database, customer_id: str = "acme", amount: int = 500) -> None:
    """A customer on a plan that spends credits, with this much in its wallet."""
    await publish_text(database)
    await make_subscriber(database, customer_id, "paid")
    async with database.begin() as uow:
        new = NewGrant(
            grant_id=f"grant-{customer_id}",
            customer_id=customer_id,
            unit="credit",
            scale=3,
            amount=amount,
            effective_at=uow.now,
        )
        await create_grant(uow, new)


async def all_held(database: Database) -> tuple[Holder, session.Lease, Holder]:
    """A holder of all that there is, its lease, and another who will need some of it."""
    await prepaid(database)
    holder, other = Holder(database, outbox_id="one"), Holder(database, outbox_id="two")
    await holder.open()
    await other.open()
    return holder, (await holder.acquire(ref("acme"), 500)).leases[0], other


def allotted(acquired: session.Acquired) -> int:
    """What was granted in all."""
    return sum(piece.amount for lease in acquired.leases for piece in lease.slices)


async def test_more_wants_are_not_more_statements(database: Database) -> None:
    """What is asked for in one call is read, locked and written together, whoever the customers are."""
    await prepaid(database)
    for customer_id in ("bell", "cole", "dune"):
        await make_subscriber(database, customer_id)
    holder = Holder(database)
    await holder.open()
    refs = [ref("acme"), *(ref(name, "allowance:api") for name in ("bell", "cole", "dune"))]
    for one in refs:  # balances and periods are there from now on
        await holder.acquire(one, 1)
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    async def count(*wanted: session.BalanceRef) -> int:
        statements.clear()
        request = holder.request(wanted[0], 1)
        for other in wanted[1:]:
            request.wants.extend(holder.request(other, 1).wants)
        response = await acquiring(database, SETTINGS).acquire(request)
        assert [allotted(acquired) for acquired in response.acquired] == [1] * len(wanted)
        return len(statements)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    assert await count(*refs[1:]) == await count(refs[1])


async def test_the_hint_says_what_the_books_say(database: Database) -> None:
    """How the balance stands after the transaction, overage and what leases have spent included."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0]
    holder.consume(ref("acme"), (lease.lease_id, 40), at=lease.ends_at.ToDatetime(UTC) - timedelta(seconds=1))
    holder.report_fact(
        "acme", at=lease.ends_at.ToDatetime(UTC) - timedelta(seconds=1), measures={"size": "1.2"}
    )
    await holder.upload()
    for need in (50, 250):  # the second takes all, the facts that follow are overage
        acquired = await holder.acquire(ref("acme"), need)
        async with database.read() as uow:
            assert acquired.hint in await hints(uow, "acme")
        holder.report_fact(
            "acme", at=lease.ends_at.ToDatetime(UTC) - timedelta(seconds=1), measures={"size": "2"}
        )
        await holder.upload()
    acquired = await holder.acquire(ref("acme"), 1)
    assert acquired.hint.overage > 0
    async with database.read() as uow:
        assert acquired.hint in await hints(uow, "acme")
    await check_books(database)


async def test_twenty_at_once_get_what_there_is(database: Database) -> None:
    """Twenty concurrent acquires of 75 on 500, through four holders: exactly six are granted."""
    await prepaid(database)
    holders = [Holder(database, outbox_id=f"outbox-{n}") for n in range(4)]
    for holder in holders:
        await holder.open()
    answers = await asyncio.gather(*(holders[n % 4].acquire(ref("acme"), 75) for n in range(20)))
    assert sorted(allotted(answer) for answer in answers) == [0] * 14 + [75] * 6
    await check_books(database)


async def test_a_repeat_is_the_same_reply(database: Database, clock: SteppedClock) -> None:
    """The same request id is answered with the same bytes, and nothing more is leased."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    request = holder.request(ref("acme"), 75, 100)
    first = await acquiring(database, SETTINGS).acquire(request)
    clock.advance(seconds=7)
    again = await acquiring(database, SETTINGS).acquire(request)
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    async with database.read() as uow:
        assert len((await uow.connection.execute(select(leases))).all()) == 1


async def test_an_older_epoch_acquires_nothing(database: Database) -> None:
    """Once a later incarnation has opened, the earlier one is fenced."""
    await prepaid(database)
    first = Holder(database, incarnation_id="inc-1")
    second = Holder(database, incarnation_id="inc-2")
    await first.open()
    await second.open(("inc-1", 0))
    assert second.epoch > first.epoch
    with pytest.raises(Superseded):
        await first.acquire(ref("acme"), 10)
    with pytest.raises(Superseded):
        await first.open()


async def test_near_the_end_a_lease_is_small_but_serves_the_waiting_call(database: Database) -> None:
    """No more than available / (2 x holders), unless the waiting call needs more."""
    await prepaid(database)
    one, two = Holder(database, outbox_id="one"), Holder(database, outbox_id="two")
    await one.open()
    await two.open()
    assert allotted(await one.acquire(ref("acme"), 10, 1000)) == 250
    assert allotted(await two.acquire(ref("acme"), 10, 1000)) == 62
    assert allotted(await two.acquire(ref("acme"), 150, 1000)) == 150


async def test_an_expired_lease_is_quarantined_and_never_given_back(
    database: Database, clock: SteppedClock
) -> None:
    """After its end, drift and grace a lease is nobody's; its holder's late usage and return still settle
    it.
    """
    holder, lease, other = await all_held(database)
    clock.advance(seconds=65.5)
    async with database.begin() as uow:
        assert await sweep_leases(uow, SETTINGS) == 0
    clock.advance(seconds=0.2)
    async with database.begin() as uow:
        assert await sweep_leases(uow, SETTINGS) == 1
    refused = await other.acquire(ref("acme"), 1)
    assert refused.refusal.kind == session.REFUSAL_KIND_HELD_BY_OTHERS
    assert refused.refusal.retry_after.ToTimedelta() > timedelta(0)
    holder.consume(ref("acme"), (lease.lease_id, 200), at=clock())
    holder.give_back(lease.lease_id, 300)
    await holder.upload()
    await check_books(database)
    assert allotted(await other.acquire(ref("acme"), 300)) == 300
    async with database.begin() as uow:
        await sweep_leases(uow, SETTINGS)
    await check_books(database)


async def test_silence_is_presumed_and_the_truth_corrects_it(database: Database, clock: SteppedClock) -> None:
    """After the timeout what is unsettled counts as spent; usage and returns that arrive later put it
    right.
    """
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 500)).leases[0]
    for step in (70, 24 * 3600):
        clock.advance(seconds=step)
        async with database.begin() as uow:
            assert await sweep_leases(uow, SETTINGS) == 1
        await check_books(database)
    async with database.read() as uow:
        (wallet,) = [one for one in await standings(uow, "acme") if one.row.name == "wallet:credit"]
        assert (wallet.presumed, wallet.available) == (500, 0)
    holder.consume(ref("acme"), (lease.lease_id, 120), at=clock() - timedelta(hours=24))
    holder.give_back(lease.lease_id, 380)
    await holder.upload()
    async with database.begin() as uow:
        await sweep_leases(uow, SETTINGS)
    await check_books(database)
    async with database.read() as uow:
        (grant,) = (await uow.connection.execute(select(grants))).all()
        assert (grant.spent, grant.presumed, grant.available) == (120, 0, 380)


async def test_a_refusal_is_final_once_the_others_have_obeyed(
    database: Database, clock: SteppedClock
) -> None:
    """Idle slices elsewhere are recalled; after the holder has obeyed and kept what is in use, the refusal is
    final.
    """
    holder, lease, other = await all_held(database)
    waiting = LongerWait(holder, lease.lease_id, idle=0)
    refused, _ = await asyncio.gather(other.acquire(ref("acme"), 75, settings=LONG), waiting.obey())
    assert refused.refusal.kind == session.REFUSAL_KIND_EXHAUSTED
    assert not refused.refusal.HasField("retry_after")


async def test_a_lease_that_its_holder_has_not_heard_of_keeps_a_refusal_open(
    database: Database, clock: SteppedClock
) -> None:
    """A holder obeys while the reply with its lease is on its way: what it could not give back may come yet."""
    holder, lease, other = await all_held(database)
    unaware = LongerWait(holder, "no lease that it knows", idle=0)
    refused, _ = await asyncio.gather(other.acquire(ref("acme"), 75), unaware.obey())
    assert refused.refusal.kind == session.REFUSAL_KIND_HELD_BY_OTHERS
    assert refused.refusal.HasField("retry_after")
    aware = LongerWait(holder, lease.lease_id, idle=0)
    refused, _ = await asyncio.gather(other.acquire(ref("acme"), 75, settings=LONG), aware.obey())
    assert refused.refusal.kind == session.REFUSAL_KIND_EXHAUSTED


async def test_what_the_others_give_back_is_granted(database: Database, clock: SteppedClock) -> None:
    """An idle slice of another holder reaches the waiting call within the recall's deadline."""
    holder, lease, other = await all_held(database)
    waiting = LongerWait(holder, lease.lease_id, idle=100)
    granted, _ = await asyncio.gather(other.acquire(ref("acme"), 75, settings=LONG), waiting.obey())
    assert allotted(granted) == 75
    assert not granted.HasField("refusal")
    await check_books(database)


async def test_a_holder_who_answers_is_waited_for_longer_than_one_who_is_silent(
    database: Database, clock: SteppedClock
) -> None:
    """It lives, and what it could not give back at once is on its way."""
    holder, lease, other = await all_held(database)
    waiting = LongerWait(holder, lease.lease_id, idle=500)
    patient = LeaseSettings(recall_wait=timedelta(seconds=1), answering_wait=timedelta(seconds=10))

    async def answer_twice() -> None:
        recall_id = await waiting.posted()
        await holder.obey(recall_id)
        await asyncio.sleep(1.5 * patient.recall_wait.total_seconds())
        holder.give_back(lease.lease_id, 500)
        await holder.upload()
        await holder.obey(recall_id, lease.lease_id)

    granted, _ = await asyncio.gather(other.acquire(ref("acme"), 75, settings=patient), answer_twice())
    assert allotted(granted) == 75


async def test_nobody_is_waited_for_longer_than_the_caller_waits(
    database: Database, clock: SteppedClock
) -> None:
    """The answer comes before the caller's time is over: it says when to ask again."""
    _, _, other = await all_held(database)
    for seconds in (0.15, 0.0):
        request = other.request(ref("acme"), 75)
        async with asyncio.timeout(5):
            reply = await acquiring(database, LONG).acquire(request, seconds=seconds)
        assert reply.acquired[0].refusal.kind == session.REFUSAL_KIND_HELD_BY_OTHERS


async def test_a_holder_that_does_not_answer_leaves_the_refusal_open(database: Database) -> None:
    """Without an answer within the deadline the refusal says when to ask again."""
    _, _, other = await all_held(database)
    refused = await other.acquire(ref("acme"), 75)
    assert refused.refusal.kind == session.REFUSAL_KIND_HELD_BY_OTHERS
    assert refused.refusal.HasField("retry_after")


async def test_own_returns_are_applied_first_and_once(database: Database, clock: SteppedClock) -> None:
    """Crumbs that ride with the request serve it; the same return in a batch afterwards changes nothing."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 480)).leases[0]
    crumbs = holder.give_back(lease.lease_id, 60)
    assert allotted(await holder.acquire(ref("acme"), 80, returns=[crumbs])) == 80
    await holder.upload()
    await check_books(database)
    async with database.read() as uow:
        rows = {row.id: row for row in await uow.connection.execute(select(leases))}
        assert rows[lease.lease_id].returned == 60


async def test_several_balances_are_answered_each_for_itself(database: Database) -> None:
    """In one request one balance is granted, one is exhausted, one does not exist."""
    await prepaid(database)
    await make_subscriber(database, "basic", "free")
    holder = Holder(database)
    await holder.open()
    request = holder.request(ref("acme"), 100)
    request.wants.append(holder.request(ref("basic", "allowance:api"), 101).wants[0])
    request.wants.append(holder.request(ref("nobody", "allowance:api"), 1).wants[0])
    reply = await acquiring(database, SETTINGS).acquire(request)
    assert [allotted(one) for one in reply.acquired] == [100, 0, 0]
    assert [one.refusal.kind for one in reply.acquired] == [
        session.REFUSAL_KIND_UNSPECIFIED,
        session.REFUSAL_KIND_EXHAUSTED,
        session.REFUSAL_KIND_NO_SUCH_BALANCE,
    ]
    assert reply.acquired[1].hint.granted == 100
    await check_books(database)


async def test_a_lease_ends_with_its_grant(database: Database, clock: SteppedClock) -> None:
    """A grant that expires soon is leased apart and briefly."""
    await prepaid(database)
    async with database.begin() as uow:
        short = NewGrant(
            grant_id="short",
            customer_id="acme",
            unit="credit",
            scale=3,
            amount=40,
            effective_at=uow.now,
            expires_at=uow.now + timedelta(seconds=9),
        )
        await create_grant(uow, short)
    holder = Holder(database)
    await holder.open()
    first, second = (await holder.acquire(ref("acme"), 100)).leases
    assert first.ttl.ToTimedelta() == timedelta(seconds=9)
    assert first.never_after.ToDatetime(clock().tzinfo) == clock() + timedelta(seconds=9)
    assert second.ttl.ToTimedelta() == timedelta(seconds=60)
    assert [piece.amount for piece in first.slices] == [40]


LONG = LeaseSettings(recall_wait=timedelta(seconds=10), answering_wait=timedelta(seconds=10))


class LongerWait:
    """Waits for the recall of a holder's lease and obeys it: gives back what is idle."""

    def __init__(self, holder: Holder, lease_id: str, *, idle: int) -> None:
        self.holder, self.lease_id, self.idle = holder, lease_id, idle

    async def obey(self) -> None:
        """Returns when the recall was answered and uploaded."""
        recall_id = await self.posted()
        if self.idle:
            self.holder.give_back(self.lease_id, self.idle)
            await self.holder.upload()
        await self.holder.obey(recall_id, self.lease_id)

    async def posted(self) -> str:
        """Waits for a recall that was not answered yet: its id."""
        answered = select(recall_answers.c.recall_id)
        query = select(recalls.c.id).where(recalls.c.id.not_in(answered))
        while True:
            async with self.holder.database.read() as uow:
                found: str | None = (await uow.connection.execute(query)).scalars().first()
            if found is not None:
                return found
            await self.holder.database.kept(Bus).wait_feed(0.05)
