"""Leases that holders present after a restore: those that the backup has not seen are entered again."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
from sqlalchemy import select

from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.returns import await_returns
from control_plane.leases.rows import LeaseRow, Slice, insert_leases
from control_plane.leases.settings import LeaseSettings
from control_plane.leases.tables import leases
from control_plane.ledger.expiry import catch_up
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.occurrences import Wanted
from control_plane.ledger.opening import lock_balances, open_balances
from control_plane.ledger.rows import GrantRow
from control_plane.ledger.specs import find_spec
from control_plane.ledger.tables import grants
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.values import BalanceRef

_MOMENT: Final = datetime.resolution


async def enter_presented(
    uow: UnitOfWork,
    settings: LeaseSettings,
    holder: session.Holder,
    presented: Collection[session.PresentedLease],
) -> None:
    """Enters those that are not known as leases of this incarnation, with their slices; the known stay as they are.

    A slice takes what its grant has left. What the grant has not is not covered: it is logged, and what the holder has
    spent of it becomes overage when it is reported. What was given back before is left to those who got it then, and
    its records, which come again, find it done. The holder's session is locked.
    """
    new = await _unknown(uow, presented)
    if not new:
        return
    vault = Vault(uow)
    await _open(vault, new)
    revision = await uow.read_revision()
    made: list[LeaseRow] = []
    for lease in new:
        entered = _enter(vault, settings, holder, lease, revision)
        wanted = sum(piece.amount for piece in _kept(lease))
        if entered is not None:
            made.append(entered)
        covered = entered.allotted if entered is not None else 0
        log = structlog.get_logger("control_plane.leases").bind(
            lease_id=lease.lease_id,
            customer_id=lease.ref.customer_id,
            balance=lease.ref.balance,
            covered=covered,
            outbox_id=holder.outbox_id,
        )
        if covered < wanted:
            log.error("presented_lease_not_covered", missing=wanted - covered)
        else:
            log.info("presented_lease_entered")
    await vault.save()  # slices refer to grants, some of which are new
    await insert_leases(uow, made)
    entered_ids = {row.id for row in made}
    returned = {lease.lease_id: lease.returned for lease in new if lease.lease_id in entered_ids}
    await await_returns(uow, holder, returned)


async def _unknown(
    uow: UnitOfWork, presented: Collection[session.PresentedLease]
) -> Sequence[session.PresentedLease]:
    by_id = {lease.lease_id: lease for lease in presented if lease.slices and lease.HasField("ends_at")}
    ids = sorted(by_id)
    known = set((await uow.connection.execute(select(leases.c.id).where(among(leases.c.id, ids)))).scalars())
    return [by_id[lease_id] for lease_id in ids if lease_id not in known]


async def _open(vault: Vault, new: Sequence[session.PresentedLease]) -> None:
    """Locks the balances, with the occurrences that the leases were of and every grant that they name."""
    names = sorted({piece.grant_id for lease in new for piece in lease.slices})
    query = select(grants.c.balance_id).where(among(grants.c.id, names))
    also = (await vault.uow.connection.execute(query)).scalars()
    await lock_balances(vault, {_ref(lease) for lease in new}, also=also)
    wanted: dict[tuple[BalanceRef, datetime], Wanted] = {}
    for lease in new:
        ref, at = _ref(lease), _ends_at(lease) - _MOMENT  # a lease never outlives its period
        found = await find_spec(vault.uow, ref, at)
        if found is not None and not found.spec.unlimited:
            wanted[ref, at] = Wanted(ref, found.spec, at, found.entitlements.grants)
    # A limit that was lowered since takes what is left once these leases are in the books.
    await open_balances(vault, list(wanted.values()), None)
    await vault.load_grants(names)
    for holding in vault.held.values():
        await catch_up(vault, holding)


def _enter(
    vault: Vault,
    settings: LeaseSettings,
    holder: session.Holder,
    lease: session.PresentedLease,
    revision: int,
) -> LeaseRow | None:
    """The lease with what its grants have left; None: nothing at all."""
    identity = balance_id(_ref(lease))
    holding = vault.held.get(identity)
    known: Mapping[str, GrantRow] = holding.grants if holding is not None else {}
    taken: list[Slice] = []
    for piece in _kept(lease):
        grant = known.get(piece.grant_id)
        part = min(piece.amount, _left(grant)) if grant is not None else 0
        if holding is None or grant is None or not part:
            continue
        grant.draw(part)
        grant.leased += part
        holding.because(grant, "presented")
        taken.append(Slice(grant.id, part))
    if not taken:
        return None
    first = [known[piece.grant_id] for piece in taken]
    ends_at = _ends_at(lease)
    ends = [grant.ends_at for grant in first if grant.ends_at is not None]
    # When it began is not told. Usage is booked within the lease's window: that may be early, but not before its
    # grants.
    begins_at = max(ends_at - settings.ttl, *(grant.effective_at for grant in first))
    allotted = sum(piece.amount for piece in taken)
    return LeaseRow(
        id=lease.lease_id,
        balance_id=identity,
        outbox_id=holder.outbox_id,
        incarnation_id=holder.incarnation_id,
        scope=first[0].scope,
        allotted=allotted,
        unsettled=allotted,
        begins_at=min(begins_at, ends_at - _MOMENT),
        ends_at=ends_at,
        never_after=min(ends) if ends else None,
        quarantine_at=settings.lengthened(begins_at, ends_at),
        revision=revision,
        created_at=vault.now,
        changed_at=vault.now,
        slices=taken,
    )


def _kept(lease: session.PresentedLease) -> Sequence[Slice]:
    """Its slices without what was given back, which went from the last ones first."""
    left = sum(piece.amount for piece in lease.slices if piece.amount > 0) - max(0, lease.returned)
    kept: list[Slice] = []
    for piece in lease.slices:
        part = min(piece.amount, left)
        if part > 0:
            kept.append(Slice(piece.grant_id, part))
            left -= part
    return kept


def _left(grant: GrantRow) -> int:
    """What nobody has of it. A grant that has ended since keeps the slices that were taken before: they are in
    what ended, beside what a cut or a rollover took.
    """
    return grant.available + max(0, grant.ended - grant.cut - grant.rolled)


def _ref(lease: session.PresentedLease) -> BalanceRef:
    return BalanceRef(lease.ref.customer_id, lease.ref.subject_id, lease.ref.balance)


def _ends_at(lease: session.PresentedLease) -> datetime:
    return lease.ends_at.ToDatetime(UTC)
