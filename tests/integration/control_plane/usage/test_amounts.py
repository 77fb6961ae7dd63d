"""Amounts near the end of 63 bits, on both databases: a dead letter says why; no sum is wrong, and nothing stops."""

import pytest

from control_plane.db.unit_of_work import Database
from control_plane.ledger.balances import standings
from control_plane.usage.dead_letters import list_dead_letters
from purser.v1 import usage_pb2 as usage
from sidecar.engine.values import MAX_AMOUNT
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import Holder, check_books
from tests.integration.control_plane.setting import make_subscriber, publish_text

CATALOG = """\
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  bytes: {event: call, aggregate: sum, of: [size]}
features:
  api:   {type: metered, meter: bytes}
  seats: {type: gauge}
plans:
  pro: {entitlements: {api: {limit: 1000, every: P1M, overage: allow}, seats: {limit: 2}}}
"""
HUGE = "6000000000000"
"""At scale 6 more than half of what fits."""


async def begun(database: Database) -> Holder:
    await publish_text(database, CATALOG)
    await make_subscriber(database, "acme", "pro")
    holder = Holder(database)
    await holder.open()
    return holder


async def reasons(database: Database) -> list[str]:
    async with database.read() as uow:
        return [one["message"] for one in await list_dead_letters(uow)]


async def used(database: Database, balance: str) -> int:
    async with database.read() as uow:
        (found,) = [one for one in await standings(uow, "acme") if one.row.name == balance]
        return found.used


@pytest.mark.parametrize("together", [True, False])
async def test_usage_that_would_not_fit_is_a_dead_letter(
    database: Database, clock: SteppedClock, together: bool
) -> None:
    """Two facts that fit one by one and not both: the first is booked, the second is kept with its reason; what
    comes after them is booked.
    """
    holder = await begun(database)
    for size in (HUGE, HUGE, "7"):
        holder.report_fact("acme", at=clock(), measures={"size": size})
        clock.advance(seconds=1)
        if not together:
            await holder.upload(holder.last_seq)
    if together:
        await holder.upload()
    assert await reasons(database) == ["what is used of allowance:api of acme would not fit 63 bits"]
    assert await used(database, "allowance:api") == 6_000_000_000_007_000_000 <= MAX_AMOUNT
    await check_books(database)


async def test_holders_that_would_not_fit_are_dead_letters(database: Database, clock: SteppedClock) -> None:
    """What all holders of a gauge hold fits as well."""
    holder = await begun(database)
    for who in ("ann", "bob", "cleo"):
        holder.report_fact(
            "acme",
            at=clock(),
            name="seat",
            holder_id=who,
            gauge_change=usage.GAUGE_CHANGE_SET,
            gauge_feature="seats",
            measures={"quantity": "1" if who == "cleo" else "6000000000000000000"},
        )
    await holder.upload()
    assert await reasons(database) == ["what is held of gauge:seats of acme would not fit 63 bits"]
    assert await used(database, "gauge:seats") == 6_000_000_000_000_000_001
