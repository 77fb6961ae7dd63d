"""Moving existing subscriptions to another catalog revision, in the transaction that publishes it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update

from control_plane.customers.consequences import customer_changed
from control_plane.customers.tables import customers
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.subscriptions.records import get_subscription, pin
from control_plane.subscriptions.tables import subscriptions
from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import SubscriptionState


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of running subscriptions: how many moved; which stayed, their plan or add-on being gone."""

    subscriptions: int
    stayed: tuple[str, ...]


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
    moved, stayed = 0, []
    for customer_id in customer_ids:
        rows = await uow.connection.execute(
            select(subscriptions)
            .where(subscriptions.c.customer_id == customer_id)
            .order_by(subscriptions.c.id)
        )
        before = moved
        for row in rows.all():
            if row.state == SubscriptionState.CANCELED or (
                row.ends_at is not None and row.ends_at <= uow.now
            ):
                continue
            if row.plan not in catalog.plans or not set(row.add_ons) <= set(catalog.add_ons):
                stayed.append(row.id)
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
    return Moved(moved, tuple(stayed))
