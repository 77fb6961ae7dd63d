"""Subscriptions: made, read, changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from control_plane.catalog.revisions import current_revision, read_catalogs
from control_plane.customers.consequences import customer_changed
from control_plane.customers.records import lock_customer
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import AlreadyExists, FieldProblem, Invalid, NotFound, VersionConflict, WrongState
from control_plane.subscriptions.tables import subscription_pins, subscriptions
from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import SubscriptionState
from sidecar.engine.reading.node import did_you_mean

SubscriptionRow = Row[Any]

PINNED = ("plan", "catalog_revision", "add_ons", "state", "past_due_since")
"""What `subscription_pins` remembers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSubscription:
    """None: `starts_at` is now, `anchor_at` is the start, the trial is the plan's, the state follows from the trial."""

    subscription_id: str
    customer_id: str
    plan: str
    add_ons: Sequence[str]
    starts_at: datetime | None
    ends_at: datetime | None
    anchor_at: datetime | None
    trial_ends_at: datetime | None
    state: SubscriptionState | None
    on_past_due: str
    external_ids: Mapping[str, str]


async def create_subscription(uow: UnitOfWork, new: NewSubscription) -> SubscriptionRow:
    """Pins the customer to the plan as the newest catalog has it.

    Raises NotFound for the customer, AlreadyExists, and Invalid for a plan or add-on that is not in the catalog.
    """
    await lock_customer(uow, new.customer_id)
    revision = await current_revision(uow)
    catalog = (await read_catalogs(uow, [revision]))[revision]
    _check_names(catalog, revision, new.plan, new.add_ons)
    starts_at = new.starts_at or uow.now
    if new.ends_at is not None and new.ends_at < starts_at:
        raise Invalid(FieldProblem("ends_at", "lies before starts_at"))
    trial = catalog.plans[new.plan].trial
    trial_ends_at = new.trial_ends_at or (trial.after(starts_at) if trial is not None else None)
    in_trial = trial_ends_at is not None and uow.now < trial_ends_at
    state = new.state or (SubscriptionState.TRIALING if in_trial else SubscriptionState.ACTIVE)
    past_due = state is SubscriptionState.PAST_DUE
    values = {
        "id": new.subscription_id,
        "customer_id": new.customer_id,
        "plan": new.plan,
        "catalog_revision": revision,
        "add_ons": list(new.add_ons),
        "state": state.value,
        "starts_at": starts_at,
        "ends_at": new.ends_at,
        "anchor_at": new.anchor_at or starts_at,
        "trial_ends_at": trial_ends_at,
        "past_due_since": uow.now if past_due else None,
        "on_past_due": new.on_past_due,
        "external_ids": dict(new.external_ids),
        "created_at": uow.now,
        "version": 1,
    }
    try:
        async with uow.connection.begin_nested():
            await uow.connection.execute(insert(subscriptions).values(values))
    except IntegrityError as error:
        raise AlreadyExists("subscription", new.subscription_id) from error
    row = await get_subscription(uow, new.subscription_id)
    await pin(uow, row, from_at=min(starts_at, uow.now))
    await customer_changed(uow, new.customer_id)
    return row


async def get_subscription(uow: UnitOfWork, subscription_id: str) -> SubscriptionRow:
    """Raises NotFound."""
    found = await uow.connection.execute(select(subscriptions).where(subscriptions.c.id == subscription_id))
    row = found.one_or_none()
    if row is None:
        raise NotFound("subscription", subscription_id)
    return row


async def list_subscriptions(
    uow: UnitOfWork, *, after: str, limit: int, customer_id: str | None = None
) -> Sequence[SubscriptionRow]:
    """In the order of their ids, those after `after`."""
    wanted = select(subscriptions).where(subscriptions.c.id > after).order_by(subscriptions.c.id).limit(limit)
    if customer_id is not None:
        wanted = wanted.where(subscriptions.c.customer_id == customer_id)
    return (await uow.connection.execute(wanted)).all()


async def set_payment_status(
    uow: UnitOfWork, subscription_id: str, *, past_due: bool, version: int | None = None
) -> SubscriptionRow:
    """Past due from now on, or paid. Again changes nothing. Raises NotFound, VersionConflict, WrongState."""
    row = await _lock(uow, subscription_id, version)
    if past_due == (row.state == SubscriptionState.PAST_DUE):
        return row
    if past_due and row.state not in {SubscriptionState.ACTIVE, SubscriptionState.TRIALING}:
        raise WrongState(
            "subscription", subscription_id, f"it is {row.state}; only a running one becomes past due"
        )
    if past_due:
        return await _change(uow, row, {"state": SubscriptionState.PAST_DUE.value, "past_due_since": uow.now})
    if row.state != SubscriptionState.PAST_DUE:
        return row
    return await _change(uow, row, {"state": _running(row, uow.now).value, "past_due_since": None})


async def change_subscription(
    uow: UnitOfWork, subscription_id: str, values: Mapping[str, Any], *, version: int | None = None
) -> SubscriptionRow:
    """Sets `state`, `ends_at`, `trial_ends_at`, `add_ons`, `on_past_due` or `external_ids`.

    Raises NotFound, VersionConflict, WrongState for one that is canceled, Invalid.
    """
    row = await _lock(uow, subscription_id, version)
    if row.state == SubscriptionState.CANCELED:
        raise WrongState("subscription", subscription_id, "it is canceled")
    wanted = dict(values)
    if "add_ons" in wanted:
        catalog = (await read_catalogs(uow, [row.catalog_revision]))[row.catalog_revision]
        _check_names(catalog, row.catalog_revision, row.plan, wanted["add_ons"])
    if wanted.get("ends_at") is not None and wanted["ends_at"] < row.starts_at:
        raise Invalid(FieldProblem("ends_at", "lies before starts_at"))
    state = wanted.get("state", row.state)
    if state == SubscriptionState.CANCELED and row.ends_at is None and "ends_at" not in wanted:
        wanted["ends_at"] = max(uow.now, row.starts_at)
    if (state == SubscriptionState.PAST_DUE) != (row.past_due_since is not None):
        wanted["past_due_since"] = uow.now if state == SubscriptionState.PAST_DUE else None
    changed = {name: value for name, value in wanted.items() if getattr(row, name) != value}
    return await _change(uow, row, changed) if changed else row


async def pin(uow: UnitOfWork, row: SubscriptionRow, *, from_at: datetime) -> None:
    """Writes down what is in force from `from_at`; what was written for that very instant is replaced."""
    pins = subscription_pins
    await uow.connection.execute(
        delete(pins).where(pins.c.subscription_id == row.id, pins.c.from_at == from_at)
    )
    values = {name: getattr(row, name) for name in PINNED}
    await uow.connection.execute(insert(pins).values(subscription_id=row.id, from_at=from_at, **values))


async def _lock(uow: UnitOfWork, subscription_id: str, version: int | None) -> SubscriptionRow:
    row = await get_subscription(uow, subscription_id)
    await lock_customer(uow, row.customer_id)
    row = await get_subscription(uow, subscription_id)
    if version is not None and row.version != version:
        raise VersionConflict("subscription", subscription_id, version=row.version)
    return row


async def _change(uow: UnitOfWork, row: SubscriptionRow, values: Mapping[str, Any]) -> SubscriptionRow:
    await uow.connection.execute(
        update(subscriptions).where(subscriptions.c.id == row.id).values(**values, version=row.version + 1)
    )
    changed = await get_subscription(uow, row.id)
    await pin(uow, changed, from_at=uow.now)
    await customer_changed(uow, row.customer_id)
    return changed


def _running(row: SubscriptionRow, now: datetime) -> SubscriptionState:
    in_trial = row.trial_ends_at is not None and now < row.trial_ends_at
    return SubscriptionState.TRIALING if in_trial else SubscriptionState.ACTIVE


def _check_names(catalog: Catalog, revision: int, plan: str, add_ons: Sequence[str]) -> None:
    problems = []
    if plan not in catalog.plans:
        what = f"there is no plan {plan!r} in catalog revision {revision}"
        problems.append(FieldProblem("plan", f"{what}; {did_you_mean(plan, catalog.plans)}"))
    problems += [
        FieldProblem(
            f"add_ons[{index}]",
            f"there is no add-on {name!r} in catalog revision {revision}; {did_you_mean(name, catalog.add_ons)}",
        )
        for index, name in enumerate(add_ons)
        if name not in catalog.add_ons
    ]
    if problems:
        raise Invalid(*problems)
