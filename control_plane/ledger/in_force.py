"""The limits in force now, as this transaction sees them, and occurrences that are brought to them."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select

from control_plane.customers import entitled
from control_plane.customers.tables import customers
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.expiry import catch_up
from control_plane.ledger.facts import came_free, take_back
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.occurrences import COUNTED_NAMES, limit_occurrences
from control_plane.ledger.rows import ROLLOVER, GrantRow
from control_plane.ledger.specs import Found, find_spec
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.values import BalanceRef, Reason

InForce = Mapping[BalanceRef, BalanceSpec | None]
"""By what each balance stands now; None: by nothing, nobody is entitled to it any more. Balances that are left out keep
their limits."""

_UNKNOWN: Final = datetime.fromtimestamp(0, UTC)
"""Of who was there before the column: due at once, and nobody knows since when."""


async def specs_in_force(uow: UnitOfWork, refs: Collection[BalanceRef]) -> InForce:
    """Read it with the balances locked: whoever changes a limit afterwards finds what was made by it, and cuts it."""
    if not refs:
        return {}
    owners = await entitled.load_all(uow, {ref.customer_id for ref in refs}, uow.now)
    found: dict[BalanceRef, BalanceSpec | None] = {}
    for ref in refs:
        own = owners[ref.customer_id]
        enter(found, ref, own, await find_spec(uow, ref, uow.now, own=own))
    return found


def enter(
    in_force: dict[BalanceRef, BalanceSpec | None], ref: BalanceRef, own: Entitlements, found: Found | None
) -> None:
    """Enters what was found. A customer that may do nothing (suspended, no subscription) keeps its limits."""
    if found is not None or own.standing is Reason.OK:
        in_force[ref] = found.spec if found is not None else None


def limits_now(holding: Holding, spec: BalanceSpec | None, now: datetime) -> dict[str, int]:
    """Grant → the limit in force, of what has begun and not ended of an allowance or a budget.

    0 for an occurrence that the spec does not know: its period is another one.
    """
    if holding.row.kind not in COUNTED_NAMES or (spec is not None and spec.limit is None):
        return {}
    limits = {}
    if spec is not None:
        limits = {made.id: made.amount for made in limit_occurrences(holding, spec, now, now)}
    return {
        grant.id: limits.get(grant.id, 0)
        for grant in holding.grants.values()
        if grant.role != ROLLOVER and grant.effective_at <= now and not grant.is_over(now)
    }


async def bring_to(
    vault: Vault, holding: Holding, limits: Mapping[str, int], *, since: datetime | None = None
) -> int:
    """Sets the limits of these loaded grants: a cut takes what is available, a raise pays what is open first.

    `since`: when they came into force; None: when time alone has changed them, or else now. Returns what is still to be
    cut, from slices as they return. Where nothing differs, nothing changes.
    """
    if any(holding.grants[grant_id].target != limit for grant_id, limit in limits.items()):
        await catch_up(vault, holding)  # what began is to pay before a cut takes it
        if since is None:
            since = (await due_since(vault.uow, [holding.row.customer_id])).get(holding.row.customer_id)
    since = since or vault.now
    raised: list[GrantRow] = []
    lowered: list[GrantRow] = []
    still_to_cut = 0
    for grant_id, limit in limits.items():
        grant = holding.grants[grant_id]
        if limit != grant.target:
            (raised if limit > grant.target else lowered).append(grant)
            holding.because(grant, "raise" if limit > grant.target else "cut")
        still_to_cut += grant.retarget(limit, now=vault.now, since=since)
    if raised:
        await came_free(vault, holding, raised, cause="raise")
    await take_back(vault, holding, lowered, since=since)
    return still_to_cut


async def due_since(uow: UnitOfWork, customer_ids: Collection[str]) -> Mapping[str, datetime]:
    """Customer → when time alone has changed its limits, where nobody has applied that yet."""
    columns = customers.c.id, customers.c.limits_until
    query = select(*columns).where(among(customers.c.id, customer_ids), customers.c.limits_until <= uow.now)
    rows = await uow.connection.execute(query.where(customers.c.limits_until > _UNKNOWN))
    return {row.id: row.limits_until for row in rows}
