"""The books at the end of a history, held against what callers were told and against what was ever offered."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import func, select

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.tables import gauge_holders, leases
from control_plane.ledger.tables import balances, grants
from control_plane.usage.tables import dead_letters, events
from purser.sync.v1 import usage_pb2 as sync_usage
from tests.simulation.matching import Demand, uncovered
from tests.simulation.offers import Offers
from tests.simulation.oracle import Oracle
from tests.simulation.plane import HOUR_ENDS, Plane
from tests.simulation.story import BUDGET, CUSTOMERS, RATE, RATE_SECONDS, SOFT_CAP
from tests.simulation.watching import GrantedLease, Watch


async def check_books(plane: Plane, oracle: Oracle, watch: Watch, offers: Offers, at: float) -> None:
    """Everything that the books must say."""
    async with plane.alive[0].database.read() as uow:
        rows = (await uow.connection.execute(select(events))).all()
        letters = (await uow.connection.execute(select(dead_letters))).all()
        known = (await uow.connection.execute(select(balances))).all()
        seats = (await uow.connection.execute(select(gauge_holders))).all()
    oracle.violations += [one for letter in letters if (one := _dead(letter, oracle))]
    oracle.check_books(_booked(rows, oracle), at)
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


async def stranded(plane: Plane, oracle: Oracle) -> list[str]:
    """What nobody can spend, and nobody has been held to account for; and what idle sidecars keep."""
    async with plane.alive[0].database.read() as uow:
        query = select(leases).where(leases.c.state.in_(["open", "quarantined"]) & (leases.c.unsettled > 0))
        rows = (await uow.connection.execute(query)).all()
    if any(held.is_open for held in oracle.holds.values()):
        return []
    return [f"{row.unsettled} of {row.id} is {row.state}" for row in rows]
