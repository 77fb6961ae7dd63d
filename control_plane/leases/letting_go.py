"""How a gauge's verdict ends without its event: whoever was told of it lets it go, or stays silent for too long. The
balances are locked, and the session where one is named.
"""

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, delete, select, tuple_

from control_plane.db.among import among
from control_plane.db.bulk import read_by_keys
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.gauges import Change, State, held_by, read_changes, write_changes
from control_plane.leases.settings import LeaseSettings, QuarantinePolicy
from control_plane.leases.tables import ASK_KEY, Incarnation, gauge_asks, gauge_changes, of_holder
from control_plane.ledger.holding import Vault
from control_plane.usage.lateness import KEPT_MIN
from control_plane.usage.tables import dead_letters
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync

SWEPT_AT_ONCE: Final = 300
Key = tuple[str, str, str]
"""Balance, holder, event."""
Ending = Callable[[Change, datetime], None]
"""Changes a verdict that nobody has a claim to any more. Never does its holder hold more for it."""


@dataclass(slots=True)
class Ended:
    """What came of letting go, of one balance."""

    verdicts: int = 0
    freed: int = 0


async def give_up(
    uow: UnitOfWork, balance_id: str, holder: session.Holder, request_ids: Collection[str]
) -> bool:
    """These requests came to nothing: a verdict that no other was told of is over. Was there one?"""
    mine = (
        _told(holder) & (gauge_asks.c.balance_id == balance_id) & among(gauge_asks.c.request_id, request_ids)
    )
    return bool(await _let_go(uow, mine, _lapse))


async def lose_key(uow: UnitOfWork, balance_id: str, asker: Incarnation, event_key: str) -> bool:
    """Another event has won the key for which this incarnation was told a verdict: its own can not be booked any more.
    Was there one that no other was told of?
    """
    mine = (
        of_holder(gauge_asks, asker)
        & (gauge_asks.c.balance_id == balance_id)
        & (gauge_asks.c.event_key == event_key)
    )
    return bool(await _let_go(uow, mine, _lapse))


async def gauges_asked(uow: UnitOfWork, holder: session.Holder) -> list[str]:
    """Balances of which this incarnation was told verdicts that it has not let go."""
    query = select(gauge_asks.c.balance_id).where(_told(holder)).distinct()
    return list((await uow.connection.execute(query)).scalars())


async def end_session(uow: UnitOfWork, holder: session.Holder) -> Collection[str]:
    """Everything that this incarnation wrote is in the books. What it was told of and is not among that came to
    nothing, but for what lies in the dead letters: that was acknowledged. Returns the balances.
    """
    buried = await _buried_keys(uow, holder)

    def ending(verdict: Change, now: datetime) -> None:
        (_presume if verdict.event_key in buried else _lapse)(verdict, now)

    return (await _let_go(uow, _told(holder), ending)).keys()


async def release(uow: UnitOfWork, holder: session.Holder) -> dict[str, Ended]:
    """An operator says that this incarnation is gone for good: what it took and never confirmed is free. By balance."""
    return await _let_go(uow, _told(holder), _lapse)


async def sweep_verdicts(uow: UnitOfWork, settings: LeaseSettings) -> int:
    """Does what the policy says with some of the verdicts of which nothing was heard for too long; returns how many."""
    silent = (gauge_changes.c.state == State.VERDICT) & (gauge_changes.c.due_at <= uow.now)
    query = select(gauge_changes.c.balance_id).where(silent).distinct().limit(SWEPT_AT_ONCE)
    ids = list((await uow.connection.execute(query)).scalars())
    if not ids:
        return 0
    vault = Vault(uow)
    for holding in (await vault.lock(ids)).values():
        holding.touched = True
    columns = gauge_changes.c.balance_id, gauge_changes.c.holder_id, gauge_changes.c.event_key
    due = select(*columns).where(silent, among(gauge_changes.c.balance_id, ids)).limit(SWEPT_AT_ONCE)
    keys = [(balance, holder, event) for balance, holder, event in await uow.connection.execute(due)]
    ending: Ending = _presume
    if settings.quarantine_policy is QuarantinePolicy.RELEASE:
        ending = _lapse
        await uow.connection.execute(delete(gauge_asks).where(_among(keys)))
    await _end(uow, keys, ending)
    await vault.save()
    return len(keys)


async def forget_lapsed(uow: UnitOfWork) -> None:
    """Deletes what lapsed so long ago that its event's key would be forgotten, too: until then an event that comes is
    booked at its verdict's instant.
    """
    old = (gauge_changes.c.state == State.LAPSED) & (gauge_changes.c.due_at <= uow.now - KEPT_MIN)
    await uow.connection.execute(delete(gauge_changes).where(old))


def _lapse(verdict: Change, now: datetime) -> None:
    verdict.state, verdict.due_at = State.LAPSED, now


def _presume(verdict: Change, _now: datetime) -> None:
    verdict.state, verdict.due_at = State.PRESUMED, None


def _told(holder: session.Holder) -> ColumnElement[bool]:
    return of_holder(gauge_asks, holder)


def _among(keys: Collection[Key]) -> ColumnElement[bool]:
    return tuple_(*ASK_KEY).in_(keys)


async def _let_go(uow: UnitOfWork, asks: ColumnElement[bool], ending: Ending) -> dict[str, Ended]:
    """These asks are over; and so are the verdicts that nobody else has a claim to."""
    told = await _keys(uow, asks)
    if not told:
        return {}
    await uow.connection.execute(delete(gauge_asks).where(asks))
    others = await read_by_keys(uow.connection, select(*ASK_KEY).distinct(), ASK_KEY, sorted(told))
    told -= {(balance_id, holder_id, event_key) for balance_id, holder_id, event_key in others}
    return await _end(uow, told, ending)


async def _end(uow: UnitOfWork, keys: Collection[Key], ending: Ending) -> dict[str, Ended]:
    """Ends them, and answers what that freed, by balance."""
    by_holder: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for balance_id, holder_id, event_key in keys:
        by_holder[balance_id, holder_id].add(event_key)
    ended: defaultdict[str, Ended] = defaultdict(Ended)
    for (balance_id, holder_id), event_keys in sorted(by_holder.items()):
        changes = await read_changes(uow, balance_id, holder_id)
        before = held_by(changes)
        for one in changes:
            if one.event_key in event_keys and one.is_unconfirmed:
                ending(one, uow.now)
                ended[balance_id].verdicts += 1
        ended[balance_id].freed += before - held_by(changes)
        await write_changes(uow, balance_id, holder_id, changes)
    return dict(ended)


async def _buried_keys(uow: UnitOfWork, holder: session.Holder) -> set[str]:
    """Keys of what this incarnation wrote that waits as a dead letter, and can still be booked."""
    theirs = dead_letters.c.uid.startswith(f"{holder.outbox_id}/{holder.incarnation_id}/", autoescape=True)
    query = select(dead_letters.c.record).where(
        theirs, dead_letters.c.state == "open", dead_letters.c.reason != "KEY_CONFLICT"
    )
    records = (await uow.connection.execute(query)).scalars()
    return {sync.Record.FromString(bytes(one)).usage.event.idempotency_key for one in records}


async def _keys(uow: UnitOfWork, asks: ColumnElement[bool]) -> set[Key]:
    rows = await uow.connection.execute(select(*ASK_KEY).where(asks).distinct())
    return {(balance_id, holder_id, event_key) for balance_id, holder_id, event_key in rows}
