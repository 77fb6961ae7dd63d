"""Records that could not be booked: kept, counted, shown, replayable."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import delete, func, select, update

from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.errors import NotFound
from control_plane.leases.returns import Uid
from control_plane.ledger.holding import insert_missing
from control_plane.usage.records import Item
from control_plane.usage.tables import dead_letters
from purser.sync.v1 import usage_pb2 as sync

OPEN: Final = "open"
REPLAYED: Final = "replayed"


class DeadReason(StrEnum):
    """Why a record was not booked."""

    UNKNOWN_CUSTOMER = "UNKNOWN_CUSTOMER"
    KEY_CONFLICT = "KEY_CONFLICT"
    UNBOOKABLE = "UNBOOKABLE"
    UNREADABLE = "UNREADABLE"
    """It was spoiled on its sidecar's disk: what is left of it is in the dead letter."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A record with what is wrong with it."""

    item: Item
    reason: DeadReason
    message: str


async def bury(uow: UnitOfWork, dead: Sequence[Dead]) -> None:
    """Keeps them. One that is there already stays as it was."""
    rows: list[dict[str, Any]] = [
        {
            "uid": one.item.name,
            "customer_id": one.item.usage.event.customer_id.replace("\0", ""),
            "reason": one.reason.value,
            "message": one.message.replace("\0", ""),
            "record": one.item.record.SerializeToString(),
            "state": OPEN,
            "recorded_at": uow.now,
            "replayed_at": None,
        }
        for one in dead
    ]
    if rows:
        await uow.connection.execute(insert_missing(uow, dead_letters), rows)


async def forget(uow: UnitOfWork, uids: Sequence[str]) -> None:
    """Takes out what was buried in this transaction, and was refused to its caller instead."""
    if uids:
        await uow.connection.execute(delete(dead_letters).where(among(dead_letters.c.uid, uids)))


async def buried(uow: UnitOfWork, uids: Iterable[str]) -> set[str]:
    """Which of these are dead letters already."""
    asked = list(uids)
    if not asked:
        return set()
    query = select(dead_letters.c.uid).where(among(dead_letters.c.uid, asked))
    return set((await uow.connection.execute(query)).scalars())


async def list_dead_letters(
    uow: UnitOfWork, *, after: str = "", limit: int = 100, state: str = OPEN, customer_id: str | None = None
) -> list[dict[str, Any]]:
    """By uid, those after `after`: `uid customer_id reason message state recorded_at replayed_at record`
    (bytes).
    """
    query = (
        select(dead_letters)
        .where(dead_letters.c.state == state, dead_letters.c.uid > after)
        .order_by(dead_letters.c.uid)
        .limit(limit)
    )
    if customer_id is not None:
        query = query.where(dead_letters.c.customer_id == customer_id)
    return [dict(row) for row in (await uow.connection.execute(query)).mappings()]


async def count_dead_letters(uow: UnitOfWork) -> int:
    """How many wait for somebody."""
    query = select(func.count()).select_from(dead_letters).where(dead_letters.c.state == OPEN)
    return int((await uow.connection.execute(query)).scalar_one())


async def exhume(uow: UnitOfWork, uid: str) -> Item:
    """The record of an open dead letter, locked. Raises NotFound, also for one that was replayed."""
    query = (
        select(dead_letters.c.record)
        .where(dead_letters.c.uid == uid, dead_letters.c.state == OPEN)
        .with_for_update()
    )
    record = (await uow.connection.execute(query)).scalar_one_or_none()
    if record is None:
        raise NotFound("dead letter", uid)
    outbox_id, incarnation_id, seq = uid.rsplit("/", 2)
    return Item(Uid(outbox_id, incarnation_id, int(seq)), sync.Record.FromString(bytes(record)))


async def mark_replayed(uow: UnitOfWork, uid: str) -> None:
    """It is in the books now."""
    await uow.connection.execute(
        update(dead_letters).where(dead_letters.c.uid == uid).values(state=REPLAYED, replayed_at=uow.now)
    )
