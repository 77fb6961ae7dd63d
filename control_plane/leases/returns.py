"""Returns: each is applied once, by its uid, to whatever state its lease is in."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import bindparam, insert, select, update

from control_plane.db.bulk import read_by_keys
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.rows import LeaseRow
from control_plane.leases.settle import Freed
from control_plane.leases.tables import lease_returns
from purser.sync.v1 import session_pb2 as session


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

    Leases and their balances are locked, their grants loaded. At most what is unsettled comes back, and of a lease that
    was presented after a restore nothing that had been given back by then.
    """
    done, awaited = await _applied(uow, returns)
    before = dict(awaited)
    changed: dict[str, LeaseRow] = {}
    rows = []
    for item in returns:
        lease = leases.get(item.lease_id)
        if lease is None or (item.uid, item.lease_id) in done:
            continue
        done.add((item.uid, item.lease_id))
        again = 0
        if item.cause == "return":
            again = min(item.amount, awaited.get(_awaited_key(item), 0))
            awaited[_awaited_key(item)] = awaited.get(_awaited_key(item), 0) - again
        amount = min(item.amount - again, lease.unsettled)
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
    left = [(key, awaited[key]) for key in before if awaited[key] != before[key]]
    if left:
        await uow.connection.execute(
            _UPDATE_AWAITED,
            [{**_awaited_names(*key), "to_amount": amount} for key, amount in left],
        )
    return list(changed.values())


async def await_returns(uow: UnitOfWork, holder: session.Holder, returned: Mapping[str, int]) -> None:
    """Notes per new lease what had been given back of it before a restore: returns that come (again) are that, up to so
    much. It stands under the number 0, which no record has.
    """
    rows = [
        {
            "outbox_id": holder.outbox_id,
            "incarnation_id": holder.incarnation_id,
            "seq": _AWAITED_SEQ,
            "lease_id": lease_id,
            "amount": amount,
            "cause": "presented",
            "recorded_at": uow.now,
        }
        for lease_id, amount in returned.items()
        if amount > 0
    ]
    if rows:
        await uow.connection.execute(insert(lease_returns), rows)


_AWAITED_SEQ: Final = 0
_UPDATE_AWAITED: Final = (
    update(lease_returns)
    .where(
        lease_returns.c.outbox_id == bindparam("at_outbox_id"),
        lease_returns.c.incarnation_id == bindparam("at_incarnation_id"),
        lease_returns.c.seq == _AWAITED_SEQ,
        lease_returns.c.lease_id == bindparam("at_lease_id"),
    )
    .values(amount=bindparam("to_amount"))
)

_AwaitedKey = tuple[str, str, str]


def _awaited_key(item: Return) -> _AwaitedKey:
    return (item.uid.outbox_id, item.uid.incarnation_id, item.lease_id)


def _awaited_names(outbox_id: str, incarnation_id: str, lease_id: str) -> dict[str, str]:
    return {"at_outbox_id": outbox_id, "at_incarnation_id": incarnation_id, "at_lease_id": lease_id}


async def _applied(
    uow: UnitOfWork, returns: Iterable[Return]
) -> tuple[set[tuple[Uid, str]], dict[_AwaitedKey, int]]:
    """What was applied already; and what is awaited again after a restore."""
    table = lease_returns.c
    wanted = list(returns)
    keys = [(*item.uid, item.lease_id) for item in wanted]
    keys += {(*item.uid[:2], _AWAITED_SEQ, item.lease_id) for item in wanted}
    found: set[tuple[Uid, str]] = set()
    awaited: dict[_AwaitedKey, int] = {}
    columns = (table.outbox_id, table.incarnation_id, table.seq, table.lease_id)
    rows = await read_by_keys(uow.connection, select(*columns, table.amount), columns, keys)
    for outbox_id, incarnation_id, seq, lease_id, amount in rows:
        if seq == _AWAITED_SEQ:
            awaited[outbox_id, incarnation_id, lease_id] = amount
        else:
            found.add((Uid(outbox_id, incarnation_id, seq), lease_id))
    return found, awaited
