"""What changes between a look and its lock: the record is booked all the same. On PostgreSQL, where that can be."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import pytest
from sqlalchemy import text

from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.leases.quarantine import sweep_leases
from control_plane.leases.rows import read_leases, update_leases
from control_plane.leases.settings import LeaseSettings, QuarantinePolicy
from control_plane.leases.settle import Freed
from control_plane.leases.tables import leases
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id
from control_plane.usage.dead_letters import count_dead_letters
from purser.sync.v1 import usage_pb2 as sync
from sidecar.engine.values import BalanceRef
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books, ref
from tests.integration.control_plane.leases.test_acquire import prepaid
from tests.integration.control_plane.usage.test_report import counted

WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def while_it_waits(
    database: Database,
    first: Callable[[UnitOfWork], Awaitable[object]],
    then: Callable[[], Coroutine[None, None, sync.ReportBatchResponse]],
) -> sync.ReportBatchResponse:
    """Does the first in a transaction that commits once the second waits for what it has locked."""
    async with database.begin() as uow:
        await first(uow)
        waiting = asyncio.create_task(then())
        async with asyncio.timeout(10):
            while not (await uow.connection.execute(WAITING)).scalar_one():
                assert not waiting.done(), waiting.result()
                await asyncio.sleep(0)
    return await waiting


@pytest.mark.parametrize("policy", QuarantinePolicy)
async def test_a_lease_that_is_presumed_or_released_meanwhile(
    postgres_database: Database, clock: SteppedClock, policy: QuarantinePolicy
) -> None:
    """Its usage arrives at the very moment in which the sweep gives up waiting: it is booked, and no dead letter."""
    database = postgres_database
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    holder.consume(ref("acme"), (lease, 40), at=clock())
    settings = LeaseSettings(quarantine_policy=policy)
    clock.advance(minutes=10)
    await database.transact(lambda uow: sweep_leases(uow, settings))
    clock.advance(days=2)

    answer = await while_it_waits(database, lambda uow: sweep_leases(uow, settings), holder.upload)
    assert not answer.dead_letters
    async with database.read() as uow:
        assert await count_dead_letters(uow) == 0
    assert await counted(database) == {"usage:api": 40}
    await check_books(database)


async def test_a_lease_that_is_given_back_meanwhile(postgres_database: Database, clock: SteppedClock) -> None:
    """More comes back than its holder should have given: what the lease has no more is booked as a fact."""
    database = postgres_database
    await prepaid(database)
    holder = Holder(database)
    await holder.open()
    lease = (await holder.acquire(ref("acme"), 100)).leases[0].lease_id
    holder.consume(ref("acme"), (lease, 40), at=clock())

    async def give_back(uow: UnitOfWork) -> None:
        vault = Vault(uow)
        await vault.lock([balance_id(BalanceRef("acme", "", "wallet:credit"))])
        found = await read_leases(uow, leases.c.id == lease)
        freed = Freed(vault)
        await freed.load(found.values())
        freed.give_back(found[lease], 90)
        await update_leases(uow, list(found.values()))
        await vault.save()

    answer = await while_it_waits(database, give_back, holder.upload)
    assert not answer.dead_letters
    assert await counted(database) == {"usage:api": 40}
    await check_books(database)
