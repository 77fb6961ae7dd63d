"""Sessions on both databases: epochs, closing with keep, rolled-back disks."""

from sqlalchemy import select

from control_plane.db.unit_of_work import Database
from control_plane.leases.tables import leases
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import allotted, prepaid


async def test_the_same_incarnation_gets_its_epoch_again(database: Database) -> None:
    """Opening twice is opening once; every later incarnation gets a greater epoch."""
    first = Holder(database, incarnation_id="inc-1")
    assert (await first.open()).epoch == (await first.open()).epoch
    second = Holder(database, incarnation_id="inc-2")
    assert (await second.open(("inc-1", 0))).epoch > first.epoch


async def test_close_frees_exactly_what_keep_does_not_name(database: Database, clock: SteppedClock) -> None:
    """Not before the cursor has reached the last number; then all leases close, those the sidecar never heard
    of too.
    """
    await prepaid(database)
    old = Holder(database, incarnation_id="inc-1")
    await old.open()
    kept = (await old.acquire(ref("acme"), 100)).leases[0].lease_id
    lost = (await old.acquire(ref("acme"), 200)).leases[0].lease_id
    old.consume(ref("acme"), (kept, 30), at=clock())
    new = Holder(database, incarnation_id="inc-2")
    await new.open(("inc-1", 1))
    early = await new.close("inc-1", 1)
    assert (early.ended, early.cursor) == (False, 0)
    await old.upload()
    assert not (await new.close("inc-1", 1, {kept: 50})).ended
    async with database.read() as uow:
        rows = {row.id: row for row in await uow.connection.execute(select(leases))}
    assert (rows[kept].unsettled, rows[kept].spent, rows[kept].returned) == (50, 30, 20)
    assert (rows[lost].state, rows[lost].returned) == ("closed", 200)
    await check_books(database)
    assert (await new.close("inc-1", 1)).ended
    assert (await new.close("inc-1", 1)).ended
    assert allotted(await new.acquire(ref("acme"), 470)) == 470
    await check_books(database)


async def test_a_disk_that_was_rolled_back_is_noticed(database: Database, clock: SteppedClock) -> None:
    """Below the highest number seen, or an incarnation missing: nothing is closed, and the outbox opens no
    more.
    """
    await prepaid(database)
    old = Holder(database, incarnation_id="inc-1")
    await old.open()
    lease = (await old.acquire(ref("acme"), 100)).leases[0].lease_id
    old.consume(ref("acme"), (lease, 10), at=clock())
    old.consume(ref("acme"), (lease, 10), at=clock())
    await old.upload()
    restored = Holder(database, incarnation_id="inc-2")
    answer = await restored.open(("inc-1", 1))
    assert answer.rolled_back
    assert (await restored.open(("inc-1", 2))).rolled_back
    assert not (await restored.close("inc-1", 1)).ended
    async with database.read() as uow:
        (row,) = (await uow.connection.execute(select(leases))).all()
    assert (row.state, row.unsettled) == ("open", 80)
    forgotten = Holder(database, outbox_id="other", incarnation_id="inc-1")
    await forgotten.open()
    assert (await Holder(database, outbox_id="other", incarnation_id="inc-2").open()).rolled_back


async def test_a_request_that_was_held_up_is_no_disk_rolled_back(
    database: Database, clock: SteppedClock
) -> None:
    """Opened again after what was uploaded since: it changes nothing, and the session goes on."""
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    epoch = holder.epoch
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    holder.consume(ref("acme"), (lease, 10), at=clock())
    await holder.upload()
    assert (await holder.open(last_seq=0)).rolled_back, "it is not to be relied upon"
    again = await holder.open()
    assert (again.rolled_back, again.epoch) == (False, epoch)
    assert allotted(await holder.acquire(ref("acme"), 100)) == 100
    new = Holder(database, incarnation_id="inc-2")
    await new.open(("inc-1", 1))
    assert (await new.close("inc-1", 1)).ended, "its leases close, and are in nobody's way"
    await check_books(database)


async def test_an_incarnation_that_was_always_offline_reports(
    database: Database, clock: SteppedClock
) -> None:
    """It never opened a session; its facts are booked, and it closes."""
    await prepaid(database)
    offline = Holder(database, incarnation_id="inc-1")
    offline.report_fact("acme", at=clock(), measures={"size": "0.01"})
    new = Holder(database, incarnation_id="inc-2")
    await new.open(("inc-1", 1))
    await offline.upload()
    assert (await new.close("inc-1", 1)).ended
    await check_books(database)
