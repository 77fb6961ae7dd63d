"""Limits in force: what a change of plan, price list or subscription does to occurrences that are there
already.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import select

from control_plane.customers import entitled
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.recalls import post_recalls
from control_plane.ledger.expiry import catch_up
from control_plane.ledger.facts import came_free
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.occurrences import limit_occurrences, own_balances, recurrences
from control_plane.ledger.opening import open_balances
from control_plane.ledger.rows import ROLLOVER, GrantRow
from control_plane.ledger.specs import find_spec
from control_plane.ledger.tables import balances
from sidecar.engine.catalog import BalanceScope
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.values import BalanceRef, Reason

LEASED_KINDS: Final = ("WALLET", "ALLOWANCE", "BUDGET")


async def apply_limits(uow: UnitOfWork, customer_id: str) -> None:
    """Brings the customer's occurrences to the limits now in force, and recalls what stands in the way.

    A cut takes what is available; the rest comes from slices as they return. A raise gives back at once. A
    customer that may do nothing (suspended, no subscription) keeps its limits, and everything leased is
    recalled. Call it in the transaction of the change; it takes the locks of the customer's balances.
    """
    own = await entitled.load(uow, customer_id, uow.now)
    query = select(balances.c.id).where(
        balances.c.customer_id == customer_id, balances.c.kind.in_(LEASED_KINDS)
    )
    ids = set((await uow.connection.execute(query)).scalars())
    if own.parent_id:
        of_parent = (spec for spec in own.balances.values() if spec.scope is BalanceScope.PARENT)
        ids |= {balance_id(BalanceRef(own.parent_id, "", spec.name)) for spec in of_parent}
    given = {spec.balance for spec in own.grants} if own.standing is Reason.OK else set()
    wallets = [item for item in own_balances(customer_id, own, uow.now) if item.ref.balance in given]
    if not ids and not wallets:
        return
    vault = Vault(uow)
    held = await vault.lock(ids)
    await vault.load_live(list(held))
    await open_balances(vault, wallets, {})
    for holding in vault.held.values():
        await catch_up(vault, holding)
    wanted_back = [held[identity] for identity in sorted(held) if await _apply(vault, held[identity], own)]
    await vault.save()
    await post_recalls(uow, [holding.row for holding in wanted_back], idle_only=False)


async def _apply(vault: Vault, holding: Holding, own: Entitlements) -> bool:
    """Re-targets one balance; True: leases of it are to be recalled."""
    row = holding.row
    live = [grant for grant in holding.grants.values() if grant.ends_at is None or grant.ends_at > vault.now]
    leased = any(grant.leased for grant in live)
    if row.customer_id == own.customer_id and own.standing is not Reason.OK:
        return leased
    ref = BalanceRef(row.customer_id, row.subject_id, row.name)
    found = await find_spec(vault.uow, ref, vault.now)
    if row.kind == "WALLET":
        _drop_unborn(holding, live, own, vault.now)
        return leased and found is None
    raised: list[GrantRow] = []
    still_to_cut = 0
    for grant in live:
        target = _target(holding, grant, found.spec if found else None, vault.now)
        if target == grant.target:
            continue
        if target > grant.target:
            raised.append(grant)
        holding.because(grant, "raise" if target > grant.target else "cut")
        still_to_cut += grant.retarget(target, now=vault.now)
    if raised:
        await came_free(vault, holding, raised, cause="raise")
    return still_to_cut > 0 or (leased and found is None)


def _target(holding: Holding, grant: GrantRow, spec: BalanceSpec | None, now: datetime) -> int:
    """The limit in force for an occurrence; 0 for one that the spec does not know."""
    if spec is None:
        return 0
    if spec.limit is None:
        return grant.target
    at = max(now, grant.effective_at)
    same = (made for made in limit_occurrences(holding, spec, at, now) if made.id == grant.id)
    return next((made.amount for made in same), 0)


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
