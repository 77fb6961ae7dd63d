"""Rates, gauges, unique values: what is counted at the control plane, on both databases."""

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from control_plane.catalog.publish import Move
from control_plane.db.unit_of_work import Database
from control_plane.ledger.balances import hints
from control_plane.ledger.tables import postings
from purser.sync.v1 import session_pb2 as session
from purser.v1 import usage_pb2 as usage
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.setting import make_subscriber, publish_text

CATALOG = """\
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  calls:  {event: call, aggregate: count}
  users:  {event: visit, aggregate: unique, of: [user]}
  peak:   {event: load, aggregate: max, of: [size]}
features:
  api:    {type: metered, meter: calls}
  people: {type: metered, meter: users}
  load:   {type: metered, meter: peak}
  seats:  {type: gauge}
plans:
  pro:
    entitlements:
      api:    {limit: 1000000, every: P1M, rate: [{limit: 60, per: PT1M}]}
      people: {limit: 3, every: P1M}
      load:   {limit: 100, every: P1M}
      seats:  {limit: 2}
"""
RATE = ref("acme", "rate:api/calls/PT1M")
SEATS = ref("acme", "gauge:seats")
PEOPLE = ref("acme", "allowance:people")


async def begun(database: Database, *names: str, text: str = CATALOG) -> list[Holder]:
    """A customer on pro, and holders with sessions."""
    await publish_text(database, text)
    await make_subscriber(database, "acme", "pro")
    holders = [Holder(database, outbox_id=name) for name in names]
    for holder in holders:
        await holder.open()
    return holders


async def seat(holder: Holder, who: str, clock: SteppedClock, need: int = 1, **want: Any) -> session.Verdict:
    """Asks for a seat."""
    key = want.pop("key", f"{who}-{clock()}")
    want.setdefault("adds", True)
    answer = await holder.acquire(
        SEATS, need, holder_id=who, idempotency_key=key, occurred_at=clock(), **want
    )
    clock.advance(seconds=1)
    return answer.verdict


async def test_one_holder_gets_the_whole_burst_and_no_more(database: Database) -> None:
    """60 a minute: one after the other exactly 60 tokens are handed over at once, then the refusal says when
    to ask again.
    """
    (holder,) = await begun(database, "one")
    handed = 0
    for _ in range(100):
        acquired = await holder.acquire(RATE, 1, 7)
        if acquired.HasField("refusal"):
            assert acquired.refusal.kind == session.REFUSAL_KIND_HELD_BY_OTHERS
            assert acquired.refusal.retry_after.ToTimedelta().total_seconds() > 0
            break
        handed += acquired.rate_share.tokens
    assert handed == 60


async def test_shares_never_sum_to_more_than_the_rate(database: Database, clock: SteppedClock) -> None:
    """Tokens handed over and what every share could have refilled stay below burst + rate x T."""
    holders = await begun(database, "one", "two", "three", "four")
    handed, refilled = 0, 0.0
    shares: dict[str, session.RateShare] = {}
    ends: dict[str, datetime] = {}
    for second in range(120):
        for holder in holders:
            if (second * 7 + len(holder.outbox_id)) % 3 == 0:
                acquired = await holder.acquire(RATE, 1, 5)
                if acquired.HasField("rate_share"):
                    shares[holder.outbox_id] = acquired.rate_share
                    ends[holder.outbox_id] = clock() + acquired.rate_share.ttl.ToTimedelta()
                    handed += acquired.rate_share.tokens
        assert sum(share.micro_per_second for share in shares.values()) <= 1_000_000
        assert sum(share.burst for share in shares.values()) <= 60
        assert handed + refilled <= 60 + second
        clock.advance(seconds=1)
        shares = {name: share for name, share in shares.items() if clock() <= ends[name]}
        refilled += sum(share.micro_per_second for share in shares.values()) / 1_000_000


async def test_a_seat_added_twice_is_one(database: Database, clock: SteppedClock) -> None:
    """Two seats: ada twice is one, bob the second, eve is refused; when bob has left, eve fits."""
    (holder,) = await begun(database, "one")
    assert (await seat(holder, "ada", clock)).used == 1
    assert (await seat(holder, "ada", clock)).used == 1
    assert (await seat(holder, "bob", clock)).used == 2
    refused = await seat(holder, "eve", clock)
    assert (refused.allowed, refused.used, refused.limit) == (False, 2, 2)
    left = await holder.acquire(
        SEATS, 0, holder_id="bob", adds=False, idempotency_key="left", occurred_at=clock()
    )
    assert (left.verdict.used, left.verdict.frees, left.hint.used) == (1, 1, 2)
    assert not (await seat(holder, "eve", clock)).allowed
    event: dict[str, Any] = {
        "holder_id": "bob",
        "gauge_change": usage.GAUGE_CHANGE_REMOVE,
        "gauge_feature": "seats",
        "name": "",
    }
    holder.consume(SEATS, at=clock(), key="left", **event).usage.charges[0].feature = "seats"
    assert not (await holder.upload()).dead_letters
    assert (await seat(holder, "eve", clock)).allowed
    async with database.read() as uow:
        (hint,) = [one for one in await hints(uow, "acme") if one.ref.balance == "gauge:seats"]
        assert (hint.used, hint.granted) == (2, 2)


async def test_a_limit_below_what_is_held_blocks_only_adding(database: Database, clock: SteppedClock) -> None:
    """Lowered to one while two are held: nobody is thrown out, nobody comes in, leaving works, less is
    allowed.
    """
    (holder,) = await begun(database, "one")
    await seat(holder, "ada", clock)
    await seat(holder, "bob", clock)
    await publish_text(database, CATALOG.replace("seats:  {limit: 2}", "seats:  {limit: 1}"), Move.ALL)
    assert (await seat(holder, "ada", clock)).allowed
    assert not (await seat(holder, "eve", clock)).allowed
    assert (await seat(holder, "bob", clock, 0, adds=False)).used == 1


async def test_the_last_change_of_a_holder_stands(database: Database, clock: SteppedClock) -> None:
    """The verdict's event changes nothing when it arrives; an older change that arrives late does not
    either.
    """
    (holder,) = await begun(database, "one")
    early = clock()
    clock.advance(minutes=1)
    at = clock()
    verdict = await seat(holder, "ada", clock, 2, adds=False, key="set")
    assert verdict.used == 2
    holder.report_fact(
        "acme",
        at=at,
        key="set",
        name="",
        holder_id="ada",
        gauge_change=usage.GAUGE_CHANGE_SET,
        gauge_feature="seats",
        measures={"quantity": "2"},
    )
    holder.report_fact(
        "acme",
        at=early,
        name="",
        holder_id="ada",
        gauge_change=usage.GAUGE_CHANGE_REMOVE,
        gauge_feature="seats",
    )
    answer = await holder.upload()
    assert not answer.dead_letters
    assert (await seat(holder, "bob", clock)).used == 2
    await check_books(database)


async def test_a_value_counts_once_in_its_window(database: Database, clock: SteppedClock) -> None:
    """Two sidecars count the same user: the second's unit goes back to its lease; as a fact it costs
    nothing.
    """
    one, two = await begun(database, "one", "two")
    first = (await one.acquire(PEOPLE, 1)).leases[0].lease_id
    second = (await two.acquire(PEOPLE, 1)).leases[0].lease_id
    one.consume(PEOPLE, (first, 1), at=clock(), name="visit", attributes={"user": "ada"})
    two.consume(PEOPLE, (second, 1), at=clock(), name="visit", attributes={"user": "ada"})
    two.report_fact("acme", at=clock(), name="visit", attributes={"user": "ada"})
    two.report_fact("acme", at=clock(), name="visit", attributes={"user": "bob"})
    await one.upload()
    assert not (await two.upload()).dead_letters
    async with database.read() as uow:
        used = select(func.sum(postings.c.amount)).where(postings.c.account.like("usage:%"))
        assert (await uow.connection.execute(used)).scalar_one() == 2
    assert len((await one.acquire(PEOPLE, 1)).leases) == 1
    await check_books(database)


async def test_a_pinned_customer_counts_by_its_own_revision(database: Database, clock: SteppedClock) -> None:
    """The newest catalog counts visits, not visitors: who stayed on the older one is still charged once per user."""
    one, two = await begun(database, "one", "two")
    await publish_text(database, CATALOG.replace("aggregate: unique, of: [user]", "aggregate: count"))
    for holder in (one, two):
        lease = (await holder.acquire(PEOPLE, 1)).leases[0].lease_id
        holder.consume(PEOPLE, (lease, 1), at=clock(), name="visit", attributes={"user": "ada"})
        assert not (await holder.upload()).dead_letters
    async with database.read() as uow:
        used = select(func.sum(postings.c.amount)).where(postings.c.account.like("usage:%"))
        assert (await uow.connection.execute(used)).scalar_one() == 1
    await check_books(database)


LOAD = ref("acme", "allowance:load")


async def reach(holder: Holder, size: int, at: datetime, key: str = "") -> session.Verdict:
    """Asks whether a value of this size may be."""
    asked = holder.acquire(LOAD, size * 10**6, occurred_at=at, idempotency_key=key or str(size))
    return (await asked).verdict


async def load(database: Database) -> int:
    """What stands of it."""
    async with database.read() as uow:
        (hint,) = [one for one in await hints(uow, "acme") if one.ref.balance == LOAD.balance]
        return hint.used // 10**6


@pytest.mark.parametrize(("aggregate", "stands"), [("max", 80), ("latest", 60)])
async def test_a_value_is_judged_here(
    database: Database, clock: SteppedClock, aggregate: str, stands: int
) -> None:
    """Up to the limit it may be, and above it is refused; what was asked for and never written raises nothing: what
    stands is what is booked.
    """
    (holder,) = await begun(
        database, "one", text=CATALOG.replace("aggregate: max", f"aggregate: {aggregate}")
    )
    assert (await reach(holder, 100, clock())).allowed
    assert (await reach(holder, 80, clock())).used == 80_000_000
    assert await load(database) == 0
    for size in (80, 60):
        clock.advance(seconds=1)
        assert (await reach(holder, size, clock())).allowed
        holder.consume(LOAD, at=clock(), key=str(size), name="load", measures={"size": str(size)})
    assert not (await holder.upload()).dead_letters
    assert await load(database) == stands
    refused = await reach(holder, 101, clock())
    assert (refused.allowed, refused.used) == (False, stands * 10**6)


async def test_what_was_exceeded_already_raises_nothing(database: Database, clock: SteppedClock) -> None:
    """A fact was above the limit: another value up to it may be, a higher one may not."""
    (holder,) = await begun(database, "one")
    holder.report_fact("acme", at=clock(), name="load", measures={"size": "150"})
    await holder.upload()
    assert (await reach(holder, 150, clock())).allowed
    assert not (await reach(holder, 151, clock())).allowed
