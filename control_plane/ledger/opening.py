"""Opening balances: locked, made when they are first touched, with the occurrences that an instant asks for."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import or_, select

from control_plane.customers import entitled
from control_plane.customers.tables import customers
from control_plane.db.among import among
from control_plane.ledger.facts import settle
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import balance_id, occurrence_id
from control_plane.ledger.in_force import InForce, bring_to, limits_now
from control_plane.ledger.occurrences import Wanted, new_balance, occurrences, recurrences
from control_plane.ledger.past_limits import give_past
from control_plane.ledger.rows import BASE, GrantRow
from control_plane.ledger.tables import balances
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.periods import Period
from sidecar.engine.values import BalanceRef, Reason

_BUDGET: Final = "budget:"
_MOMENT: Final = timedelta(microseconds=1)


async def lock_balances(vault: Vault, refs: Collection[BalanceRef], *, also: Iterable[str] = ()) -> None:
    """Locks what there is of these balances. Ask afterwards what is in force for them, then open them: so nobody can
    change a limit in between.

    A balance that is not there has no lock: for its sake its customer is locked, shared with others who do this, until
    the commit. Who changes the customer waits, or is waited for. `also`: ids of balances that exist and are to be
    locked in the same order.
    """
    ids = {balance_id(ref): ref for ref in refs}
    if ids and not vault.uow.is_alone:
        query = select(balances.c.id).where(among(balances.c.id, ids))
        known = set((await vault.uow.connection.execute(query)).scalars())
        await _share_customers(vault, [ref for identity, ref in ids.items() if identity not in known])
    await vault.lock({*ids, *also})


async def _share_customers(vault: Vault, refs: Collection[BalanceRef]) -> None:
    """The owners, and for budgets the owners' children, whose plans may set them."""
    if not refs:
        return
    owners = {ref.customer_id for ref in refs}
    parents = {ref.customer_id for ref in refs if ref.balance.startswith(_BUDGET) and not ref.subject_id}
    theirs = or_(among(customers.c.id, owners), among(customers.c.parent_id, parents))
    query = select(customers.c.id).where(theirs).order_by(customers.c.id).with_for_update(read=True)
    await vault.uow.connection.execute(query)


async def open_balances(
    vault: Vault, wanted: Sequence[Wanted], in_force: InForce | None
) -> dict[BalanceRef, Holding]:
    """Balances that `lock_balances` has locked, made where they are missing, with their live grants and the occurrences
    of the instants asked for.

    An occurrence is made by the spec of its instant, with the limits that it would have had since it began. Those that
    run now are brought to the limit in force: a late fact asks for what was in force when it occurred, and time changes
    limits without anybody's doing; nothing of that which is over may be leased. `in_force` None: leases of before a
    restore are awaited, which a lower limit would leave nothing of; what is made has the limit that was asked for.
    """
    ids = {item.ref: balance_id(item.ref) for item in wanted}
    held = await vault.lock(ids.values())
    missing = {item.ref: item for item in wanted if ids[item.ref] not in held}
    if missing:
        await vault.create(new_balance(item, vault.now) for item in missing.values())
        held = await vault.lock(ids.values())
    await vault.load_live(list(vault.held))
    fresh: list[tuple[Holding, GrantRow]] = []
    for item in wanted:
        holding = held[ids[item.ref]]
        fresh += ((holding, grant) for grant in occurrences(holding, item, vault.now))
    added = list(await _add_missing(vault, fresh))
    made = {grant.id for _, grant in added}
    for item in wanted:
        added += await _add_missing(vault, await _before(vault, held[ids[item.ref]], item, made))
    asked = [(grant, grant.target) for _, grant in added]
    await give_past(vault.uow, added)
    for grant, limit in () if in_force is not None else asked:
        grant.retarget(limit, now=vault.now)
    limits = {
        identity: limits_now(held[identity], in_force[ref], vault.now)
        for ref, identity in ids.items()
        if in_force is not None and ref in in_force
    }
    for holding, grant in added:  # before any of it pays what is open
        if grant.id in limits.get(holding.row.id, ()):
            grant.retarget(limits[holding.row.id][grant.id], now=vault.now)
    for holding, grant in added:
        if holding.row.overage:
            await settle(vault, holding, grant.window_start, cause="recurrence")
    for identity, of_balance in limits.items():
        await bring_to(vault, held[identity], of_balance)
    return {ref: held[identity] for ref, identity in ids.items()}


async def _before(
    vault: Vault, holding: Holding, item: Wanted, made: Collection[str]
) -> list[tuple[Holding, GrantRow]]:
    """What ended when a period of these began, and may roll over, used or not: what the customer had at the end of the
    period before, or at its beginning; every change in between has made what it gave.

    Asked once a period, when its own occurrence is made.
    """
    starts: dict[datetime, Period] = {}
    for spec in item.grants:
        if spec.balance == item.ref.balance and spec.rollover_max and spec.period is not None:
            start = spec.period.window(item.at).start
            if occurrence_id(holding.row.id, BASE, start, spec.key) in made:
                starts[start] = spec.period
    found: dict[str, tuple[Holding, GrantRow]] = {}
    for start, period in starts.items():
        last = start - _MOMENT
        for at in (min(last, vault.now), period.window(last).start):
            then = await entitled.at_instant(vault.uow, item.ref.customer_id, at)
            for grant in _ending(holding, then, at, start, vault.now):
                found.setdefault(grant.id, (holding, grant))
    return list(found.values())


def _ending(
    holding: Holding, then: Entitlements, at: datetime, end: datetime, now: datetime
) -> Iterator[GrantRow]:
    """Occurrences that roll over, of the period that holds an instant and has that end, by what was in force then."""
    for spec in then.grants if then.standing is Reason.OK else ():
        if spec.balance != holding.row.name or not (spec.amount and spec.rollover_max and spec.period):
            continue
        if spec.period.window(at).end == end:
            yield from recurrences(holding, spec, at, now)


async def _add_missing(
    vault: Vault, fresh: Sequence[tuple[Holding, GrantRow]]
) -> Sequence[tuple[Holding, GrantRow]]:
    """Adds those that are not there, and tells which; an occurrence that has ended already may be there without being
    loaded.
    """
    unknown = [(holding, grant) for holding, grant in fresh if grant.id not in holding.grants]
    if not unknown:
        return ()
    await vault.load_grants([grant.id for _, grant in unknown])
    added: list[tuple[Holding, GrantRow]] = []
    for holding, grant in unknown:
        if grant.id not in holding.grants:
            holding.add(grant)
            grant.begun = grant.effective_at <= vault.now
            added.append((holding, grant))
    return added
