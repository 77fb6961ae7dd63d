"""What only the control plane can decide, besides gauges: meters that aggregate by `max` or `latest`. Their
balances are locked.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, insert, select, update

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


async def judge(
    uow: UnitOfWork, *, balance_id: str, spec: BalanceSpec, value: int, at: datetime, limit: int | None
) -> Verdict:
    """May a `max` or `latest` meter see this value: does it stay within `limit`, or raise nothing? Nothing is written:
    what stands is what is booked, and an event that nobody writes raises nothing for ever.
    """
    row = await _read(uow, balance_id, _window(spec, at))
    by_max = _by_max(spec)
    standing = 0 if row is None else (row.highest if by_max else row.latest)
    if by_max and value <= standing:
        return Verdict(allowed=True, used=standing)
    allowed = limit is None or value <= limit
    return Verdict(allowed=allowed, used=value if allowed else standing)


async def note(
    uow: UnitOfWork, *, balance_id: str, spec: BalanceSpec, value: int, at: datetime, key: str
) -> None:
    """Books a value of such a meter in its window, in whatever order values come."""
    window = _window(spec, at)
    row = await _read(uow, balance_id, window)
    values: dict[str, Any] = {"highest": max(value, 0 if row is None else row.highest)}
    if row is None or (at, key) > (row.latest_at, row.latest_key):
        values |= {"latest": value, "latest_at": at, "latest_key": key}
    if row is None:
        new = {"balance_id": balance_id, "window": window, **values}
        await uow.connection.execute(insert(peaks), [new])
    else:
        where = (peaks.c.balance_id == balance_id) & (peaks.c.window == window)
        await uow.connection.execute(update(peaks).where(where).values(values))


def _by_max(spec: BalanceSpec) -> bool:
    assert spec.meter is not None, "only a metered balance has peaks"
    return spec.meter.aggregate is Aggregate.MAX


def _window(spec: BalanceSpec, at: datetime) -> str:
    return spec.period.window(at).start.isoformat() if spec.period is not None else ""


async def _read(uow: UnitOfWork, balance_id: str, window: str) -> Row[Any] | None:
    where = (peaks.c.balance_id == balance_id) & (peaks.c.window == window)
    return (await uow.connection.execute(select(peaks).where(where))).first()
