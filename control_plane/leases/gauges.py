"""Gauges: who holds how much, as a function of the set of changes that are booked or stand as verdicts.

A verdict is provisional: it counts until its event is booked, or all who were told of it have let it go (`letting_go`).
The balance is locked by whoever changes anything here.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import structlog
from sqlalchemy import ColumnElement, RowMapping, delete, func, insert, select, update

from control_plane.db.types import MICROSECOND, AmountOutOfRange
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import ASK_KEY, gauge_asks, gauge_changes, gauge_holders
from control_plane.ledger.holding import insert_missing
from control_plane.usage.tables import event_keys
from sidecar.engine.values import MAX_AMOUNT


class State(StrEnum):
    """What a change is."""

    VERDICT = "verdict"
    """Allowed, and not in the books yet."""
    PRESUMED = "presumed"
    """A verdict of which nothing more was heard: it counts on, and is corrected when the truth arrives."""
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
    due_at: datetime | None = None
    """Of silence until then the policy makes something; of what lapsed: since when."""

    @property
    def is_unconfirmed(self) -> bool:
        """Does it count without being in the books?"""
        return self.state in {State.VERDICT, State.PRESUMED}

    def says_as(self, other: "Change") -> bool:
        """Do both make the same of their holder? Under one key, only then is one the other's repeat."""
        return (self.quantity, self.adds) == (other.quantity, other.adds)


class Ask(NamedTuple):
    """A request that is told of a verdict."""

    outbox_id: str
    incarnation_id: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """May it go ahead, and what stands in the books after it."""

    allowed: bool
    used: int
    frees: int = 0
    """What of a gauge is held until then and not any more once it is booked; below 0: it is held again, after
    another of the asker's that is not booked either.
    """


def held_by(changes: Iterable[Change]) -> int:
    """What a holder holds after these changes, in whatever order they come: each says how much it is (SET, and REMOVE
    with 0) or is at least (ADD), and the greatest (at, key) has the last word. What is not in the books takes
    nothing: it may come to nothing, and somebody else would have the seat by then.
    """
    held = 0
    for change in sorted(_counting(changes), key=in_order):
        keeps = change.adds or change.is_unconfirmed
        held = max(held, change.quantity) if keeps else change.quantity
    return held


def needed(changes: Iterable[Change]) -> list[Change]:
    """Those of a holder's changes that can still matter, whatever else may come: nothing booked before the last booked
    SET does, nor an ADD before one that is no smaller.
    """
    kept: list[Change] = []
    added, is_set = -1, False
    for change in sorted(changes, key=in_order, reverse=True):
        if change.state is State.BOOKED:
            if is_set or (change.adds and change.quantity <= added):
                continue
            added, is_set = change.quantity, not change.adds
        kept.append(change)
    return kept


def _counting(changes: Iterable[Change]) -> Iterable[Change]:
    return (change for change in changes if change.state is not State.LAPSED)


def in_order(change: Change) -> tuple[datetime, str]:
    """What a holder's changes are sorted by."""
    return (change.at, change.event_key)


async def decide(
    uow: UnitOfWork, asked: Change, *, by: Ask, customer_id: str, limit: int | None, due_at: datetime
) -> Verdict | None:
    """May this change be made? If so it counts from now on, after everything that stands, until `by` lets it go; what
    it frees is free once it is booked. The answer's `used` is as if it were, and `frees` is the difference.

    `limit` blocks only growing. The same key and content again is the same verdict, and belongs to both who asked.
    None: the key stands for other content of this holder.
    """
    used = await held(uow, asked.balance_id)
    changes = await read_changes(uow, asked.balance_id, asked.holder_id)
    same = next((one for one in changes if one.event_key == asked.event_key), None)
    if same is not None and same.state is not State.LAPSED and not same.says_as(asked):
        return None
    if same is not None and same.is_unconfirmed:
        same.state, same.due_at = State.VERDICT, due_at
        await write_changes(uow, asked.balance_id, asked.holder_id, changes)
        await _tell(uow, same, by)
        return await _allowed(uow, used, changes, same, by)
    if (same is not None and same.state is State.BOOKED) or await _is_booked(
        uow, customer_id, asked.event_key
    ):
        return Verdict(allowed=True, used=used)
    others = [one for one in changes if one.event_key != asked.event_key]
    newest = max((one.at for one in _counting(others)), default=None)
    if newest is not None and asked.at <= newest:
        asked.at = newest + MICROSECOND  # it is decided now: a clock that is late must not undo it
    before, after = held_by(others), held_by([*others, asked])
    if after > before and used - before + after > (MAX_AMOUNT if limit is None else limit):
        return Verdict(allowed=False, used=used)
    asked.due_at = due_at
    await write_changes(uow, asked.balance_id, asked.holder_id, [*others, asked])
    await _tell(uow, asked, by)
    return await _allowed(uow, used - before + after, [*others, asked], asked, by)


async def _allowed(
    uow: UnitOfWork, used: int, changes: Sequence[Change], verdict: Change, by: Ask
) -> Verdict:
    """The answer to a verdict that stands among a holder's changes. `used`: what all hold while it is not booked.

    What it frees beyond what the asker's other verdicts do that are not booked either: who adds all of them up shows
    what stands once they are.
    """
    others = [one for one in changes if one is not verdict]
    told = await _told(uow, verdict, by) if any(one.is_unconfirmed for one in others) else set()
    freed = _freed(changes, {*told, verdict.event_key})
    booked = held_by(changes) - held_by([*others, replace(verdict, state=State.BOOKED)])
    return Verdict(allowed=True, used=used - booked, frees=freed - _freed(others, told))


def _freed(changes: Sequence[Change], keys: Collection[str]) -> int:
    """What a holder would hold less, were the verdicts with these keys booked."""
    booked = [
        replace(one, state=State.BOOKED) if one.is_unconfirmed and one.event_key in keys else one
        for one in changes
    ]
    return held_by(changes) - held_by(booked)


async def _told(uow: UnitOfWork, change: Change, by: Ask) -> set[str]:
    """The keys of the same holder's changes that this incarnation was told of."""
    query = select(gauge_asks.c.event_key).where(
        gauge_asks.c.balance_id == change.balance_id,
        gauge_asks.c.holder_id == change.holder_id,
        gauge_asks.c.outbox_id == by.outbox_id,
        gauge_asks.c.incarnation_id == by.incarnation_id,
        gauge_asks.c.event_key != change.event_key,
    )
    return set((await uow.connection.execute(query)).scalars())


async def settle(uow: UnitOfWork, change: Change, *, about: str, by_verdict: bool) -> None:
    """Books a change, whatever the limit: at its verdict's instant where that allowed it, else at its own. A request
    for a verdict may arrive long after its asker went on without one, and would put the change after later ones. A
    verdict with other content allowed another event, which has lost the key: it is over.

    Raises AmountOutOfRange where what is held of `about` would leave 63 bits.
    """
    changes = await read_changes(uow, change.balance_id, change.holder_id)
    verdict = next((one for one in changes if one.event_key == change.event_key), None)
    if verdict is not None and by_verdict and verdict.says_as(change):
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
    await uow.connection.execute(delete(gauge_asks).where(*_of(change)))
    await write_changes(uow, change.balance_id, change.holder_id, needed([*rest, change]))


async def held(uow: UnitOfWork, balance_id: str) -> int:
    """What all holders of a gauge hold."""
    query = select(func.coalesce(func.sum(gauge_holders.c.quantity), 0)).where(
        gauge_holders.c.balance_id == balance_id
    )
    return int((await uow.connection.execute(query)).scalar_one())


async def violations(uow: UnitOfWork) -> list[str]:
    """Holders that hold something else than their changes say, and verdicts that belong to nobody, in words. Reads
    everything.
    """
    by_holder: defaultdict[tuple[str, str], list[Change]] = defaultdict(list)
    for row in (await uow.connection.execute(select(gauge_changes))).mappings():
        by_holder[row["balance_id"], row["holder_id"]].append(_change(row))
    rows = await uow.connection.execute(select(gauge_holders))
    holds = {(row.balance_id, row.holder_id): (row.quantity, row.presumed) for row in rows}
    asks = await uow.connection.execute(select(*ASK_KEY).distinct())
    asked = {tuple(row) for row in asks}
    found = [
        f"holder {holder} of {balance}: it holds {holds.get((balance, holder))}, its changes say otherwise"
        for balance, holder in by_holder.keys() | holds.keys()
        if holds.get((balance, holder), (0, 0)) != _totals(by_holder[balance, holder])
    ]
    changes = [one for several in by_holder.values() for one in several]
    states = {(one.balance_id, one.holder_id, one.event_key): one for one in changes}
    verdicts = {key for key, one in states.items() if one.state is State.VERDICT}
    presumed = {key for key, one in states.items() if one.state is State.PRESUMED}
    found += [f"verdict {key}: it belongs to nobody" for key in verdicts - asked]
    found += [f"verdict {key}: it is over, and belongs to somebody" for key in asked - verdicts - presumed]
    return found


async def _is_booked(uow: UnitOfWork, customer_id: str, key: str) -> bool:
    query = select(event_keys.c.event_uid).where(
        event_keys.c.customer_id == customer_id, event_keys.c.idempotency_key == key
    )
    return (await uow.connection.execute(query)).first() is not None


async def read_changes(uow: UnitOfWork, balance_id: str, holder_id: str) -> list[Change]:
    """What is kept of a holder's changes."""
    mine = (gauge_changes.c.balance_id == balance_id) & (gauge_changes.c.holder_id == holder_id)
    rows = (await uow.connection.execute(select(gauge_changes).where(mine))).mappings()
    return [_change(row) for row in rows]


async def write_changes(uow: UnitOfWork, balance_id: str, holder_id: str, changes: Sequence[Change]) -> None:
    """A holder's changes from now on, and what they come to."""
    mine = (gauge_changes.c.balance_id == balance_id) & (gauge_changes.c.holder_id == holder_id)
    await uow.connection.execute(delete(gauge_changes).where(mine))
    rows = [{**asdict(one), "state": one.state.value} for one in changes]
    await uow.connection.execute(insert(gauge_changes), rows)
    quantity, presumed = _totals(changes)
    row = {"balance_id": balance_id, "holder_id": holder_id, "quantity": quantity, "presumed": presumed}
    await uow.connection.execute(insert_missing(uow, gauge_holders), [row])
    held_here = (gauge_holders.c.balance_id == balance_id) & (gauge_holders.c.holder_id == holder_id)
    await uow.connection.execute(
        update(gauge_holders).where(held_here).values(quantity=quantity, presumed=presumed)
    )


def _totals(changes: Iterable[Change]) -> tuple[int, int]:
    """What a holder holds, and how much of it only because of what is presumed."""
    known = list(changes)
    quantity = held_by(known)
    return quantity, quantity - held_by(one for one in known if one.state is not State.PRESUMED)


def _change(row: RowMapping) -> Change:
    return Change(**{**row, "state": State(row["state"])})


def _of(change: Change) -> tuple[ColumnElement[bool], ...]:
    """The asks that were told of it."""
    names = (change.balance_id, change.holder_id, change.event_key)
    return tuple(column == name for column, name in zip(ASK_KEY, names, strict=True))


async def _tell(uow: UnitOfWork, change: Change, by: Ask) -> None:
    row = {
        "balance_id": change.balance_id,
        "holder_id": change.holder_id,
        "event_key": change.event_key,
        **by._asdict(),
    }
    await uow.connection.execute(insert_missing(uow, gauge_asks), [row])
