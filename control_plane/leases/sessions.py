"""Sessions: which process speaks for an outbox, how far its usage is in the books, and when its leases
close.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import insert, select, update

from control_plane.db.bulk import read_by_keys
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.letting_go import end_session, gauges_asked
from control_plane.leases.presented import enter_presented
from control_plane.leases.restored import note_resumed, read_generation
from control_plane.leases.rows import CLOSED, LeaseRow, read_leases, update_leases
from control_plane.leases.settings import DEFAULTS, LeaseSettings
from control_plane.leases.settle import Freed
from control_plane.leases.tables import HolderKey, holder_key, leases, of_holder, sessions
from control_plane.ledger.holding import Vault
from purser.sync.v1 import session_pb2 as session

OPEN: Final = "open"
AWAITED: Final = "awaited"
SUPERSEDED: Final = "superseded"
ENDED: Final = "ended"
SET_ASIDE: Final = "set_aside"


class Superseded(Exception):
    """A later incarnation has opened, or the epoch is not this incarnation's: it acquires no more. Its usage
    is still taken.
    """


@dataclass(slots=True, kw_only=True)
class SessionRow:
    """As in the table `sessions`."""

    outbox_id: str
    incarnation_id: str
    epoch: int
    cursor: int
    highest_seq: int
    label: str
    state: str
    opened_at: datetime
    seen_at: datetime
    declared_dead_at: datetime | None = None


async def open_session(
    uow: UnitOfWork, request: session.OpenSessionRequest, settings: LeaseSettings = DEFAULTS
) -> session.OpenSessionResponse:
    """Begins a session, or repeats it; the incarnations that it lists can open no more.

    An incarnation that is missing from the list, or below the highest number that was seen of it, means that
    the disk was rolled back: everything of that outbox is set aside, nothing is closed. Where only who asks is below,
    it may as well be an earlier request of the same process that was held up on its way, and which its usage has
    overtaken: it is told so, nothing changes, and it asks again. One that speaks of the generation before a restore
    may leave out what has ended since the backup, and presents its leases. Raises Superseded.
    """
    holder = request.holder
    known = await _of_outbox(uow, holder.outbox_id)
    listed = {state.incarnation_id: state.last_seq for state in request.open_incarnations}
    mine = known.get(holder.incarnation_id)
    if mine is not None and mine.state in {SUPERSEDED, ENDED}:
        # A late repeat: it does not know of those that came after it, and that is no sign of a disk rolled back.
        raise Superseded(f"incarnation {holder.incarnation_id} is {mine.state}")
    generation = await read_generation(uow)
    was_restored = generation.restored_at is not None and request.generation not in {0, generation.number}
    response = session.OpenSessionResponse(generation=generation.number)
    response.now.FromDatetime(uow.now)
    if behind := _rolled_back(known, listed, holder.incarnation_id, may_be_missing=was_restored):
        if behind != {holder.incarnation_id}:
            await _set_aside(uow, holder.outbox_id)
        response.rolled_back = True
        _add_cursors(response, known, listed)
        return response
    if mine is None:
        epoch = 1 + max((row.epoch for row in known.values()), default=0)
        mine = _row(uow, holder, epoch=epoch, label=request.label, state=OPEN)
        await uow.connection.execute(insert(sessions), [_values(mine)])
    known[holder.incarnation_id] = mine
    # Who speaks of a restored generation lists more the second time: those that ended since the backup send again, too.
    for incarnation_id in sorted(listed.keys() - known.keys()):
        other = session.Holder(outbox_id=holder.outbox_id, incarnation_id=incarnation_id)
        known[incarnation_id] = _row(uow, other, epoch=0, label=request.label, state=SUPERSEDED)
        await uow.connection.execute(insert(sessions), [_values(known[incarnation_id])])
    mine.label, mine.seen_at, mine.state = request.label, uow.now, OPEN
    for row in known.values():
        row.highest_seq = max(row.highest_seq, listed.get(row.incarnation_id, 0))
        if row is not mine and row.state in {OPEN, AWAITED}:
            row.state = SUPERSEDED
        await save_session(uow, row)
    if was_restored:
        await enter_presented(uow, settings, holder, request.presented_leases)
    response.epoch = mine.epoch
    _add_cursors(response, known, listed)
    await note_resumed(uow, generation)
    return response


async def close_session(
    uow: UnitOfWork, request: session.CloseSessionRequest
) -> session.CloseSessionResponse:
    """Closes all leases of an incarnation but for `keep`, once its cursor has reached `final_seq`; only an
    empty `keep` ends it.

    Repeating it with the same or a smaller `keep` is safe. After a salvage nothing is closed.
    """
    holder = request.holder
    row = await lock_session(uow, holder)
    if row is None:
        row = _row(uow, holder, epoch=0, label="", state=SUPERSEDED)
        await uow.connection.execute(insert(sessions), [_values(row)])
    if row.state in {ENDED, SET_ASIDE}:
        return session.CloseSessionResponse(ended=row.state == ENDED, cursor=row.cursor)
    if row.cursor < request.final_seq:
        return session.CloseSessionResponse(ended=False, cursor=row.cursor)
    keep = {item.lease_id: item.amount for item in request.keep}
    await close_leases(uow, holder, keep)
    row.state = row.state if keep else ENDED
    row.seen_at = uow.now
    await save_session(uow, row)
    return session.CloseSessionResponse(ended=not keep, cursor=row.cursor)


async def close_leases(uow: UnitOfWork, holder: session.Holder, keep: Mapping[str, int]) -> None:
    """Gives back what is unsettled above `keep`, lease by lease; a lease without `keep` is closed. Without any `keep`
    verdicts whose event did not come are over, too.
    """
    gauges = () if keep else await gauges_asked(uow, holder)
    freed, found = await lock_leases(uow, holder, also=gauges)
    for lease in found:
        _close(freed, lease, keep.get(lease.id, 0))
    for balance_id in await end_session(uow, holder) if gauges else ():
        freed.vault.held[balance_id].touched = True
    await freed.pay(cause="close")
    await update_leases(uow, found)
    await freed.vault.save()


async def lock_leases(
    uow: UnitOfWork, holder: session.Holder, *, also: Collection[str] = ()
) -> tuple[Freed, list[LeaseRow]]:
    """An incarnation's leases that are not closed, by id, with all that they were taken from; everything locked, and
    these balances `also`.
    """
    theirs = of_holder(leases, holder) & (leases.c.state != CLOSED)
    balance_ids = (
        await uow.connection.execute(select(leases.c.balance_id).where(theirs).distinct())
    ).scalars()
    vault = Vault(uow)
    await vault.lock({*balance_ids, *also})
    freed = Freed(vault)
    found = list((await read_leases(uow, theirs)).values())
    await freed.load(found)
    return freed, found


def _close(freed: Freed, lease: LeaseRow, kept: int) -> None:
    if kept > 0:
        freed.give_back(lease, max(0, lease.unsettled - kept))
    else:
        freed.close(lease)


async def lock_session(uow: UnitOfWork, holder: session.Holder) -> SessionRow | None:
    """The incarnation's row, locked: what it sends is worked on one after the other. None: never heard of."""
    query = select(sessions).where(of_holder(sessions, holder)).with_for_update()
    row = (await uow.connection.execute(query)).mappings().first()
    return SessionRow(**row) if row is not None else None


async def lock_or_make_session(uow: UnitOfWork, holder: session.Holder) -> SessionRow:
    """As `lock_session`; an incarnation that was offline all its life gets a row that can not acquire.

    Raises Superseded after a restore, until a session was opened again: usage of leases that the backup has not seen
    comes after they were presented, or it would be booked beside them.
    """
    row = await lock_session(uow, holder)
    if row is not None and row.state == AWAITED:
        raise Superseded("the control plane was restored: open the session again")
    if row is None:
        if (await read_generation(uow)).restored_at is not None:
            raise Superseded("the control plane was restored, and does not know this incarnation (yet)")
        row = _row(uow, holder, epoch=0, label="", state=SUPERSEDED)
        await uow.connection.execute(insert(sessions), [_values(row)])
    return row


async def acquiring_sessions(
    uow: UnitOfWork, requests: Collection[session.AcquireLeasesRequest]
) -> dict[HolderKey, SessionRow]:
    """The rows of all whose epoch lets them acquire, locked, by holder. Of several those are left out whose row is
    locked already: nobody waits for what somebody else has sent.
    """
    epochs = {holder_key(request.holder): request.epoch for request in requests}
    key = sessions.c.outbox_id, sessions.c.incarnation_id
    wanted = select(sessions).order_by(*key).with_for_update(skip_locked=len(requests) > 1)
    found = {}
    for values in await read_by_keys(uow.connection, wanted, key, sorted(epochs)):
        row = SessionRow(**values._asdict())
        if row.state == OPEN and row.epoch == epochs[holder_key(row)]:
            found[holder_key(row)] = row
    return found


async def save_session(uow: UnitOfWork, row: SessionRow) -> None:
    """Writes what may change of it."""
    await uow.connection.execute(
        update(sessions)
        .where(of_holder(sessions, row))
        .values(
            cursor=row.cursor,
            highest_seq=max(row.highest_seq, row.cursor),
            label=row.label,
            state=row.state,
            seen_at=row.seen_at,
            declared_dead_at=row.declared_dead_at,
        )
    )


async def _of_outbox(uow: UnitOfWork, outbox_id: str) -> dict[str, SessionRow]:
    query = (
        select(sessions)
        .where(sessions.c.outbox_id == outbox_id)
        .order_by(sessions.c.incarnation_id)
        .with_for_update()
    )
    rows = (await uow.connection.execute(query)).mappings()
    return {row["incarnation_id"]: SessionRow(**row) for row in rows}


def _rolled_back(
    known: Mapping[str, SessionRow], listed: Mapping[str, int], mine: str, *, may_be_missing: bool
) -> set[str]:
    """The incarnations that tell of it."""
    behind = set()
    for row in known.values():
        if row.state == SET_ASIDE:
            behind.add(row.incarnation_id)
        elif row.state == ENDED:
            continue
        elif row.incarnation_id not in listed and row.incarnation_id != mine:
            if not may_be_missing:
                behind.add(row.incarnation_id)
        elif listed.get(row.incarnation_id, 0) < max(row.highest_seq, row.cursor):
            behind.add(row.incarnation_id)
    return behind


async def _set_aside(uow: UnitOfWork, outbox_id: str) -> None:
    await uow.connection.execute(
        update(sessions)
        .where(sessions.c.outbox_id == outbox_id, sessions.c.state != ENDED)
        .values(state=SET_ASIDE)
    )


def _add_cursors(
    response: session.OpenSessionResponse, known: Mapping[str, SessionRow], listed: Mapping[str, int]
) -> None:
    for incarnation_id in sorted(listed.keys() | known.keys()):
        row = known.get(incarnation_id)
        if row is None or row.state != ENDED or incarnation_id in listed:
            response.cursors.add(incarnation_id=incarnation_id, last_seq=row.cursor if row else 0)


def _row(uow: UnitOfWork, holder: session.Holder, *, epoch: int, label: str, state: str) -> SessionRow:
    return SessionRow(
        outbox_id=holder.outbox_id,
        incarnation_id=holder.incarnation_id,
        epoch=epoch,
        cursor=0,
        highest_seq=0,
        label=label,
        state=state,
        opened_at=uow.now,
        seen_at=uow.now,
    )


def _values(row: SessionRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in SessionRow.__slots__}
