"""Moving existing subscriptions to another catalog revision, in the transaction that publishes it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update

from control_plane.catalog.tables import plan_versions
from control_plane.customers.consequences import customer_changed
from control_plane.customers.tables import customers
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.subscriptions.records import get_subscription, pin
from control_plane.subscriptions.tables import subscriptions
from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import SubscriptionState


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of running subscriptions: how many moved; which could not, their plan or add-on being gone."""

    subscriptions: int
    unmovable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Staying:
    """How many running subscriptions stay on a version of a plan."""

    plan: str
    plan_version: int
    subscriptions: int


async def lock_all_customers(uow: UnitOfWork) -> Sequence[str]:
    """Every customer with a subscription, locked in the order of the ids: nothing of them changes until the commit."""
    locked = await uow.connection.execute(
        select(customers.c.id)
        .where(customers.c.id.in_(select(subscriptions.c.customer_id)))
        .order_by(customers.c.id)
        .with_for_update()
    )
    return locked.scalars().all()


async def move_all(uow: UnitOfWork, catalog: Catalog, revision: int, customer_ids: Sequence[str]) -> Moved:
    """Pins what these customers have running to `revision`, and lets everything follow that follows from it."""
    moved, unmovable = 0, []
    for customer_id in customer_ids:
        rows = await uow.connection.execute(
            select(subscriptions)
            .where(subscriptions.c.customer_id == customer_id, _running(uow.now))
            .order_by(subscriptions.c.id)
        )
        before = moved
        for row in rows.all():
            if row.plan not in catalog.plans or not set(row.add_ons) <= set(catalog.add_ons):
                unmovable.append(row.id)
                continue
            await uow.connection.execute(
                update(subscriptions)
                .where(subscriptions.c.id == row.id)
                .values(catalog_revision=revision, version=row.version + 1)
            )
            await pin(uow, await get_subscription(uow, row.id), from_at=uow.now)
            moved += 1
        if moved > before:
            await customer_changed(uow, customer_id)
    return Moved(moved, tuple(unmovable))


async def find_staying(uow: UnitOfWork, revision: int) -> Sequence[Staying]:
    """What is running and not pinned to `revision`, by plan and by the version of it that its own revision means."""
    pinned = (
        select(subscriptions.c.plan, subscriptions.c.catalog_revision, func.count().label("subscriptions"))
        .where(subscriptions.c.catalog_revision != revision, _running(uow.now))
        .group_by(subscriptions.c.plan, subscriptions.c.catalog_revision)
        .subquery()
    )
    meant = (
        select(func.max(plan_versions.c.version))
        .where(
            plan_versions.c.plan == pinned.c.plan,
            plan_versions.c.catalog_revision <= pinned.c.catalog_revision,
        )
        .scalar_subquery()
    )
    sums: Counter[tuple[str, int]] = Counter()
    for plan, version, count in await uow.connection.execute(
        select(pinned.c.plan, meant, pinned.c.subscriptions)
    ):
        sums[plan, version] += count
    return [Staying(plan, version, sums[plan, version]) for plan, version in sorted(sums)]


def _running(now: datetime) -> ColumnElement[bool]:
    """Neither canceled nor over."""
    ends_at = subscriptions.c.ends_at
    return (subscriptions.c.state != SubscriptionState.CANCELED.value) & (ends_at.is_(None) | (ends_at > now))
