"""What only the control plane can decide: gauges, and meters that aggregate by `max` or `latest`. Their
balances are locked.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, insert, select, update

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import gauge_holders, peaks
from sidecar.engine.catalog import Aggregate, OveragePolicy
from sidecar.engine.entitlement import BalanceSpec

NOTHING_MORE: Final = -1
"""A limit that blocks all adding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """May it go ahead, and what stands in the books after it."""

    allowed: bool
    used: int


def most(spec: BalanceSpec) -> int | None:
    """The most that may be held or reached, a soft limit's cap included. None: no end."""
    if spec.limit is None or spec.overage is OveragePolicy.ALLOW:
        return None
    return spec.limit + (spec.cap if spec.overage is OveragePolicy.ALLOW_UP_TO else 0)


async def change_holder(
    uow: UnitOfWork,
    *,
    balance_id: str,
    holder_id: str,
    quantity: int,
    adds: bool,
    at: datetime,
    key: str,
    limit: int | None,
) -> Verdict:
    """Lets a holder hold `quantity` (`adds`: at least that much). The change with the greatest (at, key)
    stands.

    A repeat, or one that is older than what stands, changes nothing and is allowed. `limit` blocks only
    adding.
    """
    connection = uow.connection
    used = await held(uow, balance_id)
    query = select(gauge_holders).where(
        gauge_holders.c.balance_id == balance_id, gauge_holders.c.holder_id == holder_id
    )
    row = (await connection.execute(query)).first()
    if row is not None and (at, key) <= (row.occurred_at, row.event_key):
        return Verdict(allowed=True, used=used)
    before = row.quantity if row is not None else 0
    after = max(before, quantity) if adds else quantity
    if after > before and limit is not None and used - before + after > limit:
        return Verdict(allowed=False, used=used)
    values = {"quantity": after, "occurred_at": at, "event_key": key}
    if row is None:
        await connection.execute(
            insert(gauge_holders), [{"balance_id": balance_id, "holder_id": holder_id, **values}]
        )
    else:
        mine = (gauge_holders.c.balance_id == balance_id) & (gauge_holders.c.holder_id == holder_id)
        await connection.execute(update(gauge_holders).where(mine).values(values))
    return Verdict(allowed=True, used=used - before + after)


async def held(uow: UnitOfWork, balance_id: str) -> int:
    """What all holders of a gauge hold."""
    query = select(func.coalesce(func.sum(gauge_holders.c.quantity), 0)).where(
        gauge_holders.c.balance_id == balance_id
    )
    return int((await uow.connection.execute(query)).scalar_one())


async def reach(
    uow: UnitOfWork,
    *,
    balance_id: str,
    spec: BalanceSpec,
    value: int,
    at: datetime,
    key: str,
    limit: int | None,
) -> Verdict:
    """Notes a value of a `max` or `latest` meter in its window, if it stays within `limit` or raises
    nothing.
    """
    assert spec.meter is not None, "only a metered balance has peaks"
    window = spec.period.window(at).start.isoformat() if spec.period is not None else ""
    connection = uow.connection
    where = (peaks.c.balance_id == balance_id) & (peaks.c.window == window)
    row = (await connection.execute(select(peaks).where(where))).first()
    by_max = spec.meter.aggregate is Aggregate.MAX
    highest = row.highest if row is not None else 0
    standing = 0 if row is None else (row.highest if by_max else row.latest)
    raises = value > highest if by_max else True
    if raises and limit is not None and value > limit:
        return Verdict(allowed=False, used=standing)
    newer = row is None or (at, key) > (row.latest_at, row.latest_key)
    highest = max(highest, value)
    latest = value if newer or row is None else row.latest
    values = {
        "highest": highest,
        "latest": latest,
        "latest_at": at if newer or row is None else row.latest_at,
        "latest_key": key if newer or row is None else row.latest_key,
    }
    if row is None:
        await connection.execute(insert(peaks), [{"balance_id": balance_id, "window": window, **values}])
    else:
        await connection.execute(update(peaks).where(where).values(values))
    return Verdict(allowed=True, used=highest if by_max else latest)
