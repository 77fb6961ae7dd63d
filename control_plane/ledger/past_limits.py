"""Limits that an occurrence would have had before somebody touched it: it is made as if it had been there all the time.

What happens to it from now on its row remembers (`GrantRow.earlier`).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select

from control_plane.customers import entitled
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.holding import Holding
from control_plane.ledger.occurrences import COUNTED_NAMES, limit_occurrences
from control_plane.ledger.rows import ROLLOVER, GrantRow
from control_plane.subscriptions.tables import subscription_pins, subscriptions
from sidecar.engine.catalog import BalanceScope
from sidecar.engine.customer import SubscriptionState
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.values import Reason


async def give_past(uow: UnitOfWork, made: Collection[tuple[Holding, GrantRow]]) -> None:
    """Takes new occurrences of limits through those of the time since they began, by what subscriptions were pinned to.

    Left alone is what a child's plan gives its parent: it has no limit before the one that it was made by.
    """
    begun: defaultdict[tuple[str, datetime], list[tuple[Holding, GrantRow]]] = defaultdict(list)
    for holding, grant in made:
        if holding.row.kind in COUNTED_NAMES and grant.role != ROLLOVER and grant.effective_at < uow.now:
            begun[holding.row.id, grant.effective_at].append((holding, grant))
    if not begun:
        return
    owners = {pairs[0][0].row.customer_id for pairs in begun.values()}
    turns = await _turns(uow, owners, min(at for _, at in begun))
    for (_, begins_at), pairs in begun.items():
        holding = pairs[0][0]
        of_owner = turns[holding.row.customer_id]
        if of_owner.come_by_themselves or any(begins_at < at for at in of_owner.known):
            await _give(uow, holding, [grant for _, grant in pairs], begins_at, of_owner.known)


async def _give(
    uow: UnitOfWork,
    holding: Holding,
    grants: Sequence[GrantRow],
    begins_at: datetime,
    turns: Collection[datetime],
) -> None:
    limits = [one async for one in _in_turn(uow, holding, begins_at, turns)]
    if all(spec is None for _, spec in limits):
        return
    known = set[str]()
    for at, spec in limits:
        if spec is not None and spec.limit is None:
            continue  # without a limit nothing is taken off one
        made = limit_occurrences(holding, spec, at, uow.now) if spec is not None else ()
        amounts = {grant.id: grant.amount for grant in made}
        for grant in grants:
            if not grant.is_over(at):
                # Before anything was in force there was nothing to be covered.
                since = at if grant.id in known else begins_at
                grant.retarget(amounts.get(grant.id, 0), now=uow.now, since=since)
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


class _Turns(NamedTuple):
    """When what a customer is entitled to may have changed."""

    known: Collection[datetime]
    come_by_themselves: bool
    """Are there others, which only its plan tells: the end of what it is allowed while past due?"""


async def _turns(uow: UnitOfWork, customer_ids: Collection[str], after: datetime) -> Mapping[str, _Turns]:
    """Those since that instant, without the very first of each customer: before it there was nothing."""
    own, pin = subscriptions.c, subscription_pins.c
    query = (
        select(own.customer_id, own.starts_at, own.ends_at, own.trial_ends_at, pin.from_at, pin.state)
        .join(subscription_pins, pin.subscription_id == own.id)
        .where(among(own.customer_id, customer_ids))
    )
    held: defaultdict[str, list[Any]] = defaultdict(list)
    for row in await uow.connection.execute(query):
        held[row.customer_id].append(row)
    found: dict[str, _Turns] = {}
    for name in customer_ids:
        pins = {row.from_at for row in held[name]}
        starts = {row.starts_at for row in held[name]}
        ends = {at for row in held[name] for at in (row.ends_at, row.trial_ends_at) if at is not None}
        # Pins have no upper bound: a transaction that waited for a lock sees those of who had it.
        known = {at for at in pins - {min(pins, default=None)} if at > after}
        known |= {at for at in (starts - {min(starts, default=None)}) | ends if after < at <= uow.now}
        past_due = any(row.state == SubscriptionState.PAST_DUE for row in held[name])
        found[name] = _Turns(known, past_due)
    return found
