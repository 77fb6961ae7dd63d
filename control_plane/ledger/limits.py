"""Limits in force: what a change of plan, price list or subscription does to occurrences that are there already, and
what time does to them.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select, update

from control_plane.customers import entitled
from control_plane.customers.tables import customers
from control_plane.db.among import among
from control_plane.db.bulk import update_rows
from control_plane.db.unit_of_work import ChangeKind, UnitOfWork
from control_plane.faults import Faults, is_database_fault
from control_plane.leases.recalls import post_recalls
from control_plane.leases.restored import pause_of, read_generation
from control_plane.leases.settings import LeaseSettings
from control_plane.ledger.expiry import catch_up
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.in_force import bring_to, due_since, limits_now
from control_plane.ledger.occurrences import Wanted, limit_occurrences, own_balances, recurrences
from control_plane.ledger.opening import open_balances
from control_plane.ledger.rows import ROLLOVER, BalanceRow, GrantRow
from control_plane.ledger.specs import find_spec
from control_plane.ledger.tables import balances
from sidecar.engine.catalog import BalanceScope
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.values import BalanceRef, Reason

LEASED_KINDS: Final = ("WALLET", "ALLOWANCE", "BUDGET")
SWEPT_AT_ONCE: Final = 50
"""Customers per transaction: the sweep holds their locks, and those of their balances."""
AGAIN_AFTER: Final = timedelta(minutes=10)
"""A customer whose limits can not be found out keeps the others waiting no longer than it takes to see that."""


async def apply_limits(uow: UnitOfWork, customer_ids: Collection[str]) -> Collection[str]:
    """Brings the customers' occurrences to the limits now in force, and recalls what stands in the way; notes when time
    will change them next. Returns whose balances were recalled.

    A cut takes what is available; the rest comes from slices as they return. A raise gives back at once. A
    customer that may do nothing (suspended, no subscription) keeps its limits, and everything leased is
    recalled. Call it in the transaction of the change, with the customers locked; it takes the locks of their balances.
    """
    owners = await entitled.load_all(uow, customer_ids, uow.now)
    since = await due_since(uow, customer_ids)
    of_children: dict[str, datetime] = {}
    for name, at in since.items():
        parent_id = owners[name].parent_id
        of_children[parent_id] = min(at, of_children.get(parent_id, at))
    until = [{"id": name, "limits_until": own.valid_until} for name, own in sorted(owners.items())]
    await update_rows(uow.connection, customers, "id", until)
    query = select(balances.c.id).where(
        among(balances.c.customer_id, customer_ids), balances.c.kind.in_(LEASED_KINDS)
    )
    of_parents = {
        balance_id(BalanceRef(own.parent_id, "", spec.name))
        for own in owners.values()
        for spec in own.balances.values()
        if own.parent_id and spec.scope is BalanceScope.PARENT
    }
    ids = {*(await uow.connection.execute(query)).scalars(), *of_parents}
    wallets = [item for name, own in owners.items() for item in _wallets(name, own, uow.now)]
    if not ids and not wallets:
        return ()
    vault = Vault(uow)
    held = await vault.lock(ids)
    await vault.load_live(list(held))
    await open_balances(vault, wallets, {})
    for holding in vault.held.values():
        await catch_up(vault, holding)
    wanted_back: list[BalanceRow] = []
    for identity in sorted(held):
        row = held[identity].row
        own = owners.get(row.customer_id)
        keeps = own is not None and own.standing is not Reason.OK and identity not in of_parents
        changed_at = (since if own is not None else of_children).get(row.customer_id)
        if keeps:
            is_wanted_back = _is_leased(vault, held[identity])
        else:
            is_wanted_back = await _apply(vault, held[identity], own, changed_at or uow.now)
        if is_wanted_back:
            wanted_back.append(row)
    await vault.save()
    await post_recalls(uow, wanted_back, idle_only=False)
    return {row.customer_id for row in wanted_back}


async def sweep_limits(uow: UnitOfWork, settings: LeaseSettings) -> int:
    """Applies the limits of customers for whom time alone has changed something: a subscription began or ended, a trial
    is over, or the time that a past-due one is allowed. Some at a time; returns how many.

    Any number of processes may do it: each takes customers that no other one has. Not while leases of before a restore
    are awaited: a limit binds only beyond what is leased.
    """
    due = (
        select(customers.c.id)
        .where(customers.c.limits_until <= uow.now)
        .order_by(customers.c.limits_until)
        .limit(SWEPT_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    ids = sorted((await uow.connection.execute(due)).scalars())
    if not ids or pause_of(await read_generation(uow), settings, uow.now).leases:
        return 0
    for customer_id in await _apply_each(uow, ids):
        uow.change(ChangeKind.CUSTOMER, customer_id)  # a recall is of a revision that no lease has seen
    return len(ids)


async def _apply_each(uow: UnitOfWork, ids: list[str]) -> Collection[str]:
    """As `apply_limits`. One whose limits can not be found out is set apart, and tried again later."""
    try:
        async with uow.connection.begin_nested():
            return await apply_limits(uow, ids)
    except Exception as error:
        if is_database_fault(error):
            raise
        if len(ids) == 1:
            uow.kept(Faults).set_apart("limits", customer_id=ids[0])
            later = update(customers).where(customers.c.id == ids[0])
            await uow.connection.execute(later.values(limits_until=uow.now + AGAIN_AFTER))
            return ()
    middle = len(ids) // 2
    return {*await _apply_each(uow, ids[:middle]), *await _apply_each(uow, ids[middle:])}


def _wallets(customer_id: str, own: Entitlements, now: datetime) -> list[Wanted]:
    """Those that its plans put something into now."""
    given = {spec.balance for spec in own.grants} if own.standing is Reason.OK else set()
    return [item for item in own_balances(customer_id, own, now) if item.ref.balance in given]


def _live(vault: Vault, holding: Holding) -> list[GrantRow]:
    return [grant for grant in holding.grants.values() if not grant.is_over(vault.now)]


def _is_leased(vault: Vault, holding: Holding) -> bool:
    return any(grant.leased for grant in _live(vault, holding))


async def _apply(vault: Vault, holding: Holding, own: Entitlements | None, since: datetime) -> bool:
    """Brings one balance to its limits; True: leases of it are to be recalled. `own`: the customer's, where they were
    read. `since`: when they came into force.
    """
    row, live = holding.row, _live(vault, holding)
    leased = _is_leased(vault, holding)
    ref = BalanceRef(row.customer_id, row.subject_id, row.name)
    found = await find_spec(vault.uow, ref, vault.now, own=own)
    if row.kind == "WALLET":
        if own is not None:
            _drop_unborn(holding, live, own, vault.now)
        return leased and found is None
    limits = limits_now(holding, found.spec if found else None, vault.now)
    for grant in live:
        if grant.effective_at > vault.now:
            limits |= await _limit_ahead(vault, holding, grant, ref)
    still_to_cut = await bring_to(vault, holding, limits, since=since)
    return still_to_cut > 0 or (leased and found is None)


async def _limit_ahead(vault: Vault, holding: Holding, grant: GrantRow, ref: BalanceRef) -> Mapping[str, int]:
    """Of an occurrence that was made ahead: by what is in force when it begins."""
    found = await find_spec(vault.uow, ref, grant.effective_at)
    if found is None:
        return {grant.id: 0}
    if found.spec.limit is None:
        return {}
    made = limit_occurrences(holding, found.spec, grant.effective_at, vault.now)
    return {grant.id: next((one.amount for one in made if one.id == grant.id), 0)}


def _drop_unborn(holding: Holding, live: Collection[GrantRow], own: Entitlements, now: datetime) -> None:
    """Occurrences that were made ahead of their beginning, and that no plan gives any more, are cut."""
    for grant in live:
        if grant.effective_at <= now or not grant.id.startswith("occ_") or grant.role == ROLLOVER:
            continue
        given = {
            made.id
            for spec in own.grants
            if spec.balance == holding.row.name
            for made in recurrences(holding, spec, grant.effective_at, now)
        }
        if grant.id not in given:
            holding.because(grant, "cut")
            grant.retarget(0, now=now)
