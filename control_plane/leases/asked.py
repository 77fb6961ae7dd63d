"""What is wanted, with what was found out about it; and everything that it touches, locked."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select

from control_plane.customers.entitled import load_all
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.letting_go import give_up
from control_plane.leases.replies import forestall
from control_plane.leases.returns import Return, Uid, apply_returns
from control_plane.leases.rows import read_leases, update_leases
from control_plane.leases.settle import Freed
from control_plane.leases.tables import leases
from control_plane.ledger.expiry import catch_up
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.in_force import enter
from control_plane.ledger.occurrences import Wanted
from control_plane.ledger.opening import lock_balances, open_balances
from control_plane.ledger.rows import GrantRow, in_burn_order
from control_plane.ledger.specs import Found, find_spec
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.values import BalanceKind, BalanceRef

AHEAD_MAX: Final = timedelta(minutes=2)
"""The next period is leased only so shortly before it begins; sidecars ask one minute ahead at most."""
_LEASED: Final = frozenset({BalanceKind.WALLET, BalanceKind.ALLOWANCE, BalanceKind.BUDGET})


@dataclass(slots=True)
class Asked:
    """One want, with what was found out about it."""

    want: session.Want
    ref: BalanceRef
    at: datetime
    """The instant that it is for: now, or the next period's beginning."""
    own: Entitlements
    """What the balance's customer may do now."""
    now: Found | None
    """By what the balance stands now."""
    found: Found | None
    """And at that instant; None: nobody is entitled to it then."""
    holding: Holding | None = None

    @property
    def leased(self) -> bool:
        """Is it wanted as a lease, and not as a share or a verdict?"""
        return (
            self.found is not None
            and self.found.spec.kind in _LEASED
            and not self.found.spec.decided_remotely
        )

    @property
    def unlimited(self) -> bool:
        return self.found is not None and self.found.spec.unlimited

    def grants(self) -> list[GrantRow]:
        """What could be leased for it, in burn order."""
        if self.holding is None:
            return []
        feature = self.want.feature
        return in_burn_order(
            grant
            for grant in self.holding.grants.values()
            if grant.available and grant.active(self.at) and grant.serves(feature)
        )

    @property
    def is_missing(self) -> bool:
        """Is there less to lease than the waiting call needs, or nothing at all, where nobody waits? As of now: another
        request of the same transaction may take it.
        """
        if not self.leased or self.unlimited or self.holding is None:
            return False
        return sum(grant.available for grant in self.grants()) < max(1, self.want.need)


async def ask_all(uow: UnitOfWork, requests: Collection[session.AcquireLeasesRequest]) -> list[list[Asked]]:
    """Finds the spec of each balance, by request, as of now or of the next period's beginning where that is near. The
    balances are locked: what it finds stays so.
    """
    customer_ids = {want.ref.customer_id for request in requests for want in request.wants}
    entitlements = await load_all(uow, customer_ids, uow.now)
    return [
        [await _ask(uow, want, entitlements[want.ref.customer_id]) for want in request.wants]
        for request in requests
    ]


async def _ask(uow: UnitOfWork, want: session.Want, own: Entitlements) -> Asked:
    ref = _ref(want.ref)
    found = await find_spec(uow, ref, uow.now, own=own)
    if not want.next_period or found is None:
        return Asked(want, ref, uow.now, own, found, found)
    periods = [found.spec.period] if found.spec.period is not None else []
    periods += [
        spec.period
        for spec in found.entitlements.grants
        if spec.balance == ref.balance and spec.period is not None
    ]
    at = min((period.window(uow.now).end for period in periods), default=None)
    if at is None or at - uow.now > AHEAD_MAX:
        # There is no other period; or it was long on its way, and the one that it was sent for has begun.
        return Asked(want, ref, uow.now, own, found, found)
    return Asked(want, ref, at, own, found, await find_spec(uow, ref, at))


def _ref(ref: session.BalanceRef) -> BalanceRef:
    return BalanceRef(ref.customer_id, ref.subject_id, ref.balance)


async def _give_up(vault: Vault, request: session.AcquireLeasesRequest) -> None:
    given_up: defaultdict[str, list[str]] = defaultdict(list)
    for one in request.given_up:
        given_up[balance_id(_ref(one.ref))].append(one.request_id)
    for identity, request_ids in given_up.items():
        if identity in vault.held and await give_up(vault.uow, identity, request.holder, request_ids):
            vault.held[identity].touched = True
    await forestall(vault.uow, request.holder, [one.request_id for one in request.given_up])


async def lock_asked(vault: Vault, requests: Collection[session.AcquireLeasesRequest]) -> None:
    """Locks every balance that is touched, in order: what is wanted, what comes back, what is given up."""
    returned = {item.lease_id for request in requests for item in request.returns}
    also = {balance_id(_ref(one.ref)) for request in requests for one in request.given_up}
    if returned:
        query = select(leases.c.balance_id).where(among(leases.c.id, returned))
        also.update((await vault.uow.connection.execute(query)).scalars())
    await lock_balances(vault, {_ref(want.ref) for request in requests for want in request.wants}, also=also)


async def open_asked(
    vault: Vault,
    asked: Collection[Asked],
    requests: Collection[session.AcquireLeasesRequest],
    *,
    is_paused: bool,
) -> None:
    """Opens what is wanted, all of it locked; first applies what the callers give back and give up.

    `is_paused`: leases of before a restore are awaited, so no limit cuts anything yet.
    """
    uow = vault.uow
    wanted = [
        Wanted(item.ref, item.found.spec, item.at, item.found.entitlements.grants)
        for item in asked
        if item.found is not None and not item.unlimited
    ]
    in_force: dict[BalanceRef, BalanceSpec | None] = {}
    for item in asked:
        enter(in_force, item.ref, item.own, item.now)
    held = await open_balances(vault, wanted, None if is_paused else in_force)
    for request in requests:
        await _give_up(vault, request)
    for item in asked:
        item.holding = held.get(item.ref)
    returns = [
        Return(Uid(item.uid.outbox_id, item.uid.incarnation_id, item.uid.seq), item.lease_id, item.amount)
        for request in requests
        for item in request.returns
    ]
    if returns:
        freed = Freed(vault)
        found = await read_leases(uow, among(leases.c.id, (item.lease_id for item in returns)))
        await freed.load(found.values())
        changed = await apply_returns(uow, freed, found, returns)
        await freed.pay()
        await update_leases(uow, changed)
    for holding in vault.held.values():
        await catch_up(vault, holding)
