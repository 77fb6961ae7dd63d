"""How the balances of many customers stand. What can not be read of one is that one's trouble, and nobody else's."""

from collections.abc import Collection, Mapping, Sequence

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.faults import Faults, is_connection_lost
from control_plane.ledger.balances import hints
from purser.sync.v1.session_pb2 import BalanceHint


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
