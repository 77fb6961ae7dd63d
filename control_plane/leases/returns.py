"""Returns: each is applied once, by its uid, to whatever state its lease is in."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import insert, select, tuple_

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.rows import LeaseRow
from control_plane.leases.settle import Freed
from control_plane.leases.tables import lease_returns
from control_plane.ledger.holding import IN_LIST


class Uid(NamedTuple):
    """Names a record of an outbox for good."""

    outbox_id: str
    incarnation_id: str
    seq: int

    def __str__(self) -> str:
        return f"{self.outbox_id}/{self.incarnation_id}/{self.seq}"


class Return(NamedTuple):
    """So much of a lease comes back. `cause`: `return` by its holder; `duplicate`, `conflict`, `counted`: it
    had been charged already.
    """

    uid: Uid
    lease_id: str
    amount: int
    cause: str = "return"


async def apply_returns(
    uow: UnitOfWork, freed: Freed, leases: Mapping[str, LeaseRow], returns: Sequence[Return]
) -> list[LeaseRow]:
    """Gives back what was not given back under the same uid before; answers the leases that changed.

    Leases and their balances are locked, their grants loaded. At most what is unsettled comes back.
    """
    done = await _applied(uow, returns)
    changed: dict[str, LeaseRow] = {}
    rows = []
    for item in returns:
        lease = leases.get(item.lease_id)
        if lease is None or (item.uid, item.lease_id) in done:
            continue
        done.add((item.uid, item.lease_id))
        amount = min(item.amount, lease.unsettled)
        if amount > 0:
            freed.give_back(lease, amount)
            changed[lease.id] = lease
        rows.append(
            {
                "outbox_id": item.uid.outbox_id,
                "incarnation_id": item.uid.incarnation_id,
                "seq": item.uid.seq,
                "lease_id": item.lease_id,
                "amount": amount,
                "cause": item.cause,
                "recorded_at": uow.now,
            }
        )
    if rows:
        await uow.connection.execute(insert(lease_returns), rows)
    return list(changed.values())


async def _applied(uow: UnitOfWork, returns: Iterable[Return]) -> set[tuple[Uid, str]]:
    table = lease_returns.c
    keys = [(*item.uid, item.lease_id) for item in returns]
    found: set[tuple[Uid, str]] = set()
    for start in range(0, len(keys), IN_LIST // 4):
        part = keys[start : start + IN_LIST // 4]
        columns = (table.outbox_id, table.incarnation_id, table.seq, table.lease_id)
        query = select(*columns).where(tuple_(*columns).in_(part))
        for outbox_id, incarnation_id, seq, lease_id in await uow.connection.execute(query):
            found.add((Uid(outbox_id, incarnation_id, seq), lease_id))
    return found
