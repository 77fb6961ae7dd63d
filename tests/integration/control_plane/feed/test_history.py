"""Forgetting the feed's rows, on both databases: what is left of them has no gap."""

from datetime import datetime, timedelta

from control_plane.db.unit_of_work import ChangeKind, Database
from control_plane.feed.history import forget_history, read_changed, read_standing
from tests.integration.control_plane.conftest import SteppedClock


async def change(database: Database, clock: SteppedClock, customer_id: str, at: datetime) -> None:
    """Takes the next revision in a transaction that began then."""
    clock.at = at
    async with database.begin() as uow:
        uow.change(ChangeKind.CUSTOMER, customer_id)


async def test_no_revision_goes_before_an_earlier_one(database: Database, clock: SteppedClock) -> None:
    """A transaction that waited for locks is older than its revision: it stays as long as one before it does. Who may
    resume is told of it, and of everything else.
    """
    began = clock()
    for customer_id, seconds in (("a", 0), ("b", 90), ("c", 5), ("d", 3600)):
        await change(database, clock, customer_id, began + timedelta(seconds=seconds))
    async with database.begin() as uow:
        assert await forget_history(uow, before=began + timedelta(seconds=30)) == 1
    async with database.read() as uow:
        assert (await read_standing(uow)).history_from == 1
        assert (await read_changed(uow, after=1)).customers == {"b", "c", "d"}
    async with database.begin() as uow:
        assert await forget_history(uow, before=began + timedelta(seconds=91)) == 2
    async with database.read() as uow:
        assert (await read_standing(uow)).history_from == 3


async def test_the_newest_revision_stays(database: Database, clock: SteppedClock) -> None:
    """However old it is: it says where we are. Where nothing ever happened there is nothing to forget."""
    async with database.begin() as uow:
        assert await forget_history(uow, before=clock()) == 0
    began = clock()
    for customer_id in ("a", "b"):
        await change(database, clock, customer_id, began)
    for gone in (1, 0):
        async with database.begin() as uow:
            assert await forget_history(uow, before=began + timedelta(days=1)) == gone
    async with database.read() as uow:
        standing = await read_standing(uow)
    assert (standing.history_from, standing.revision) == (1, 2)
