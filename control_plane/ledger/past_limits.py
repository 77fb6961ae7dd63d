"""Limits that an occurrence would have had before somebody touched it: it is made as if it had been there all the time.

What happens to it from now on its row remembers (`GrantRow.earlier`).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, func, select

from control_plane.customers import entitled
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.holding import Holding
from control_plane.ledger.occurrences import COUNTED, limit_occurrences
from control_plane.ledger.rows import ROLLOVER, GrantRow
from control_plane.subscriptions.tables import subscription_pins, subscriptions
from sidecar.engine.catalog import BalanceScope
from sidecar.engine.customer import SubscriptionState
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.values import Reason

_COUNTED_NAMES: Final = frozenset(kind.name for kind in COUNTED)
_BY_THEMSELVES: Final = {SubscriptionState.TRIALING, SubscriptionState.PAST_DUE}
"""What ends at an instant that is the plan's affair."""


async def give_past(uow: UnitOfWork, made: Collection[tuple[Holding, GrantRow]]) -> None:
    """Takes new occurrences of limits through those of the time since they began, by what subscriptions were pinned to.

    Left alone is what a child's plan gives its parent: it has no limit before the one that it was made by.
    """
    begun = [
        (holding, grant)
        for holding, grant in made
        if holding.row.kind in _COUNTED_NAMES and grant.role != ROLLOVER and grant.effective_at < uow.now
    ]
    if not begun:
        return
    first = min(grant.effective_at for _, grant in begun)
    turns = await _turns(uow, {holding.row.customer_id for holding, _ in begun}, first)
    by_balance: defaultdict[str, list[GrantRow]] = defaultdict(list)
    for holding, grant in begun:
        if any(grant.effective_at < at for at in turns.get(holding.row.customer_id, ())):
            by_balance[holding.row.id].append(grant)
    for holding in {holding.row.id: holding for holding, _ in begun}.values():
        grants = by_balance[holding.row.id]
        if grants:
            await _give(uow, holding, grants, turns[holding.row.customer_id])


async def _give(
    uow: UnitOfWork, holding: Holding, grants: Sequence[GrantRow], turns: Collection[datetime]
) -> None:
    begins_at = min(grant.effective_at for grant in grants)
    known = set[str]()
    async for at, spec in _in_turn(uow, holding, begins_at, turns):
        if spec is not None and spec.limit is None:
            continue  # without a limit nothing is taken off one
        made = limit_occurrences(holding, spec, at, uow.now) if spec is not None else ()
        limits = {grant.id: grant.amount for grant in made}
        for grant in grants:
            if not grant.is_over(at):
                since = at if grant.id in known else grant.effective_at
                grant.retarget(limits.get(grant.id, 0), now=uow.now, since=since)
                known.add(grant.id)


async def _in_turn(
    uow: UnitOfWork, holding: Holding, begins_at: datetime, turns: Collection[datetime]
) -> AsyncIterator[tuple[datetime, BalanceSpec | None]]:
    """By what the balance stood from an instant on. While its customer might do nothing it kept its limit."""
    row = holding.row
    scope = BalanceScope.SUBJECT if row.subject_id else BalanceScope.CUSTOMER
    at: datetime | None = begins_at
    while at is not None and at <= uow.now:
        then = await entitled.at_instant(uow, row.customer_id, at)
        if then.standing is Reason.OK:
            spec = then.balances.get(row.name)
            yield at, spec if spec is not None and spec.scope is scope else None
        ends = [] if then.valid_until is None else [then.valid_until]
        at = min((turn for turn in (*turns, *ends) if turn > at), default=None)


async def _turns(
    uow: UnitOfWork, customer_ids: Collection[str], after: datetime
) -> Mapping[str, Collection[datetime]]:
    """When what these customers are entitled to may have changed since, of those that were entitled before. Most have
    one subscription, which nobody has changed: they are left out.
    """
    own, pin = subscriptions.c, subscription_pins.c
    query = (
        select(own.customer_id, own.id, own.starts_at, own.ends_at, own.trial_ends_at, own.state)
        .add_columns(func.count().label("pins"), func.max(pin.from_at).label("pinned_at"))
        .join(subscription_pins, pin.subscription_id == own.id)
        .where(among(own.customer_id, customer_ids))
        .group_by(own.customer_id, own.id, own.starts_at, own.ends_at, own.trial_ends_at, own.state)
    )
    held: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in await uow.connection.execute(query):
        held[row.customer_id].append(row)
    changed = {
        name for name, rows in held.items() if any(_has_turned(row, rows, after, uow.now) for row in rows)
    }
    if not changed:
        return {}
    found: dict[str, set[datetime]] = {
        name: {at for row in held[name] for at in _dates(row) if after < at <= uow.now} for name in changed
    }
    pins = select(own.customer_id, pin.from_at).join(subscriptions, own.id == pin.subscription_id)
    rows = await uow.connection.execute(pins.where(among(own.customer_id, changed), pin.from_at > after))
    for customer_id, at in rows:
        found[customer_id].add(at)
    return found


def _has_turned(row: Row[Any], of_customer: Sequence[Row[Any]], after: datetime, now: datetime) -> bool:
    """Was something else in force after that instant than now, as far as one subscription says it?"""
    if row.pins > 1 and row.pinned_at > after:
        return True
    if SubscriptionState(row.state) in _BY_THEMSELVES or len(of_customer) > 1:
        return any(after < at <= now for at in _dates(row))
    return any(after < at <= now for at in (row.ends_at, row.trial_ends_at) if at is not None)


def _dates(row: Row[Any]) -> list[datetime]:
    dates = (row.starts_at, row.ends_at, row.trial_ends_at)
    return [at for at in dates if at is not None]
