"""What a balance counts in stays for good, on both databases: a catalog can not change what amounts are worth."""

import pytest

from control_plane.catalog.publish import Move
from control_plane.catalog.revisions import current_revision
from control_plane.catalog.text import BadText
from control_plane.db.unit_of_work import Database
from tests.integration.control_plane.setting import CATALOG, publish_text

UNIT = ("kind: credit, scale: 3", "kind: credit, scale: 0")
METER = ("calls: {event: call, aggregate: count}", "calls: {event: call, aggregate: sum, of: [size]}")
OTHER_METER = (
    "calls: {event: call, aggregate: count}",
    "calls: {event: call, aggregate: count}\n  sizes: {event: call, aggregate: sum, of: [size]}",
)


async def refused(database: Database, text: str) -> list[str]:
    """The paths of the problems that a text is refused with; nothing has changed."""
    async with database.read() as uow:
        before = await current_revision(uow)
    with pytest.raises(BadText) as caught:
        await publish_text(database, text, Move.ALL)
    async with database.read() as uow:
        assert await current_revision(uow) == before
    assert all(problem.mend and problem.at.line > 1 for problem in caught.value.problems)
    return [problem.path for problem in caught.value.problems]


async def test_a_unit_keeps_its_scale(database: Database) -> None:
    """1,000 credits in thousandths would be a million whole ones: refused where it stands, with the mend."""
    await publish_text(database)
    assert await refused(database, CATALOG.replace(*UNIT)) == ["units.credit.scale"]


async def test_a_unit_that_was_away_keeps_its_scale(database: Database) -> None:
    """Left out and put in again with other digits is as bad: balances in it were there all the time."""
    await publish_text(database)
    renamed = CATALOG.replace("credit: {name: credit", "token: {name: token").replace(
        "unit: credit", "unit: token"
    )
    renamed = renamed.replace("spends: credit", "spends: token")
    await publish_text(database, renamed)
    assert await refused(database, CATALOG.replace(*UNIT)) == ["units.credit.scale"]
    await publish_text(database)


async def test_a_meter_keeps_what_it_counts_in(database: Database) -> None:
    """From counting to summing: the meter, and the allowances that are counted by it, would mean something else."""
    await publish_text(database)
    paths = await refused(database, CATALOG.replace(*METER))
    assert paths == ["meters.calls", "plans.free.entitlements.api", "plans.pro.entitlements.api"]


async def test_an_allowance_keeps_the_digits_of_its_meter(database: Database) -> None:
    """Another meter for a feature is fine as long as it counts in the same digits; two plans must agree, too."""
    await publish_text(database)
    text = CATALOG.replace(*OTHER_METER).replace(
        "api: {limit: 100, every: P1M}", "api: {included: {meter: sizes, amount: 100, every: P1M}}"
    )
    assert await refused(database, text) == ["plans.free.entitlements.api"]
    same = text.replace("aggregate: sum, of: [size]", "aggregate: unique, of: [user]")
    assert (await publish_text(database, same)).versions == {"free": 2}
