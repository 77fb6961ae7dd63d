"""How the balances of many customers stand. What can not be read of one is that one's trouble, and nobody else's."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select

from control_plane.customers.tables import customers
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.faults import Faults, is_connection_lost
from control_plane.ledger.balances import changed_since, hints
from purser.sync.v1.session_pb2 import BalanceHint

OVERLAP: Final = timedelta(seconds=5)
"""A transaction may commit so long after its instant, and its balances are still heard of."""


async def missed_hints(
    uow: UnitOfWork, followed: Collection[str], since: datetime
) -> Mapping[str, Sequence[BalanceHint]]:
    """What a follower that was away since then has not heard: the balances, by customer, of those it follows where its
    own or its parent's may have changed.
    """
    if not followed:
        return {}
    query = select(customers.c.id, customers.c.parent_id).where(among(customers.c.id, followed))
    parents: dict[str, str | None] = {row.id: row.parent_id for row in await uow.connection.execute(query)}
    named = parents.keys() | {parent for parent in parents.values() if parent}
    changed = await changed_since(uow, since - OVERLAP, named)
    return await hints_of(
        uow, [name for name, parent in parents.items() if name in changed or parent in changed]
    )


async def hints_of(uow: UnitOfWork, customer_ids: Collection[str]) -> Mapping[str, Sequence[BalanceHint]]:
    """By customer; one whose balances can not be read is left out, counted and logged."""
    if not customer_ids:
        return {}
    names = sorted(customer_ids)
    try:
        # PostgreSQL does nothing more in a transaction in which a statement has failed, but for a savepoint's rollback.
        async with uow.connection.begin_nested():
            return {name: await hints(uow, name) for name in names}
    except Exception as error:
        if is_connection_lost(error):
            raise
        if len(names) == 1:
            uow.kept(Faults).set_apart("hints", customer_id=names[0])
            return {}
    middle = len(names) // 2
    return {**await hints_of(uow, names[:middle]), **await hints_of(uow, names[middle:])}
