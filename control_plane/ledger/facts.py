"""Facts: what was used outside of leases. Burned at once where the order can not matter, by replay where it
can.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, bindparam, delete, select

from control_plane.db.bulk import append, update_rows
from control_plane.db.types import AmountOutOfRange
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import occurrence_id
from control_plane.ledger.journal import Entry
from control_plane.ledger.replay import replay
from control_plane.ledger.rows import ROLLOVER, FactRow, GrantRow, burn_order, in_burn_order
from control_plane.ledger.tables import fact_burns, facts
from sidecar.engine.values import MAX_AMOUNT


async def charge(vault: Vault, new: Sequence[tuple[FactRow, Entry]]) -> None:
    """Burns new facts and posts them to their events' transactions: from grants, the rest as overage.

    Their balances are locked. A fact whose grants are ended, that is not its window's newest, that is of before a
    lower limit, or that meets open overage or a rollover makes the window be replayed: the result is the same, whatever
    the order of arrival. Raises AmountOutOfRange where what is used of a balance would leave 63 bits.
    """
    by_window: defaultdict[tuple[str, datetime | None], list[tuple[FactRow, Entry]]] = defaultdict(list)
    for fact, entry in new:
        by_window[fact.balance_id, fact.window_start].append((fact, entry))
    wanted: defaultdict[str, set[datetime | None]] = defaultdict(set)
    for identity, start in by_window:
        wanted[identity].add(start)
    await vault.load_windows(wanted)
    for (identity, start), arrived in by_window.items():
        holding = vault.held[identity]
        arrived.sort(key=lambda pair: pair[0].order)
        rows = [fact for fact, _ in arrived]
        _check_fits(holding, rows)
        if (
            not holding.row.overage
            and not is_before_a_cut(holding.window(start), rows[0].occurred_at)
            and await _is_newest(vault, identity, start, rows[0].order)
            and _burns_at_once(holding.window(start), rows, vault.now)
        ):
            for fact in rows:
                for grant_id, amount in fact.burns.items():
                    _spend(holding.grants[grant_id], amount)
                holding.row.overage += fact.amount - fact.covered
            await _insert(vault, rows)
        else:
            await settle(vault, holding, start, cause="late", new=rows)
        holding.touched = True
        for fact, entry in arrived:
            _post(holding, fact, entry)


async def settle(
    vault: Vault, holding: Holding, start: datetime | None, *, cause: str, new: Sequence[FactRow] = ()
) -> None:
    """Replays a window and books the difference: one correcting transaction per grant that names its cause.

    `new` facts are inserted; their own burns are left to their events' transactions.
    """
    await vault.load_windows({holding.row.id: [start]})
    known = await read_facts(vault, holding.row.id, start)
    rows = [*known, *new]
    result = replay(holding.window(start), rows, now=vault.now)
    differences: defaultdict[str, int] = defaultdict(int)
    changed: list[FactRow] = []
    for fact in rows:
        burns = result.burns.get(fact.id, {})
        if fact.burns != burns:
            for grant_id in fact.burns.keys() | burns.keys():
                differences[grant_id] += burns.get(grant_id, 0) - fact.burns.get(grant_id, 0)
            changed.append(fact)
            holding.row.overage -= sum(burns.values()) - fact.covered
            fact.burns, fact.covered = burns, sum(burns.values())
    holding.row.overage += sum(fact.amount for fact in new)
    _roll(holding, result.rolled, differences, vault.now)
    own: defaultdict[str, int] = defaultdict(int)
    for fact in new:
        for grant_id, amount in fact.burns.items():
            own[grant_id] += amount
    for grant_id in sorted(differences):
        _correct(vault, holding, holding.grants[grant_id], differences[grant_id] - own[grant_id], cause)
    new_ids = {fact.id for fact in new}
    for grant in holding.window(start):
        grant.begun = grant.begun or grant.effective_at <= vault.now
        grant.trim()
    await _rewrite(vault, [fact for fact in changed if fact.id not in new_ids])
    await _insert(vault, new)
    holding.touched = True


async def came_free(vault: Vault, holding: Holding, touched: Iterable[GrantRow], *, cause: str) -> None:
    """After something came back to these grants, or was put in: pays what facts would have burned of it, then
    lets cuts take.

    Only windows in which that can change anything are replayed.
    """
    starts: set[datetime | None] = set()
    for grant in touched:
        if grant.window_start in starts:
            continue
        if holding.row.overage or grant.rolled or grant.rolled_from is not None:
            starts.add(grant.window_start)
            continue
        await vault.load_windows({holding.row.id: [grant.window_start]})
        if any(_comes_before(grant, other) for other in holding.window(grant.window_start)) or (
            grant.rollover_max and grant.expiry_booked
        ):
            starts.add(grant.window_start)
        else:
            grant.trim()
    for start in sorted(starts, key=lambda at: (at is not None, at)):
        await settle(vault, holding, start, cause=cause)


async def take_back(
    vault: Vault, holding: Holding, lowered: Collection[GrantRow], *, since: datetime
) -> None:
    """Takes back what these grants paid of facts that occurred after their limit was lowered: a clock was ahead, or the
    limit was lowered some time ago.
    """
    for start in {grant.window_start for grant in lowered if grant.burned}:
        if not await _is_newest(vault, holding.row.id, start, (since, "", "")):
            await settle(vault, holding, start, cause="cut")


def _comes_before(grant: GrantRow, other: GrantRow) -> bool:
    """May a fact that burned the other belong to this one, had it been there? By burn order, or because it happened
    before the other began, which then paid what was open.
    """
    return other.burned > 0 and (
        burn_order(other) > burn_order(grant) or other.effective_at > grant.effective_at
    )


def _check_fits(holding: Holding, rows: Sequence[FactRow]) -> None:
    """What is used, leased or over stays within what the columns, and sums over them, can hold."""
    taken = sum(grant.amount - grant.available - grant.ended for grant in holding.grants.values())
    if taken + holding.row.overage + sum(fact.amount for fact in rows) > MAX_AMOUNT:
        row = holding.row
        raise AmountOutOfRange(f"what is used of {row.name} of {row.customer_id} would not fit 63 bits")


def is_before_a_cut(grants: Iterable[GrantRow], at: datetime) -> bool:
    """Had any of these a higher limit at that instant than now?"""
    return any(at < step.until for grant in grants for step in grant.limits_before)


def _in_window(balance_id: str, start: datetime | None) -> ColumnElement[bool]:
    of_window = facts.c.window_start.is_(None) if start is None else facts.c.window_start == start
    return and_(facts.c.balance_id == balance_id, of_window)


async def _is_newest(
    vault: Vault, balance_id: str, start: datetime | None, order: tuple[datetime, str, str]
) -> bool:
    """Is every fact of the window that is in the books before this place in the order of facts?"""
    newest = (
        select(facts.c.occurred_at, facts.c.event_key, facts.c.id)
        .where(_in_window(balance_id, start), facts.c.occurred_at >= order[0])
        .order_by(facts.c.occurred_at.desc(), facts.c.event_key.desc(), facts.c.id.desc())
        .limit(1)
    )
    row = (await vault.uow.connection.execute(newest)).first()
    return row is None or tuple(row) < order


def _burns_at_once(grants: Sequence[GrantRow], rows: Sequence[FactRow], now: datetime) -> bool:
    """Fills in what each fact burns if that is what a replay would say; False, and nothing changed, where it
    is not sure.
    """
    left = {grant.id: grant.available for grant in grants}
    ordered = in_burn_order(grants)
    plans: list[dict[str, int]] = []
    for fact in rows:
        missing, burns = fact.amount, {}
        for grant in ordered:
            if not (missing and grant.active(fact.occurred_at) and grant.serves(fact.feature)):
                continue
            if grant.expiry_booked or grant.rolled or grant.is_over(now):
                return False
            part = min(missing, left[grant.id])
            if part:
                burns[grant.id] = part
                left[grant.id] -= part
                missing -= part
        if missing and any(fact.occurred_at < grant.effective_at <= now for grant in grants):
            return False
        plans.append(burns)
    for fact, burns in zip(rows, plans, strict=True):
        fact.burns, fact.covered = burns, sum(burns.values())
    return True


def _roll(
    holding: Holding, rolled: dict[str, int], differences: defaultdict[str, int], now: datetime
) -> None:
    """Books burns into the rows, and makes or resizes rollovers so that they hold what their bases leave."""
    shrinking = [(grant_id, change) for grant_id, change in differences.items() if change < 0]
    for grant_id, change in shrinking:
        grant = holding.grants[grant_id]
        grant.spent += change
        grant.burned += change
        grant.put(-change, now=now)
    children = {
        grant.rolled_from: grant for grant in holding.grants.values() if grant.rolled_from is not None
    }
    for base_id, amount in rolled.items():
        _resize(holding, holding.grants[base_id], children.get(base_id), amount, now)
    for grant_id, change in differences.items():
        if change > 0:
            _spend(holding.grants[grant_id], change)


def _resize(holding: Holding, base: GrantRow, child: GrantRow | None, amount: int, now: datetime) -> None:
    base.end()
    if child is None:
        if amount:
            holding.add(_rollover(base, amount, now), "rollover")
    else:
        change = amount - child.amount
        child.amount = child.target = amount
        if change > 0:
            child.put(change, now=now)
        else:
            child.draw(-change)
        holding.because(child, "rollover")
    base.rolled = amount


def _rollover(base: GrantRow, amount: int, now: datetime) -> GrantRow:
    """The rest of an ended occurrence, for one more period as long as its own."""
    ends_at = base.ends_at
    assert ends_at is not None, "only what ends rolls over"
    return GrantRow(
        id=occurrence_id(base.balance_id, ROLLOVER, ends_at, base.id),
        balance_id=base.balance_id,
        customer_id=base.customer_id,
        role=ROLLOVER,
        amount=amount,
        target=amount,
        available=amount,
        priority=base.priority,
        scope=base.scope,
        effective_at=ends_at,
        expires_at=base.rolls_until or ends_at + (ends_at - base.effective_at),
        window_start=base.window_start,
        cost_basis=base.cost_basis,
        rolled_from=base.id,
        source=f"rollover:{base.id}",
        created_at=now,
    )


def _spend(grant: GrantRow, amount: int) -> None:
    grant.draw(amount)
    grant.spent += amount
    grant.burned += amount


def _post(holding: Holding, fact: FactRow, entry: Entry) -> None:
    row = holding.row
    for grant_id, amount in fact.burns.items():
        entry.post(
            f"grant:{grant_id}",
            -amount,
            unit=row.unit,
            balance_id=row.id,
            grant_id=grant_id,
            feature=fact.feature,
        )
    overage = fact.amount - fact.covered
    entry.post(f"overage:{row.id}", -overage, unit=row.unit, balance_id=row.id, feature=fact.feature)
    entry.post(f"usage:{fact.feature}", fact.amount, unit=row.unit, balance_id=row.id, feature=fact.feature)


def _correct(vault: Vault, holding: Holding, grant: GrantRow, change: int, cause: str) -> None:
    if not change:
        return
    entry = vault.journal.entry(
        cause=f"correction:{cause}",
        customer_id=grant.customer_id,
        occurred_at=vault.now,
        recorded_at=vault.now,
        reference=grant.id,
    )
    unit = holding.row.unit
    entry.post(f"grant:{grant.id}", -change, unit=unit, balance_id=grant.balance_id, grant_id=grant.id)
    entry.post(f"overage:{grant.balance_id}", change, unit=unit, balance_id=grant.balance_id)


async def read_facts(vault: Vault, balance_id: str, start: datetime | None) -> list[FactRow]:
    """Those of a window, with what they burn."""
    connection = vault.uow.connection
    is_there = _in_window(balance_id, start)
    query = select(facts).where(is_there)
    found = {row["id"]: FactRow(**row) for row in (await connection.execute(query)).mappings()}
    burned = (
        select(fact_burns.c.fact_id, fact_burns.c.grant_id, fact_burns.c.amount)
        .join(facts, facts.c.id == fact_burns.c.fact_id)
        .where(is_there)
    )
    for fact_id, grant_id, amount in await connection.execute(burned):
        found[fact_id].burns[grant_id] = amount
    return list(found.values())


_FORGET_BURNS: Final = delete(fact_burns).where(fact_burns.c.fact_id == bindparam("at_id"))


async def _rewrite(vault: Vault, changed: Sequence[FactRow]) -> None:
    if not changed:
        return
    connection = vault.uow.connection
    keys = [{"at_id": fact.id} for fact in changed]
    await connection.execute(_FORGET_BURNS, keys)
    await update_rows(connection, facts, "id", [{"id": fact.id, "covered": fact.covered} for fact in changed])
    await _insert_burns(vault, changed)


async def _insert(vault: Vault, rows: Sequence[FactRow]) -> None:
    if rows:
        columns = [column.name for column in facts.columns]
        values = [{name: getattr(fact, name) for name in columns} for fact in rows]
        await append(vault.uow.connection, facts, values)
        await _insert_burns(vault, rows)


async def _insert_burns(vault: Vault, rows: Sequence[FactRow]) -> None:
    values: list[dict[str, Any]] = [
        {"fact_id": fact.id, "grant_id": grant_id, "balance_id": fact.balance_id, "amount": amount}
        for fact in rows
        for grant_id, amount in fact.burns.items()
    ]
    await append(vault.uow.connection, fact_burns, values)
