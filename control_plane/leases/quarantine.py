"""What time alone does to leases: the expired are quarantined, the silent presumed, the settled closed."""

from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, delete, select

from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.rows import OPEN, PRESUMED, QUARANTINED, LeaseRow, read_leases, update_leases
from control_plane.leases.settings import LeaseSettings, QuarantinePolicy
from control_plane.leases.settle import Freed
from control_plane.leases.tables import lease_requests, leases, recall_answers, recalls
from control_plane.ledger.holding import Vault

SWEPT_AT_ONCE: Final = 300
"""Leases per transaction: the sweep holds their balances' locks."""


async def sweep_leases(uow: UnitOfWork, settings: LeaseSettings) -> int:
    """Does what is due to some leases at a time; returns how many there were."""
    silent_since = uow.now - settings.quarantine_lasts
    due = (
        ((leases.c.state == OPEN) & (leases.c.quarantine_at <= uow.now))
        | ((leases.c.state == QUARANTINED) & (leases.c.quarantine_at <= silent_since))
        | (leases.c.state.in_((OPEN, QUARANTINED, PRESUMED)) & (leases.c.unsettled == 0))
    )
    query = select(leases.c.id, leases.c.balance_id).where(due).order_by(leases.c.id).limit(SWEPT_AT_ONCE)
    rows = (await uow.connection.execute(query)).all()
    if rows:
        await _settle(
            uow,
            settings,
            due & among(leases.c.id, (row.id for row in rows)),
            {row.balance_id for row in rows},
        )
    return len(rows)


async def _settle(
    uow: UnitOfWork, settings: LeaseSettings, due: ColumnElement[bool], balance_ids: set[str]
) -> None:
    vault = Vault(uow)
    await vault.lock(balance_ids)
    freed = Freed(vault)
    found = list((await read_leases(uow, due)).values())
    await freed.load(found)
    for lease in found:
        _one(freed, lease, settings, uow.now)
    await freed.pay(cause="release")
    await update_leases(uow, found)
    await vault.save()


def _one(freed: Freed, lease: LeaseRow, settings: LeaseSettings, now: datetime) -> None:
    if lease.unsettled == 0:
        freed.close(lease)
    elif lease.state == OPEN:
        freed.quarantine(lease)
    elif settings.quarantine_policy is QuarantinePolicy.RELEASE:
        freed.close(lease)
    elif lease.quarantine_at <= now - settings.quarantine_lasts:
        freed.presume(lease)


async def forget_replies(uow: UnitOfWork, settings: LeaseSettings) -> None:
    """Deletes replies and recalls that nobody can ask for any more."""
    old = uow.now - settings.reply_kept
    connection = uow.connection
    await connection.execute(delete(lease_requests).where(lease_requests.c.created_at < old))
    await connection.execute(delete(recall_answers).where(recall_answers.c.answered_at < old))
    await connection.execute(delete(recalls).where(recalls.c.created_at < old))
