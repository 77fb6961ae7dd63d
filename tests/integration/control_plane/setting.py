"""What tests of the control plane begin with: a catalog, customers, subscriptions."""

from datetime import datetime
from typing import Any

from control_plane.catalog.publish import Move, Published, publish, read_draft
from control_plane.customers.records import NewCustomer, create_customer
from control_plane.db.unit_of_work import Database
from control_plane.subscriptions.records import NewSubscription, SubscriptionRow, create_subscription

CATALOG = """\
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  calls: {event: call, aggregate: count}
rate_cards:
  api: {event: call, unit: credit, prices: [{dimension: size, per: 1, price: "0.5"}]}
features:
  api: {type: metered, meter: calls, rate_card: api}
  sso: {type: switch}
  seats: {type: gauge}
plans:
  free: {entitlements: {api: {limit: 100, every: P1M}}}
  pro: {entitlements: {api: {limit: 1000, every: P1M}, sso: true, seats: {limit: 5}}}
  trial: {trial: P14D, entitlements: {sso: true}}
  paid: {entitlements: {api: {spends: credit}}}
add_ons:
  extra: {entitlements: {seats: {limit: 10}}}
"""


async def publish_text(database: Database, text: str = CATALOG, move: Move = Move.NONE) -> Published:
    draft = read_draft(text.encode())
    return await database.transact(lambda uow: publish(uow, draft, move))


async def make_customer(database: Database, customer_id: str, parent_id: str | None = None) -> None:
    new = NewCustomer(customer_id=customer_id, parent_id=parent_id, external_ids={})
    async with database.begin() as uow:
        await create_customer(uow, new)


async def subscribe(
    database: Database, customer_id: str, plan: str = "free", **other: Any
) -> SubscriptionRow:
    """A customer with a subscription `sub_<customer>`; the customer is made if need be."""
    values: dict[str, Any] = {
        "subscription_id": f"sub_{customer_id}",
        "add_ons": (),
        "starts_at": None,
        "ends_at": None,
        "anchor_at": None,
        "trial_ends_at": None,
        "state": None,
        "on_past_due": "",
        "external_ids": {},
    }
    new = NewSubscription(customer_id=customer_id, plan=plan, **(values | other))
    async with database.begin() as uow:
        return await create_subscription(uow, new)


async def make_subscriber(
    database: Database, customer_id: str, plan: str = "free", **other: datetime
) -> SubscriptionRow:
    await make_customer(database, customer_id)
    return await subscribe(database, customer_id, plan, **other)
