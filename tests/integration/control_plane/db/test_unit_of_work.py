"""The unit of work on both databases."""

import asyncio
import gc

import pytest
from sqlalchemy import event, select, text

from control_plane.db.engine import create_engine, system_now
from control_plane.db.tables import feed
from control_plane.db.unit_of_work import ChangeKind, Database, UnitOfWork


async def test_a_change_takes_one_revision_with_its_feed_rows(database: Database) -> None:
    """However much a transaction changes, it takes one revision, and each thing is in the feed once."""
    async with database.begin() as uow:
        uow.change(ChangeKind.CUSTOMER, "a")
        uow.change(ChangeKind.CUSTOMER, "a")
        uow.change(ChangeKind.SUBJECT, "s")
    assert uow.revision == 1
    async with database.read() as reading:
        rows = (await reading.connection.execute(select(feed.c.revision, feed.c.kind, feed.c.key))).all()
    assert sorted(map(tuple, rows)) == [(1, "customer", "a"), (1, "subject", "s")]


async def test_no_change_takes_no_revision(database: Database) -> None:
    """Usage and leases say nothing to followers, and take no revision."""
    async with database.begin() as uow:
        pass
    assert uow.revision is None
    async with database.read() as reading:
        assert await reading.read_revision() == 0


async def test_a_failed_block_leaves_nothing(database: Database) -> None:
    """An exception rolls back the revision and the feed, and calls nobody back."""
    called: list[object] = []
    database.on_revision(called.append)

    async def fail(uow: UnitOfWork) -> None:
        uow.change(ChangeKind.CUSTOMER, "a")
        uow.after_commit(lambda: called.append("after"))
        await uow.take_revision()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await database.transact(fail)
    async with database.read() as reading:
        assert await reading.read_revision() == 0
    assert called == []


async def test_a_cancelled_caller_does_not_tear_its_transaction(database: Database) -> None:
    """The transaction of a call whose client went away commits; the next one does not wait for a broken connection."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work(uow: UnitOfWork) -> None:
        uow.change(ChangeKind.CUSTOMER, "a")
        begun.set()
        await may_end.wait()

    calling = asyncio.create_task(database.transact(work))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    may_end.set()
    # It goes on in a task that nobody waits for.
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=5)
    async with database.begin() as uow:
        assert await uow.read_revision() == 1


async def test_a_failure_that_no_caller_hears_is_logged_once(
    database: Database, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cut connection under a cancelled call is a warning, not an unretrieved exception of a task nobody knows."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work(_: UnitOfWork) -> None:
        begun.set()
        await may_end.wait()
        raise ConnectionResetError("cut")

    calling = asyncio.create_task(database.transact(work))
    await begun.wait()
    calling.cancel()
    await asyncio.wait([calling])
    may_end.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=5)
    gc.collect()
    await asyncio.sleep(0)
    assert not caplog.records
    assert capsys.readouterr().out.count("transaction of a cancelled call failed") == 1


async def test_revisions_are_committed_in_order(database: Database) -> None:
    """With many committers at once, whoever reads revision n finds the feed of every revision up to n."""
    seen: list[tuple[int, int]] = []
    done = asyncio.Event()

    async def commit(number: int) -> None:
        async with database.begin() as uow:
            uow.change(ChangeKind.CUSTOMER, f"c{number}")
            await asyncio.sleep(0)

    async def follow() -> None:
        while not done.is_set():
            async with database.read() as uow:
                revision = await uow.read_revision()
                rows = (await uow.connection.execute(select(feed.c.revision).distinct())).all()
                seen.append((revision, len(rows)))

    follower = asyncio.create_task(follow())
    await asyncio.gather(*(commit(number) for number in range(60)))
    done.set()
    await follower
    assert all(revision == rows for revision, rows in seen)
    async with database.read() as uow:
        assert await uow.read_revision() == 60


async def test_without_a_clock_the_database_tells_the_time(database_url: str) -> None:
    """`now` without an injected clock lies within a minute of this machine's time, and has a time zone."""
    database = Database(create_engine(database_url))
    async with database.read() as uow:
        assert abs((uow.now - system_now()).total_seconds()) < 60
    await database.close()


async def test_closing_waits_for_what_a_cancelled_caller_left_running(database_url: str) -> None:
    """The shielded work ends before its connection's pool is gone: nothing is cut off, and none is left open."""
    database = Database(create_engine(database_url))
    is_open: set[object] = set()
    event.listen(database.engine.sync_engine.pool, "connect", lambda connection, _: is_open.add(connection))
    event.listen(database.engine.sync_engine.pool, "close", lambda connection, _: is_open.remove(connection))
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(uow: UnitOfWork) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        await uow.connection.execute(text("SELECT 1"))
        ended.set()

    caller = asyncio.create_task(database.transact(slow))
    await begun.wait()
    caller.cancel()
    await asyncio.wait([caller])
    await database.close()
    assert ended.is_set()
    assert not is_open
