"""What time alone does to leases: the expired are quarantined, the silent presumed, the settled closed."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, delete, select

from control_plane.db.among import among
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.faults import Faults, is_database_fault
from control_plane.leases.rows import OPEN, PRESUMED, QUARANTINED, LeaseRow, read_leases, update_leases
from control_plane.leases.settings import LeaseSettings, QuarantinePolicy
from control_plane.leases.settle import Freed
from control_plane.leases.tables import lease_requests, leases, recall_answers, recalls
from control_plane.ledger.holding import Vault
from control_plane.ledger.tables import balances

SWEPT_AT_ONCE: Final = 300
"""Leases per transaction: the sweep holds their balances' locks."""
APART_FOR: Final = timedelta(minutes=1)
"""A balance of which a lease could not be swept is left out for so long."""


class LeaseSweep:
    """Sweeps leases, portion by portion. One that can not be swept holds up its own balance and no other: after a
    failure each balance is swept by itself, and the one at fault is set apart for a while.
    """

    def __init__(self, database: Database, settings: LeaseSettings) -> None:
        self._database = database
        self._settings = settings
        self._apart: dict[str, datetime] = {}
        """Balance → until when it is left out."""

    async def portion(self, *, waits: bool) -> int:
        """As `sweep_leases`, in a transaction. Raises only faults of the database."""

        async def together(uow: UnitOfWork) -> int:
            return await sweep_leases(uow, self._settings, but=self._left_out(uow), waits=waits)

        try:
            return await self._database.transact(together)
        except Exception as error:
            if is_database_fault(error):
                raise
        return await self._each_apart()

    async def _each_apart(self) -> int:
        async def due(uow: UnitOfWork) -> list[str]:
            rows = await _due(uow, _is_due(uow, self._settings), but=self._left_out(uow), waits=True)
            return sorted({balance_id for _, balance_id in rows})

        return sum([await self._alone(balance_id) for balance_id in await self._database.transact(due)])

    async def _alone(self, balance_id: str) -> int:
        async def alone(uow: UnitOfWork) -> int:
            self._apart[balance_id] = uow.now + APART_FOR
            return await sweep_leases(uow, self._settings, only=balance_id)

        try:
            swept = await self._database.transact(alone)
        except Exception as error:
            if is_database_fault(error):
                self._apart.pop(balance_id, None)
                raise
            self._database.kept(Faults).set_apart("sweep", balance_id=balance_id)
            return 0
        self._apart.pop(balance_id, None)
        return swept

    def _left_out(self, uow: UnitOfWork) -> Collection[str]:
        self._apart = {name: until for name, until in self._apart.items() if until > uow.now}
        return self._apart.keys()


async def sweep_leases(
    uow: UnitOfWork,
    settings: LeaseSettings,
    *,
    only: str = "",
    but: Collection[str] = (),
    waits: bool = True,
) -> int:
    """Does what is due to some leases at a time; returns how many there were. `only` those of one balance; `but` not of
    these; without `waits` none of a balance that somebody else has locked.
    """
    due = _is_due(uow, settings)
    if only:
        due &= leases.c.balance_id == only
    rows = await _due(uow, due, but=but, waits=waits)
    if rows:
        ids = among(leases.c.id, (lease_id for lease_id, _ in rows))
        await _settle(uow, settings, due & ids, {balance_id for _, balance_id in rows})
    return len(rows)


def _is_due(uow: UnitOfWork, settings: LeaseSettings) -> ColumnElement[bool]:
    silent_since = uow.now - settings.quarantine_lasts
    return (
        ((leases.c.state == OPEN) & (leases.c.quarantine_at <= uow.now))
        | ((leases.c.state == QUARANTINED) & (leases.c.quarantine_at <= silent_since))
        | (leases.c.state.in_((OPEN, QUARANTINED, PRESUMED)) & (leases.c.unsettled == 0))
    )


async def _due(
    uow: UnitOfWork, due: ColumnElement[bool], *, but: Collection[str], waits: bool
) -> list[tuple[str, str]]:
    """The oldest leases to which something is due, each with its balance. Without `waits` the balances are locked.

    It is balances that are passed by when they are locked, never leases: who has a balance waits for leases of it.
    """
    query = select(leases.c.id, leases.c.balance_id).where(due).order_by(leases.c.id).limit(SWEPT_AT_ONCE)
    if but:
        query = query.where(~among(leases.c.balance_id, but))
    if not waits:
        theirs = balances.c.id == leases.c.balance_id
        query = query.join(balances, theirs).with_for_update(of=balances, skip_locked=True)
    return [(lease_id, balance_id) for lease_id, balance_id in await uow.connection.execute(query)]


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
