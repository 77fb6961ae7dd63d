"""Grants that somebody makes: top-ups, gifts, corrections; and their void."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from control_plane.db.unit_of_work import ChangeKind, UnitOfWork
from control_plane.leases.recalls import post_recalls
from control_plane.ledger.facts import came_free, settle
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.rows import BASE, BalanceRow, GrantRow
from control_plane.ledger.tables import grants
from sidecar.engine.values import MAX_AMOUNT, BalanceKind, BalanceRef


class GrantConflict(Exception):
    """A grant of this id exists with another content."""


class GrantUnknown(LookupError):
    """There is no grant of this id."""


class GrantRefused(ValueError):
    """A grant's amount is above 0 and fits 63 bits; it expires after it becomes effective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGrant:
    """What goes into a wallet. `amount` at the unit's `scale`; `scope`: features that may spend it, empty:
    all.
    """

    grant_id: str
    customer_id: str
    unit: str
    scale: int
    amount: int
    effective_at: datetime
    expires_at: datetime | None = None
    priority: int = 0
    scope: Iterable[str] = ()
    cost_basis: str = "0"
    source: str = "manual"


async def create_grant(uow: UnitOfWork, new: NewGrant) -> GrantRow:
    """Puts a grant into the customer's wallet of its unit; open overage is paid from it at once. The same
    again changes nothing.

    Raises GrantRefused, or GrantConflict for the same id with other content.
    """
    if not 0 < new.amount <= MAX_AMOUNT or (
        new.expires_at is not None and new.expires_at <= new.effective_at
    ):
        raise GrantRefused(f"{new.grant_id}: {GrantRefused.__doc__}")
    ref = BalanceRef(new.customer_id, "", f"wallet:{new.unit}")
    vault = Vault(uow)
    wallet = BalanceRow(
        id=balance_id(ref),
        customer_id=new.customer_id,
        subject_id="",
        name=ref.balance,
        kind=BalanceKind.WALLET.name,
        unit=new.unit,
        scale=new.scale,
        overage=0,
        version=0,
        changed_at=uow.now,
    )
    await vault.create([wallet])
    holding = (await vault.lock([wallet.id]))[wallet.id]
    made = _row(new, wallet.id, uow.now)
    query = select(grants).where(grants.c.id == new.grant_id)
    existing = (await uow.connection.execute(query)).mappings().first()
    if existing is not None:
        known = GrantRow(**existing)
        if _content(known) != _content(made):
            raise GrantConflict(f"{new.grant_id}: {GrantConflict.__doc__}")
        return known
    await vault.load_windows({wallet.id: [None]})
    holding.add(made)
    made.begun = made.effective_at <= uow.now
    await came_free(vault, holding, [made], cause="grant")
    await vault.save()
    uow.change(ChangeKind.CUSTOMER, new.customer_id)
    return made


async def void_grant(uow: UnitOfWork, grant_id: str) -> GrantRow:
    """Ends a grant now: what is available is over at once, the rest as its slices return. Again changes
    nothing.

    What was burned before stays burned. Raises GrantUnknown.
    """
    owner = select(grants.c.balance_id).where(grants.c.id == grant_id)
    found = (await uow.connection.execute(owner)).scalar_one_or_none()
    if found is None:
        raise GrantUnknown(grant_id)
    vault = Vault(uow)
    holding = (await vault.lock([found]))[found]
    await vault.load_grants([grant_id])
    grant = holding.grants[grant_id]
    if grant.voided_at is not None or grant.expiry_booked:
        return grant
    grant.voided_at = max(uow.now, grant.effective_at)
    grant.end()
    holding.because(grant, "void")
    if grant.burned or holding.row.overage:
        # A fact that occurs later than the void may have burned it already.
        await settle(vault, holding, grant.window_start, cause="void")
    await vault.save()
    if grant.leased:
        await post_recalls(uow, [holding.row], idle_only=False)
    uow.change(ChangeKind.CUSTOMER, grant.customer_id)
    return grant


def _row(new: NewGrant, balance: str, now: datetime) -> GrantRow:
    return GrantRow(
        id=new.grant_id,
        balance_id=balance,
        customer_id=new.customer_id,
        role=BASE,
        amount=new.amount,
        target=new.amount,
        available=new.amount,
        priority=new.priority,
        scope=sorted(new.scope),
        effective_at=new.effective_at,
        expires_at=new.expires_at,
        window_start=None,
        cost_basis=new.cost_basis,
        source=new.source,
        created_at=now,
    )


def _content(grant: GrantRow) -> tuple[object, ...]:
    return (
        grant.balance_id,
        grant.amount,
        grant.priority,
        grant.scope,
        grant.effective_at,
        grant.expires_at,
        grant.cost_basis,
    )
