"""A backlog of leases: it is worked off, and stands in nobody's way meanwhile; on both databases."""

from dataclasses import replace

from prometheus_client import CollectorRegistry
from sqlalchemy import delete, func, select, text

from control_plane.config import settings_from
from control_plane.db.unit_of_work import Database
from control_plane.faults import Faults
from control_plane.feed.poller import Poller
from control_plane.leases.quarantine import SWEPT_AT_ONCE, LeaseSweep
from control_plane.leases.rows import OPEN, Slice, insert_leases, read_leases
from control_plane.leases.tables import lease_slices, leases
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id
from control_plane.metrics import Metrics
from control_plane.sweeper import PORTIONS_MAX, Sweeper
from sidecar.engine.values import BalanceRef
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid


def sweeper(database: Database) -> Sweeper:
    """As a replica runs it."""
    metrics = Metrics(CollectorRegistry(), Poller(database), database.kept(Faults))
    return Sweeper(database, settings_from(), metrics)


async def settled(
    database: Database, clock: SteppedClock, customer_id: str, many: int, *, outbox_id: str = ""
) -> None:
    """So many leases of one credit each, spent to the last and still open."""
    holder = Holder(database, outbox_id=outbox_id or f"outbox-{customer_id}")
    await holder.open()
    lease_id = (await holder.acquire(ref(customer_id), many)).leases[0].lease_id
    async with database.begin() as uow:
        (whole,) = (await read_leases(uow, leases.c.id == lease_id)).values()
        grant_id = whole.slices[0].grant_id
        await uow.connection.execute(delete(lease_slices).where(lease_slices.c.lease_id == lease_id))
        await uow.connection.execute(delete(leases).where(leases.c.id == lease_id))
        parts = [
            replace(whole, id=f"{lease_id}-{n}", allotted=1, unsettled=1, slices=[Slice(grant_id, 1)])
            for n in range(many)
        ]
        await insert_leases(uow, parts)
    for part in parts:
        holder.consume(ref(customer_id), (part.id, 1), at=clock())
    assert not (await holder.upload()).dead_letters


async def still_open(database: Database) -> int:
    async with database.read() as uow:
        query = select(func.count()).select_from(leases).where(leases.c.state == OPEN)
        return int((await uow.connection.execute(query)).scalar_one())


async def test_a_backlog_is_worked_off_in_one_round(database: Database, clock: SteppedClock) -> None:
    """More than a portion is due: the next one follows at once. The round is bounded all the same."""
    many = 2 * SWEPT_AT_ONCE + 1
    assert PORTIONS_MAX > 3
    await prepaid(database, amount=2 * many)
    await settled(database, clock, "acme", many)
    await sweeper(database).sweep(clean_up=False)
    assert await still_open(database) == 0
    await check_books(database)


async def test_who_holds_nothing_any_more_is_no_holder(database: Database, clock: SteppedClock) -> None:
    """Settled leases that are not closed yet make nobody's lease smaller: half of what there is, for one alone."""
    await prepaid(database, amount=1000)
    for number in range(4):
        holder = Holder(database, outbox_id=f"other-{number}")
        await holder.open()
        lease = (await holder.acquire(ref("acme"), 10)).leases[0]
        holder.consume(ref("acme"), (lease.lease_id, 10), at=clock())
        await holder.upload()
    asker = Holder(database, outbox_id="asker")
    await asker.open()
    assert allotted(await asker.acquire(ref("acme"), 1, 1000)) == (1000 - 4 * 10) // 2


async def test_one_lease_that_can_not_be_swept(database: Database, clock: SteppedClock) -> None:
    """Its balance is set apart for a minute; the leases of all others are quarantined and closed."""
    for name in ("odd", "ada", "zoe"):
        await prepaid(database, name)
        await settled(database, clock, name, 2)
    async with database.begin() as uow:
        await uow.connection.execute(text("UPDATE grants SET scope = '?' WHERE customer_id = 'odd'"))
    sweep = LeaseSweep(database, SETTINGS)
    assert await sweep.portion(waits=True) == 4
    assert await still_open(database) == 2
    assert database.kept(Faults).counted == {"sweep": 1}
    await settled(database, clock, "ada", 2, outbox_id="another")
    assert await sweep.portion(waits=True) == 2
    assert database.kept(Faults).counted == {"sweep": 1}, "it is not tried each time"
    async with database.begin() as uow:
        await uow.connection.execute(text("UPDATE grants SET scope = '[]' WHERE customer_id = 'odd'"))
    clock.advance(seconds=61)
    assert await sweep.portion(waits=True) == 2
    assert await still_open(database) == 0
    await check_books(database)


async def test_replicas_share_a_backlog(postgres_database: Database, clock: SteppedClock) -> None:
    """What another one is at is passed by: the rest is swept meanwhile."""
    database = postgres_database
    for name in ("ada", "zoe"):
        await prepaid(database, name)
        await settled(database, clock, name, 2)
    sweep = LeaseSweep(database, SETTINGS)
    async with database.begin() as uow:
        await Vault(uow).lock([balance_id(BalanceRef("ada", "", "wallet:credit"))])
        assert await sweep.portion(waits=False) == 2
        assert await sweep.portion(waits=False) == 0
    assert await sweep.portion(waits=False) == 2
    await check_books(database)
