"""The books at the end of a history, held against what callers were told and against what was ever offered."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from math import inf
from typing import Any, Final

from sqlalchemy import func, select

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.rows import OPEN, QUARANTINED
from control_plane.leases.tables import gauge_holders, leases
from control_plane.ledger.limits import LEASED_KINDS
from control_plane.ledger.tables import balances, grants
from control_plane.usage.tables import dead_letters, events
from purser.sync.v1 import usage_pb2 as sync_usage
from sidecar.view.pulse import TRANSIT_MAX_SECONDS
from tests.simulation.matching import Demand, uncovered
from tests.simulation.offers import Offers
from tests.simulation.oracle import Oracle, Told
from tests.simulation.plane import BASE, HOUR_ENDS, Plane
from tests.simulation.story import BUDGET, CUSTOMERS, RATE, RATE_SECONDS, SOFT_CAP, Story
from tests.simulation.watching import GrantedLease, Watch

_OUT: Final = (OPEN, QUARANTINED)
"""States of leases whose amounts are their holders' still."""
_CLOCK_SECONDS: Final = 3.0
"""So much a sidecar may be wrong about the time: processors are slow sometimes, here as elsewhere."""


async def check_books(
    plane: Plane, oracle: Oracle, watch: Watch, offers: Offers, story: Story, at: float
) -> None:
    """Everything that the books must say at the end of a story."""
    async with plane.alive[0].database.read() as uow:
        rows = (await uow.connection.execute(select(events))).all()
        letters = (await uow.connection.execute(select(dead_letters))).all()
        known = (await uow.connection.execute(select(balances))).all()
        seats = (await uow.connection.execute(select(gauge_holders))).all()
        charged = await _charged(uow)
    oracle.violations += [one for letter in letters if (one := _dead(letter, oracle))]
    booked = _booked(rows, oracle)
    oracle.check_books(booked, at)
    oracle.violations += _mischarged(booked, charged)
    if not any(act.what == "set_wall" for act in story.acts):
        oracle.violations += _misdated(rows, oracle, 0.0 if story.is_calm else TRANSIT_MAX_SECONDS)
    oracle.check_rate("pace", RATE, RATE / RATE_SECONDS * 1.02)
    names = {row.id: (row.customer_id, row.name, 10**row.scale) for row in known}
    if not oracle.is_restored:
        holders = {row.holder_id: int(row.quantity) for row in seats}
        oracle.check_seats(holders, "team")
    if not oracle.is_promise_void:
        uids = [row.uid for row in rows if row.decided and row.status != "duplicate"]
        oracle.violations += _overspent(_demands(uids, watch), names, offers)


def _dead(letter: Any, oracle: Oracle) -> str | None:
    """What is wrong with a record that could not be booked. A reservation whose settle a spoiled disk forgot is settled
    as unknown, or as late, under the same key once more: the second ends here, for people to look at.
    """
    event = sync_usage.Record.FromString(letter.record).usage.event
    held = oracle.holds.get(event.idempotency_key.partition("#")[0])
    if letter.reason == "KEY_CONFLICT" and held is not None and held.is_set_back:
        return None
    return f"a dead letter: {event.idempotency_key} {letter.reason} {letter.message}"


def _booked(rows: Iterable[Any], oracle: Oracle) -> dict[str, tuple[str, int]]:
    """Key → customer and amount, each once."""
    booked: dict[str, tuple[str, int]] = {}
    for row in rows:
        if row.status == "duplicate":
            continue
        if row.idempotency_key in booked:
            oracle.violations.append(f"doubled: {row.idempotency_key}")
        booked[row.idempotency_key] = (row.customer_id, _amount(row))
    return booked


def _amount(row: Any) -> int:
    return 1 if CUSTOMERS[row.customer_id].counts else int(row.measures.get("points", "0"))


def _misdated(rows: Iterable[Any], oracle: Oracle, late_seconds: float) -> Iterator[str]:
    """An event that says no instant has that of its call, as well as its sidecar knows the time: what tells it was
    at most `late_seconds` on its way.
    """
    for row in rows:
        use = oracle.uses.get(row.idempotency_key)
        if use is None or use.key in oracle.holds or not use.told:
            continue
        at = (row.occurred_at - BASE).total_seconds()
        # Who was not told may have been heard much later: his sidecar was stopped meanwhile, and went on.
        latest = inf if any(told is Told.UNKNOWN for _, told, _ in use.told) else use.told[-1][0]
        if not use.asked_at - late_seconds - _CLOCK_SECONDS <= at <= latest + _CLOCK_SECONDS:
            yield f"misdated: {use.key} of {use.asked_at:.3f} has occurred at {at:.3f}"


async def _charged(uow: UnitOfWork) -> dict[tuple[str, str], int]:
    """By customer and balance: what was spent of it, and what went beyond it. What a lease has spent is spent of its
    grants once it is closed.
    """
    of_leases = (
        select(func.coalesce(func.sum(leases.c.spent), 0))
        .where(leases.c.balance_id == balances.c.id, leases.c.state.in_(_OUT))
        .scalar_subquery()
    )
    spent = func.coalesce(func.sum(grants.c.spent), 0) + of_leases
    query = (
        select(
            balances.c.customer_id,
            balances.c.name,
            balances.c.scale,
            balances.c.overage,
            spent.label("spent"),
        )
        .join_from(balances, grants, isouter=True)
        .where(balances.c.kind.in_(LEASED_KINDS))
        .group_by(balances.c.id)
    )
    rows = (await uow.connection.execute(query)).all()
    return {(row.customer_id, row.name): int(row.spent + row.overage) // 10**row.scale for row in rows}


def _mischarged(booked: dict[str, tuple[str, int]], charged: dict[tuple[str, str], int]) -> Iterator[str]:
    """Each event that is booked is charged to every balance of its customer, once, with what it says: no less, and no
    more.
    """
    used: defaultdict[str, int] = defaultdict(int)
    for customer_id, amount in booked.values():
        used[customer_id] += amount
    for (customer_id, name), amount in charged.items():
        if amount != used[customer_id]:
            yield f"mischarged: {amount} of {name} of {customer_id}, and {used[customer_id]} was used"


def _demands(uids: Iterable[str], watch: Watch) -> dict[str, list[tuple[GrantedLease, int]]]:
    """By balance: what was booked of its leases."""
    found: defaultdict[str, list[tuple[GrantedLease, int]]] = defaultdict(list)
    for uid in uids:
        for lease_id, amount in watch.charges.get(uid, ()):
            lease = watch.leases.get(lease_id)
            if lease is not None:  # else it is a rate's share
                found[lease.balance_id].append((lease, amount))
    return found


def _overspent(
    demands: dict[str, list[tuple[GrantedLease, int]]],
    names: dict[str, tuple[str, str, int]],
    offers: Offers,
) -> Iterator[str]:
    """Decided usage that nothing covers which could be leased when its lease was granted."""
    for balance_id, scaled in demands.items():
        customer_id, name, scale = names[balance_id]
        spent = [(lease, amount // scale) for lease, amount in scaled]
        if name.startswith("wallet:"):
            points = [Demand(lease.at, amount) for lease, amount in spent]
            for demand, missing in uncovered(offers.supplies[customer_id], points):
                yield f"{missing} of {name} of {customer_id}, leased at {demand.at:.3f}, was never granted"
        elif name.startswith("budget:"):
            yield from _beyond(spent, f"{name} of {customer_id}", [(0.0, BUDGET)], is_hourly=True)
        elif customer_id == "page":
            steps = [(at, limits.pages) for at, limits in offers.published]
            yield from _beyond(spent, f"{name} of {customer_id}", steps, cap=SOFT_CAP, is_hourly=True)
        elif customer_id == "ring":
            steps = [(at, limits.calls) for at, limits in offers.published]
            yield from _beyond(spent, f"{name} of {customer_id}", steps, is_hourly=False)


def _beyond(
    spent: Iterable[tuple[GrantedLease, int]],
    what: str,
    steps: Sequence[tuple[float, int]],
    *,
    cap: int = 0,
    is_hourly: bool,
) -> Iterator[str]:
    """What was leased until an instant and spent is no more than the limit of that instant, period by period. A lower
    limit takes nothing back that was leased by then; `cap`: of which so much may go beyond it.
    """
    for begins in (0.0, HOUR_ENDS) if is_hourly else (0.0,):
        ends = HOUR_ENDS if is_hourly and not begins else float("inf")
        of_period = [(lease.at, amount) for lease, amount in spent if begins <= lease.begins < ends]
        changes, base, total = list(steps), 0, 0
        for at, amount in sorted(of_period):
            while changes and changes[0][0] <= at:
                base = max(changes.pop(0)[1], min(base, total))
            total += amount
            if total > base + cap:
                yield f"{total} of {what} is spent, leased at {at:.3f} when {base} and {cap} was the limit"
                break


async def check_kept(uow: UnitOfWork, oracle: Oracle, at: float) -> None:
    """What the books keep for what was decided, balance by balance. Facts burn what no lease has."""
    kept = grants.c.leased + grants.c.quarantined + grants.c.presumed + grants.c.spent - grants.c.burned
    query = (
        select(balances.c.customer_id, balances.c.name, balances.c.scale, func.sum(kept).label("kept"))
        .join_from(balances, grants)
        .group_by(balances.c.id)
    )
    for row in (await uow.connection.execute(query)).all():
        oracle.check_kept(row.customer_id, row.name, int(row.kept) // 10**row.scale, at)


async def stranded(
    plane: Plane, oracle: Oracle, at: float, *, ended_before: float | None = None
) -> list[str]:
    """What nobody can spend, and nobody has been held to account for; and what idle sidecars keep beyond what open
    reservations hold. `ended_before`: of leases whose end lies so far back.
    """
    async with plane.alive[0].database.read() as uow:
        query = (
            select(balances.c.customer_id, balances.c.name, balances.c.scale, leases.c.unsettled)
            .join_from(leases, balances, leases.c.balance_id == balances.c.id)
            .where(leases.c.state.in_(_OUT) & (leases.c.unsettled > 0))
        )
        if ended_before is not None:
            query = query.where(leases.c.ends_at < BASE + timedelta(seconds=ended_before))
        rows = (await uow.connection.execute(query)).all()
    found: defaultdict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        found[row.customer_id, row.name] += int(row.unsettled) // 10**row.scale
    return [
        f"stranded: {amount} of {name} of {customer_id} is out, and {most} may be held"
        for (customer_id, name), amount in found.items()
        if amount > (most := oracle.may_be_held(customer_id, at))
    ]


async def presumed(plane: Plane, oracle: Oracle, at: float) -> list[str]:
    """What was booked as spent because nobody said what became of it, beyond what is held all the while."""
    async with plane.alive[0].database.read() as uow:
        query = (
            select(balances.c.customer_id, balances.c.name, balances.c.scale, func.sum(grants.c.presumed))
            .join_from(grants, balances, grants.c.balance_id == balances.c.id)
            .where(grants.c.presumed > 0)
            .group_by(balances.c.customer_id, balances.c.name, balances.c.scale)
        )
        rows = (await uow.connection.execute(query)).all()
    return [
        f"presumed: {amount} of {name} of {customer_id}, and nobody has lost anything"
        for customer_id, name, scale, total in rows
        if (amount := int(total) // 10**scale) > oracle.may_be_held(customer_id, at)
    ]
