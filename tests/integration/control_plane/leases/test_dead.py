"""An operator declares an incarnation dead: by default that can not oversell; on both databases."""

from datetime import timedelta

import pytest

from control_plane.db.unit_of_work import Database
from control_plane.errors import NotFound
from control_plane.leases.dead import DeadLeases, Declared, declare_dead
from control_plane.leases.quarantine import sweep_leases
from control_plane.leases.sessions import Superseded
from control_plane.leases.settings import LeaseSettings, QuarantinePolicy
from control_plane.ledger.audit import oversold
from control_plane.ledger.balances import Standing, standings
from purser.sync.v1 import session_pb2 as session
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid

QUARANTINE, RELEASE = DeadLeases.QUARANTINE, DeadLeases.RELEASE


async def declare(database: Database, holder: Holder, choice: DeadLeases = QUARANTINE) -> Declared:
    async with database.begin() as uow:
        return await declare_dead(uow, holder.name, choice)


async def holding(database: Database, amount: int = 500) -> tuple[Holder, str]:
    """A sidecar that has leased so much of 500 credits; and its lease."""
    await prepaid(database)
    holder = Holder(database, incarnation_id="inc-1")
    await holder.open()
    return holder, (await holder.acquire(ref("acme"), amount)).leases[0].lease_id


async def another(database: Database) -> Holder:
    other = Holder(database, outbox_id="two")
    await other.open()
    return other


async def wallet(database: Database) -> Standing:
    async with database.read() as uow:
        (found,) = [one for one in await standings(uow, "acme") if one.row.name == "wallet:credit"]
        return found


async def check_nothing_oversold(database: Database) -> None:
    await check_books(database)
    async with database.read() as uow:
        assert await oversold(uow) == 0


async def test_nobody_gets_what_a_living_dead_spends(database: Database, clock: SteppedClock) -> None:
    """It was taken for dead and goes on spending: nobody else gets its lease, and its usage is booked against it."""
    dead, lease = await holding(database)
    declared = await declare(database, dead)
    assert (declared.row.state, declared.row.declared_dead_at) == ("superseded", clock())
    assert [(one.leases, one.amount) for one in declared.touched.values()] == [(1, 500)]
    other = await another(database)
    refused = await other.acquire(ref("acme"), 1)
    assert (allotted(refused), refused.refusal.kind) == (0, session.REFUSAL_KIND_HELD_BY_OTHERS)
    dead.consume(ref("acme"), (lease, 400), at=clock())
    await dead.upload()
    stands = await wallet(database)
    assert (stands.spent, stands.quarantined, stands.available, stands.overage) == (400, 100, 0, 0)
    await check_nothing_oversold(database)


async def test_it_acquires_no_more(database: Database) -> None:
    """Nor does it open again; what it reports is booked."""
    dead, _ = await holding(database, 100)
    await declare(database, dead)
    with pytest.raises(Superseded):
        await dead.acquire(ref("acme"), 1)
    with pytest.raises(Superseded):
        await dead.open()


async def test_its_return_frees_it(database: Database) -> None:
    """A holder that says itself what it does not need is believed: that much is free at once."""
    dead, lease = await holding(database)
    await declare(database, dead)
    dead.give_back(lease, 300)
    await dead.upload()
    assert allotted(await (await another(database)).acquire(ref("acme"), 300)) == 300
    await check_nothing_oversold(database)


async def test_its_next_incarnation_closes_it(database: Database, clock: SteppedClock) -> None:
    """It comes back with its disk after all: what it had written is booked, and the rest is free."""
    dead, lease = await holding(database)
    dead.consume(ref("acme"), (lease, 40), at=clock())
    await declare(database, dead)
    new = Holder(database, incarnation_id="inc-2")
    await new.open(("inc-1", 1))
    assert not (await new.close("inc-1", 1)).ended, "its usage is not in the books yet"
    await dead.upload()
    assert (await new.close("inc-1", 1)).ended
    assert allotted(await new.acquire(ref("acme"), 460)) == 460
    await check_nothing_oversold(database)


@pytest.mark.parametrize("policy", list(QuarantinePolicy))
async def test_silence_ends_by_policy(
    database: Database, clock: SteppedClock, policy: QuarantinePolicy
) -> None:
    """The span of its quarantine is that of any lease; then the rest is presumed spent, or given back."""
    settings = LeaseSettings(recall_wait=timedelta(0), quarantine_policy=policy)
    dead, _ = await holding(database)
    await declare(database, dead)
    clock.advance(hours=24)
    async with database.begin() as uow:
        assert await sweep_leases(uow, settings) == 0, "the lease's own time comes first"
    clock.advance(minutes=2)
    async with database.begin() as uow:
        assert await sweep_leases(uow, settings) == 1
    stands = await wallet(database)
    presumes = policy is QuarantinePolicy.PRESUME
    assert (stands.presumed, stands.available) == ((500, 0) if presumes else (0, 500))
    await check_books(database)


async def test_release_frees_at_once(database: Database, clock: SteppedClock) -> None:
    """That was chosen: somebody else gets the lease, and late usage is kept, as overage."""
    dead, lease = await holding(database)
    declared = await declare(database, dead, RELEASE)
    assert [(one.leases, one.amount) for one in declared.touched.values()] == [(1, 500)]
    assert allotted(await (await another(database)).acquire(ref("acme"), 500)) == 500
    dead.consume(ref("acme"), (lease, 40), at=clock())
    await dead.upload()
    assert (await wallet(database)).overage == 40
    await check_books(database)


async def test_release_after_quarantine(database: Database, clock: SteppedClock) -> None:
    """Who is sure by now says it again with the other choice; once more it has nothing left to do. What was presumed
    is given back as well.
    """
    dead, _ = await holding(database)
    assert (await declare(database, dead)).touched
    assert not (await declare(database, dead)).touched
    clock.advance(hours=26)
    async with database.begin() as uow:
        await sweep_leases(uow, SETTINGS)
    assert (await wallet(database)).presumed == 500
    declared = await declare(database, dead, RELEASE)
    assert declared.row.declared_dead_at == clock() - timedelta(hours=26)
    assert [(one.leases, one.amount) for one in declared.touched.values()] == [(1, 500)]
    assert (await wallet(database)).available == 500
    assert not (await declare(database, dead, RELEASE)).touched
    await check_books(database)


async def test_what_was_set_aside_stays_so(database: Database, clock: SteppedClock) -> None:
    """Declaring an incarnation dead lets no disk in that was rolled back."""
    dead, lease = await holding(database)
    dead.consume(ref("acme"), (lease, 40), at=clock())
    await dead.upload()
    back = Holder(database, incarnation_id="inc-2")
    assert (await back.open(("inc-1", 0))).rolled_back
    assert (await declare(database, dead)).row.state == "set_aside"
    assert (await back.open(("inc-1", 0))).rolled_back
    await check_nothing_oversold(database)


async def test_nobody_is_unknown(database: Database) -> None:
    """An incarnation that was never heard of is not declared anything."""
    with pytest.raises(NotFound):
        await declare(database, Holder(database, incarnation_id="inc-9"))
