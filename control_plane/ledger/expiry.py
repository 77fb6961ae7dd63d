"""What time alone does to grants: they end, roll over, and begin to pay what stayed open."""

from typing import Final

from sqlalchemy import and_, or_, select

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.facts import settle
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.tables import grants

SWEPT_AT_ONCE: Final = 200
"""Balances per transaction: the sweep holds their locks."""


async def catch_up(vault: Vault, holding: Holding) -> None:
    """Books ends and beginnings of loaded grants that are due; what rolls over becomes an occurrence of its
    own.
    """
    windows = set()
    for grant in list(holding.grants.values()):
        if not grant.begun and grant.effective_at <= vault.now:
            grant.begun = True
            if holding.row.overage:
                windows.add(grant.window_start)
        if not grant.expiry_booked and grant.is_over(vault.now):
            holding.because(grant, "expiry")
            grant.end()
            if grant.rollover_max:
                windows.add(grant.window_start)
    for start in windows:
        await settle(vault, holding, start, cause="time")


async def sweep_grants(uow: UnitOfWork) -> int:
    """Books what is due, some balances at a time; returns how many balances were due."""
    due = (
        select(grants.c.balance_id)
        .where(
            or_(
                and_(grants.c.begun.is_(False), grants.c.effective_at <= uow.now),
                and_(grants.c.expiry_booked.is_(False), grants.c.expires_at <= uow.now),
            )
        )
        .distinct()
        .limit(SWEPT_AT_ONCE)
    )
    ids = list((await uow.connection.execute(due)).scalars())
    vault = Vault(uow)
    held = await vault.lock(ids)
    await vault.load_live(list(held))
    for holding in held.values():
        await catch_up(vault, holding)
    await vault.save()
    return len(ids)
