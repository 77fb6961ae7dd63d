"""What only the control plane can decide, besides gauges: meters that aggregate by `max` or `latest`. Their
balances are locked.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import insert, select, update

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.gauges import Verdict
from control_plane.leases.tables import peaks
from sidecar.engine.catalog import Aggregate, OveragePolicy
from sidecar.engine.entitlement import BalanceSpec

NOTHING_MORE: Final = -1
"""A limit that blocks all adding."""


def most(spec: BalanceSpec) -> int | None:
    """The most that may be held or reached, a soft limit's cap included. None: no end."""
    if spec.limit is None or spec.overage is OveragePolicy.ALLOW:
        return None
    return spec.limit + (spec.cap if spec.overage is OveragePolicy.ALLOW_UP_TO else 0)


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
