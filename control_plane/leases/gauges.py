"""Gauges: who holds how much, as a function of the set of changes that are booked or stand as verdicts.

A verdict is provisional: it counts until its event is booked, its holder gives it up, or its time is over. The
balance is locked by whoever changes anything here.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog
from sqlalchemy import ColumnElement, RowMapping, delete, func, insert, select, update

from control_plane.db.types import MICROSECOND, AmountOutOfRange
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import gauge_changes, gauge_holders
from control_plane.ledger.holding import Vault, insert_missing
from control_plane.usage.tables import event_keys
from sidecar.engine.values import MAX_AMOUNT

SWEPT_AT_ONCE: Final = 300
LAPSED_KEPT: Final = timedelta(days=40)
"""As long as keys: an event that comes so late is still booked at its verdict's instant."""


class State(StrEnum):
    """What a change is."""

    VERDICT = "verdict"
    """Allowed, and not in the books yet."""
    LAPSED = "lapsed"
    """A verdict that counts no more. Its event is booked all the same if it comes, at the verdict's instant."""
    BOOKED = "booked"


@dataclass(slots=True, kw_only=True)
class Change:
    """As in the table `gauge_changes`."""

    balance_id: str
    holder_id: str
    event_key: str
    at: datetime
    quantity: int
    adds: bool
    state: State
    expires_at: datetime | None = None
    asked_by: list[str] = field(default_factory=list)
    """Requests that were told of a verdict and have not given it up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """May it go ahead, and what stands in the books after it."""

    allowed: bool
    used: int


def held_by(changes: Iterable[Change]) -> int:
    """What a holder holds after these changes, in whatever order they come: each says how much it is (SET, and REMOVE
    with 0) or is at least (ADD), and the greatest (at, key) has the last word.
    """
    held = 0
    for change in sorted(_counting(changes), key=_order):
        held = max(held, change.quantity) if change.adds else change.quantity
    return held


def needed(changes: Iterable[Change]) -> list[Change]:
    """Those of a holder's changes that can still matter, whatever else may come: nothing booked before the last booked
    SET does, nor an ADD before one that is no smaller.
    """
    kept: list[Change] = []
    added, is_set = -1, False
    for change in sorted(changes, key=_order, reverse=True):
        if change.state is State.BOOKED:
            if is_set or (change.adds and change.quantity <= added):
                continue
            added, is_set = change.quantity, not change.adds
        kept.append(change)
    return kept


def _counting(changes: Iterable[Change]) -> Iterable[Change]:
    return (change for change in changes if change.state is not State.LAPSED)


def _order(change: Change) -> tuple[datetime, str]:
    return (change.at, change.event_key)


async def decide(
    uow: UnitOfWork, asked: Change, *, customer_id: str, limit: int | None, lasts: timedelta
) -> Verdict:
    """May this change be made? If so it counts from now on, after everything that stands, for `lasts` at first.

    `limit` blocks only growing. The same key again is the same verdict, and holds on for longer.
    """
    await lapse(uow, [asked.balance_id])
    used = await held(uow, asked.balance_id)
    changes = await _read(uow, asked.balance_id, asked.holder_id)
    same = next((one for one in changes if one.event_key == asked.event_key), None)
    if same is not None and same.state is State.VERDICT:
        same.asked_by += asked.asked_by
        same.expires_at = uow.now + lasts
        await _write(uow, asked.balance_id, asked.holder_id, changes)
        return Verdict(allowed=True, used=used)
    if (same is not None and same.state is State.BOOKED) or await _is_booked(
        uow, customer_id, asked.event_key
    ):
        return Verdict(allowed=True, used=used)
    others = [one for one in changes if one.event_key != asked.event_key]
    newest = max((one.at for one in _counting(others)), default=None)
    if newest is not None and asked.at <= newest:
        asked.at = newest + MICROSECOND  # it is decided now: a clock that is late must not undo it
    before, after = held_by(others), held_by([*others, asked])
    total = used - before + after
    if after > before and total > (MAX_AMOUNT if limit is None else limit):
        return Verdict(allowed=False, used=used)
    asked.expires_at = uow.now + lasts
    await _write(uow, asked.balance_id, asked.holder_id, [*others, asked])
    return Verdict(allowed=True, used=total)


async def settle(uow: UnitOfWork, change: Change, *, about: str) -> None:
    """Books a change, whatever the limit: at its verdict's instant where there was one, else at its own.

    Raises AmountOutOfRange where what is held of `about` would leave 63 bits.
    """
    changes = await _read(uow, change.balance_id, change.holder_id)
    verdict = next((one for one in changes if one.event_key == change.event_key), None)
    if verdict is not None:
        change.at = verdict.at
        if verdict.state is State.LAPSED:
            log = structlog.get_logger("control_plane.leases")
            log.warning(
                "verdict_confirmed_late", balance=about, holder_id=change.holder_id, key=change.event_key
            )
    rest = [one for one in changes if one is not verdict]
    used = await held(uow, change.balance_id) - held_by(changes) + held_by([*rest, change])
    if used > MAX_AMOUNT:
        raise AmountOutOfRange(f"what is held of {about} would not fit 63 bits")
    await _write(uow, change.balance_id, change.holder_id, needed([*rest, change]))


async def give_up(uow: UnitOfWork, balance_id: str, requests: Collection[str]) -> bool:
    """Ends the verdicts that nobody but these requests was told of: they came to nothing. Was there one?"""
    mine = (gauge_changes.c.balance_id == balance_id) & (gauge_changes.c.state == State.VERDICT)
    rows = (await uow.connection.execute(select(gauge_changes).where(mine))).mappings()
    ended = False
    for verdict in [_change(row) for row in rows]:
        left = [one for one in verdict.asked_by if one not in requests]
        if left != verdict.asked_by:
            changes = await _read(uow, balance_id, verdict.holder_id)
            (same,) = [one for one in changes if one.event_key == verdict.event_key]
            same.asked_by = left
            same.state = same.state if left else State.LAPSED
            ended |= not left
            await _write(uow, balance_id, verdict.holder_id, changes)
    return ended


async def lapse(uow: UnitOfWork, balance_ids: Collection[str]) -> bool:
    """Ends the verdicts whose time is over. Was there one?"""
    over = gauge_changes.c.balance_id.in_(balance_ids) & (gauge_changes.c.expires_at <= uow.now)
    return await _lapse(uow, over)


async def sweep_verdicts(uow: UnitOfWork) -> int:
    """Ends some of the verdicts whose time is over; returns of how many balances."""
    over = (gauge_changes.c.state == State.VERDICT) & (gauge_changes.c.expires_at <= uow.now)
    query = select(gauge_changes.c.balance_id).where(over).distinct().limit(SWEPT_AT_ONCE)
    ids = list((await uow.connection.execute(query)).scalars())
    if ids:
        vault = Vault(uow)
        for holding in (await vault.lock(ids)).values():
            holding.touched = True
        await lapse(uow, ids)
        await vault.save()
    return len(ids)


async def forget_lapsed(uow: UnitOfWork) -> None:
    """Deletes what lapsed so long ago that no event can come for it."""
    old = (gauge_changes.c.state == State.LAPSED) & (gauge_changes.c.expires_at <= uow.now - LAPSED_KEPT)
    await uow.connection.execute(delete(gauge_changes).where(old))


async def held(uow: UnitOfWork, balance_id: str) -> int:
    """What all holders of a gauge hold."""
    query = select(func.coalesce(func.sum(gauge_holders.c.quantity), 0)).where(
        gauge_holders.c.balance_id == balance_id
    )
    return int((await uow.connection.execute(query)).scalar_one())


async def violations(uow: UnitOfWork) -> list[str]:
    """Holders that hold something else than their changes say, in words. Reads everything."""
    by_holder: defaultdict[tuple[str, str], list[Change]] = defaultdict(list)
    for row in (await uow.connection.execute(select(gauge_changes))).mappings():
        by_holder[row["balance_id"], row["holder_id"]].append(_change(row))
    rows = await uow.connection.execute(select(gauge_holders))
    holds = {(row.balance_id, row.holder_id): row.quantity for row in rows}
    return [
        f"holder {holder} of {balance}: it holds {holds.get((balance, holder), 0)}, its changes say otherwise"
        for balance, holder in by_holder.keys() | holds.keys()
        if holds.get((balance, holder), 0) != held_by(by_holder[balance, holder])
    ]


async def _is_booked(uow: UnitOfWork, customer_id: str, key: str) -> bool:
    query = select(event_keys.c.event_uid).where(
        event_keys.c.customer_id == customer_id, event_keys.c.idempotency_key == key
    )
    return (await uow.connection.execute(query)).first() is not None


async def _lapse(uow: UnitOfWork, which: ColumnElement[bool]) -> bool:
    verdicts = which & (gauge_changes.c.state == State.VERDICT)
    query = select(gauge_changes.c.balance_id, gauge_changes.c.holder_id).where(verdicts).distinct()
    holders = (await uow.connection.execute(query)).all()
    if holders:
        await uow.connection.execute(update(gauge_changes).where(verdicts).values(state=State.LAPSED.value))
    for balance_id, holder_id in holders:
        await _note_held(uow, balance_id, holder_id, await _read(uow, balance_id, holder_id))
    return bool(holders)


async def _read(uow: UnitOfWork, balance_id: str, holder_id: str) -> list[Change]:
    mine = (gauge_changes.c.balance_id == balance_id) & (gauge_changes.c.holder_id == holder_id)
    rows = (await uow.connection.execute(select(gauge_changes).where(mine))).mappings()
    return [_change(row) for row in rows]


def _change(row: RowMapping) -> Change:
    return Change(**{**row, "state": State(row["state"])})


async def _write(uow: UnitOfWork, balance_id: str, holder_id: str, changes: Sequence[Change]) -> None:
    """A holder's changes from now on, and what they come to."""
    mine = (gauge_changes.c.balance_id == balance_id) & (gauge_changes.c.holder_id == holder_id)
    await uow.connection.execute(delete(gauge_changes).where(mine))
    rows = [{**asdict(one), "state": one.state.value} for one in changes]
    await uow.connection.execute(insert(gauge_changes), rows)
    await _note_held(uow, balance_id, holder_id, changes)


async def _note_held(uow: UnitOfWork, balance_id: str, holder_id: str, changes: Sequence[Change]) -> None:
    row = {"balance_id": balance_id, "holder_id": holder_id, "quantity": held_by(changes)}
    await uow.connection.execute(insert_missing(uow, gauge_holders), [row])
    mine = (gauge_holders.c.balance_id == balance_id) & (gauge_holders.c.holder_id == holder_id)
    await uow.connection.execute(update(gauge_holders).where(mine).values(quantity=row["quantity"]))
