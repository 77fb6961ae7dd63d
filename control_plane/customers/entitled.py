"""What a customer is entitled to: `engine.Customer` assembled from rows, compiled, and kept while it holds."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from cachetools import LRUCache
from sqlalchemy import Row, or_, select

from control_plane.catalog.revisions import current_revision, read_catalogs, revision_at
from control_plane.customers.tables import customers, subjects
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.subscriptions.tables import subscription_pins, subscriptions
from sidecar.engine.customer import Customer, PastDuePolicy, Subscription, SubscriptionState
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.resolve import resolve

KEPT_CUSTOMERS = 20_000
ENDED_STAY = timedelta(days=40)
"""Ended subscriptions stay visible for so long: late facts are judged by them."""


class _Compiled(NamedTuple):
    """Holds in `[since, entitlements.valid_until)`."""

    since: datetime
    entitlements: Entitlements


class EntitledCache:
    """Compiled entitlements by all that they were computed from. The least recently used goes first."""

    def __init__(self) -> None:
        self.compiled: LRUCache[tuple[Customer, int], _Compiled] = LRUCache(KEPT_CUSTOMERS)


async def load(uow: UnitOfWork, customer_id: str, at: datetime) -> Entitlements:
    """What the customer is entitled to at that instant, by what this transaction sees.

    A customer that does not exist gets entitlements whose standing says so.
    """
    return (await load_all(uow, [customer_id], at))[customer_id]


async def load_all(
    uow: UnitOfWork, customer_ids: Collection[str], at: datetime
) -> Mapping[str, Entitlements]:
    """As `load`, for several, in as many statements as for one."""
    customers_ = await read_customers(uow, customer_ids)
    newest = await current_revision(uow)
    return {
        name: await compile_entitlements(uow, customer, newest, at) for name, customer in customers_.items()
    }


async def at_instant(uow: UnitOfWork, customer_id: str, occurred_at: datetime) -> Entitlements:
    """As `load`, by what the customer's subscriptions were pinned to at that instant: the way to judge a fact."""
    customer = (await read_customers(uow, [customer_id], pinned_at=occurred_at))[customer_id]
    return await compile_entitlements(uow, customer, await revision_at(uow, occurred_at), occurred_at)


async def revisions_of(uow: UnitOfWork, customer_ids: Collection[str]) -> set[int]:
    """Every catalog revision that these customers can have been entitled by: those of their pins, and the newest."""
    found = {await current_revision(uow)}
    pinned = (
        select(subscription_pins.c.catalog_revision)
        .join(subscriptions, subscriptions.c.id == subscription_pins.c.subscription_id)
        .where(among(subscriptions.c.customer_id, customer_ids))
        .distinct()
    )
    found.update((await uow.connection.execute(pinned)).scalars())
    return found


async def compile_entitlements(
    uow: UnitOfWork, customer: Customer, newest: int, at: datetime
) -> Entitlements:
    """Resolves the customer with `newest` as the current catalog revision, or finds that it was done already."""
    cache = uow.kept(EntitledCache).compiled
    key = (customer, newest)
    kept = cache.get(key)
    if kept is not None and kept.since <= at and _still_valid(kept.entitlements, at):
        return kept.entitlements
    revisions = {newest, *(subscription.catalog_revision for subscription in customer.subscriptions)}
    catalogs = await read_catalogs(uow, revisions)
    compiled = resolve(customer, catalogs, newest, at)
    if uow.revision not in revisions:  # else the catalog is not committed yet, and its number may come again
        cache[key] = _Compiled(at, compiled)
    return compiled


async def owners_of(uow: UnitOfWork, subject_ids: Collection[str]) -> dict[str, str]:
    """Whose each subject is; one that nobody has registered is not in the answer."""
    if not subject_ids:
        return {}
    rows = await uow.connection.execute(
        select(subjects.c.id, subjects.c.customer_id).where(among(subjects.c.id, subject_ids))
    )
    return {row.id: row.customer_id for row in rows}


async def read_customers(
    uow: UnitOfWork, customer_ids: Collection[str], *, pinned_at: datetime | None = None
) -> Mapping[str, Customer]:
    """Every one of these customers, those that do not exist included. `pinned_at`: as they were pinned then."""
    found: dict[str, Customer] = {}
    wanted = sorted(set(customer_ids))
    if not wanted:
        return found
    rows = (await uow.connection.execute(select(customers).where(among(customers.c.id, wanted)))).all()
    held = await _subscriptions(uow, [row.id for row in rows], pinned_at)
    for row in rows:
        suspended = row.suspended_at is not None and (pinned_at is None or row.suspended_at <= pinned_at)
        found[row.id] = Customer(
            customer_id=row.id,
            exists=True,
            parent_id=row.parent_id or "",
            suspended=suspended,
            subscriptions=tuple(held.get(row.id, ())),
        )
    return {name: found.get(name) or Customer(customer_id=name, exists=False) for name in wanted}


async def _subscriptions(
    uow: UnitOfWork, customer_ids: Sequence[str], pinned_at: datetime | None
) -> Mapping[str, Sequence[Subscription]]:
    held: defaultdict[str, list[Subscription]] = defaultdict(list)
    if not customer_ids:
        return held
    recent = uow.now - ENDED_STAY
    if pinned_at is not None:
        recent = min(recent, pinned_at)
    rows = await uow.connection.execute(
        select(subscriptions)
        .where(
            among(subscriptions.c.customer_id, customer_ids),
            or_(subscriptions.c.ends_at.is_(None), subscriptions.c.ends_at > recent),
        )
        .order_by(subscriptions.c.customer_id, subscriptions.c.starts_at, subscriptions.c.id)
    )
    for row in rows:
        held[row.customer_id].append(_subscription(row))
    return held if pinned_at is None else await _as_pinned(uow, held, pinned_at)


async def _as_pinned(
    uow: UnitOfWork, held: Mapping[str, Sequence[Subscription]], at: datetime
) -> Mapping[str, Sequence[Subscription]]:
    ids = [subscription.subscription_id for several in held.values() for subscription in several]
    pins: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in await uow.connection.execute(
        select(subscription_pins)
        .where(among(subscription_pins.c.subscription_id, ids))
        .order_by(subscription_pins.c.subscription_id, subscription_pins.c.from_at)
    ):
        pins[row.subscription_id].append(row)
    pinned: defaultdict[str, list[Subscription]] = defaultdict(list)
    for customer_id, several in held.items():
        for subscription in several:
            history = pins[subscription.subscription_id]
            # Before its first pin a subscription was what it began as.
            pin = next((row for row in reversed(history) if row.from_at <= at), history[0])
            pinned[customer_id].append(
                replace(
                    subscription,
                    plan=pin.plan,
                    catalog_revision=pin.catalog_revision,
                    state=SubscriptionState(pin.state),
                    past_due_since=pin.past_due_since,
                    add_ons=tuple(pin.add_ons),
                )
            )
    return pinned


def _subscription(row: Row[Any]) -> Subscription:
    return Subscription(
        subscription_id=row.id,
        plan=row.plan,
        catalog_revision=row.catalog_revision,
        state=SubscriptionState(row.state),
        starts_at=row.starts_at,
        anchor_at=row.anchor_at,
        ends_at=row.ends_at,
        trial_ends_at=row.trial_ends_at,
        past_due_since=row.past_due_since,
        on_past_due=PastDuePolicy.parse(row.on_past_due) if row.on_past_due else None,
        add_ons=tuple(row.add_ons),
    )


def _still_valid(entitlements: Entitlements, at: datetime) -> bool:
    return entitlements.valid_until is None or at < entitlements.valid_until
