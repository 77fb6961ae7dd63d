"""Publishing a catalog, on both databases."""

from datetime import timedelta

import pytest

from control_plane.catalog.publish import Move, publish, read_draft
from control_plane.catalog.revisions import current_revision, get_revision, list_revisions, plan_version
from control_plane.catalog.text import BadText
from control_plane.customers.entitled import at_instant, load
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.errors import Invalid
from control_plane.subscriptions.moves import Staying
from sidecar.engine.entitlement import Entitlements
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.setting import CATALOG, make_subscriber, publish_text, subscribe

LOWER = CATALOG.replace("limit: 100,", "limit: 7,")


def limit_of(entitlements: Entitlements) -> int | None:
    """The limit of the first allowance of `api`, in calls."""
    return entitlements.features["api"].allowances[0].limit


async def test_a_revision_is_numbered_by_what_published_it(database: Database) -> None:
    """The catalog revision's number is the revision of the transaction, and it reads back as it was sent."""
    published = await publish_text(database)
    assert published.revision == 1
    assert published.versions == {"free": 1, "pro": 1, "trial": 1, "paid": 1}
    async with database.read() as uow:
        assert await uow.read_revision() == 1
        assert await current_revision(uow) == 1
        assert (await get_revision(uow, 1)).source == CATALOG
        assert [row.revision for row in await list_revisions(uow, before=99, limit=10)] == [1]


async def test_a_plan_gets_a_version_only_when_its_meaning_changes(database: Database) -> None:
    """Reformatting makes no version; another limit makes one, of that plan alone."""
    await publish_text(database)
    assert (
        await publish_text(
            database, CATALOG.replace("{limit: 100, every: P1M}", '{every: P1M, limit: "100"}')
        )
    ).versions == {}
    published = await publish_text(database, LOWER)
    assert published.versions == {"free": 2}
    async with database.read() as uow:
        assert await plan_version(uow, "free", 2) == 1
        assert await plan_version(uow, "free", 3) == 2
        assert await plan_version(uow, "gone", 3) == 0


async def test_existing_subscriptions_stay_unless_moved(database: Database, clock: SteppedClock) -> None:
    """Without move the old limit stays; with `all` the new one is in force in the same transaction."""
    await publish_text(database)
    await make_subscriber(database, "acme")
    assert (await publish_text(database, LOWER)).moved.subscriptions == 0
    async with database.read() as uow:
        assert limit_of(await load(uow, "acme", uow.now)) == 100
    clock.advance(seconds=1)
    published = await publish_text(database, LOWER, Move.ALL)
    assert (published.moved.subscriptions, published.moved.unmovable) == (1, ())
    async with database.read() as uow:
        assert limit_of(await load(uow, "acme", uow.now)) == 7
        assert limit_of(await at_instant(uow, "acme", uow.now - timedelta(seconds=1))) == 100


async def test_a_subscription_stays_when_its_plan_is_gone(database: Database) -> None:
    """A plan that the new catalog does not have is kept by those who are on it, and the answer names them."""
    await publish_text(database)
    await make_subscriber(database, "acme")
    await make_subscriber(
        database,
        "bolt",
        "pro",
    )
    without = "\n".join(line for line in CATALOG.splitlines() if not line.startswith("  free:"))
    published = await publish_text(database, without, Move.ALL)
    assert published.moved.unmovable == ("sub_acme",)
    assert published.moved.subscriptions == 1
    async with database.read() as uow:
        assert limit_of(await load(uow, "acme", uow.now)) == 100


async def test_who_stays_is_counted_by_plan_and_version(database: Database, clock: SteppedClock) -> None:
    """By what each one's own revision means, whichever that is; what has ended or was canceled is not counted."""
    await publish_text(database)
    await make_subscriber(database, "acme")
    await make_subscriber(database, "gone", ends_at=clock() + timedelta(seconds=1))
    await publish_text(database, f"{CATALOG}\n")
    await make_subscriber(database, "bolt")
    await make_subscriber(database, "cora", "pro")
    clock.advance(seconds=1)
    assert (await publish_text(database, LOWER)).staying == [Staying("free", 1, 2), Staying("pro", 1, 1)]
    await make_subscriber(database, "dora")
    again = await publish_text(database, CATALOG.replace("limit: 100,", "limit: 8,"))
    assert again.staying == [Staying("free", 1, 2), Staying("free", 2, 1), Staying("pro", 1, 1)]
    moved = await publish_text(database, LOWER, Move.ALL)
    assert (moved.moved.subscriptions, moved.staying) == (4, [])


async def test_ended_subscriptions_do_not_move(database: Database, clock: SteppedClock) -> None:
    """What has ended keeps the revision that it ended with."""
    await publish_text(database)
    await make_subscriber(database, "acme", ends_at=clock() + timedelta(seconds=1))
    clock.advance(seconds=1)
    assert (await publish_text(database, LOWER, Move.ALL)).moved.subscriptions == 0


async def test_a_failed_publish_leaves_no_catalog_behind(database: Database) -> None:
    """A revision's number that was rolled back comes again, with another catalog: no cache remembers the first."""
    await publish_text(database)
    await make_subscriber(database, "acme")
    draft = read_draft(LOWER.encode())

    class Stop(Exception):
        pass

    async def fail(uow: UnitOfWork) -> None:
        await publish(uow, draft, Move.ALL)
        assert limit_of(await load(uow, "acme", uow.now)) == 7
        raise Stop

    with pytest.raises(Stop):
        await database.transact(fail)
    async with database.read() as uow:
        assert limit_of(await load(uow, "acme", uow.now)) == 100
    other = CATALOG.replace("limit: 100,", "limit: 8,")
    await publish_text(database, other, Move.ALL)
    async with database.read() as uow:
        assert limit_of(await load(uow, "acme", uow.now)) == 8


async def test_a_subscription_needs_names_of_the_catalog(database: Database) -> None:
    """A plan or add-on that is not in the newest catalog is refused, each by its field."""
    await publish_text(database)
    await make_subscriber(database, "acme")
    with pytest.raises(Invalid) as caught:
        await subscribe(database, "acme", "gold", subscription_id="other", add_ons=("extra", "more"))
    assert [problem.field for problem in caught.value.problems] == ["plan", "add_ons[1]"]


def test_every_problem_has_its_place_and_mend() -> None:
    """All that is wrong with a catalog is said at once: line, column, what, mend."""
    bad = (
        CATALOG.replace("limit: 100,", "limit: -1,")
        .replace("scale: 3}", "scale: many}")
        .replace("add_ons:", "adds_on:")
    )
    with pytest.raises(BadText) as caught:
        read_draft(bad.encode())
    lines = [problem.at.line for problem in caught.value.problems]
    assert {3, 13, 17} <= set(lines)
    assert lines == sorted(lines)
    assert all(problem.what and problem.mend and problem.at.column > 0 for problem in caught.value.problems)
