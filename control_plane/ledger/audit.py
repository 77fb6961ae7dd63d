"""Every equation of the books, checked over all rows; and what was oversold. For operators, the demo and the
tests.
"""

from collections import defaultdict
from collections.abc import Iterator

from sqlalchemy import func, literal, select

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.gauges import violations as gauge_violations
from control_plane.leases.rows import LeaseRow, read_leases
from control_plane.ledger.replay import replay
from control_plane.ledger.rows import FactRow, GrantRow
from control_plane.ledger.specs import find_spec
from control_plane.ledger.tables import balances, fact_burns, facts, grants, postings
from sidecar.engine.catalog import OveragePolicy
from sidecar.engine.values import BalanceRef

DECIDED = ("uncovered", "beyond_lease")


async def audit(uow: UnitOfWork) -> list[str]:
    """Violations of the books' equations, in words; empty: every one holds. Reads everything: not for a hot
    path.
    """
    found: list[str] = []
    found += [f"transaction {one} does not sum to zero" for one in await _unbalanced(uow)]
    rows = (await uow.connection.execute(select(grants))).mappings()
    all_grants = {row["id"]: GrantRow(**row) for row in rows}
    leases = await read_leases(uow, literal(value=True), lock=False)
    found += _lease_violations(all_grants, list(leases.values()))
    found += await _posting_violations(uow, all_grants, list(leases.values()))
    found += await _fact_violations(uow, all_grants)
    found += await gauge_violations(uow)
    return found


async def oversold(uow: UnitOfWork) -> int:
    """Overage of decided usage on hard balances, summed over all of them at their scales: 0, unless somebody
    configured a waiver or an operator released a lease.
    """
    query = (
        select(facts.c.balance_id, func.sum(facts.c.amount - facts.c.covered))
        .where(facts.c.cause.in_(DECIDED), facts.c.covered < facts.c.amount)
        .group_by(facts.c.balance_id)
    )
    total = 0
    for identity, amount in (await uow.connection.execute(query)).all():
        row = (await uow.connection.execute(select(balances).where(balances.c.id == identity))).one()
        spec = await find_spec(uow, BalanceRef(row.customer_id, row.subject_id, row.name), uow.now)
        if spec is None or spec.spec.overage is not OveragePolicy.ALLOW:
            total += int(amount)
    return total


async def _unbalanced(uow: UnitOfWork) -> list[str]:
    query = (
        select(postings.c.transaction_id)
        .group_by(postings.c.transaction_id, postings.c.unit)
        .having(func.sum(postings.c.amount) != 0)
    )
    return list((await uow.connection.execute(query)).scalars())


def _lease_violations(all_grants: dict[str, GrantRow], leases: list[LeaseRow]) -> Iterator[str]:
    """What grants say is leased, quarantined, presumed and spent is what the leases say."""
    sums: defaultdict[tuple[str, str], int] = defaultdict(int)
    for lease in leases:
        if sum(piece.amount for piece in lease.slices) != lease.allotted:
            yield f"lease {lease.id}: its slices are not what was allotted"
        match lease.state:
            case "open":
                pairs = [("leased", lease.kept_slices())]
            case "quarantined":
                pairs = [("quarantined", lease.kept_slices())]
            case "presumed":
                pairs = [("presumed", lease.unsettled_slices()), ("decided", lease.spent_slices())]
            case _:
                pairs = [("decided", lease.spent_slices())]
                if lease.unsettled:
                    yield f"lease {lease.id} is closed and not settled"
        for term, pieces in pairs:
            for piece in pieces:
                sums[piece.grant_id, term] += piece.amount
    for grant in all_grants.values():
        said = {
            "leased": grant.leased,
            "quarantined": grant.quarantined,
            "presumed": grant.presumed,
            "decided": grant.spent - grant.burned,
        }
        for term, amount in said.items():
            if amount != sums[grant.id, term]:
                yield f"grant {grant.id}: {term} is {amount}, its leases say {sums[grant.id, term]}"
        parts = (
            grant.available + grant.leased + grant.quarantined + grant.spent + grant.presumed + grant.ended
        )
        if parts != grant.amount:
            yield f"grant {grant.id}: its terms are {parts} of {grant.amount}"


async def _posting_violations(
    uow: UnitOfWork, all_grants: dict[str, GrantRow], leases: list[LeaseRow]
) -> list[str]:
    """What is posted to a grant is what is left in it."""
    spent: defaultdict[str, int] = defaultdict(int)
    for lease in leases:
        for piece in lease.spent_slices():
            spent[piece.grant_id] += piece.amount
    query = (
        select(postings.c.grant_id, func.sum(postings.c.amount))
        .where(postings.c.grant_id.is_not(None))
        .group_by(postings.c.grant_id)
    )
    posted = {grant_id: int(amount) for grant_id, amount in await uow.connection.execute(query)}
    found = []
    for grant in all_grants.values():
        left = grant.amount - grant.ended - grant.presumed - grant.burned - spent[grant.id]
        if posted.get(grant.id, 0) != left:
            found.append(f"grant {grant.id}: {posted.get(grant.id, 0)} is posted, {left} is left")
    return found


async def _fact_violations(uow: UnitOfWork, all_grants: dict[str, GrantRow]) -> list[str]:
    """What facts burned is what the grants say, what is open is the balances' overage, and a replay says the
    same.
    """
    rows = (await uow.connection.execute(select(facts))).mappings()
    known = {row["id"]: FactRow(**row) for row in rows}
    burned: defaultdict[str, int] = defaultdict(int)
    for row in await uow.connection.execute(select(fact_burns)):
        known[row.fact_id].burns[row.grant_id] = row.amount
        burned[row.grant_id] += row.amount
    found = [
        f"grant {grant.id}: {grant.burned} is burned, its facts say {burned[grant.id]}"
        for grant in all_grants.values()
        if grant.burned != burned[grant.id]
    ]
    found += [
        f"fact {fact.id}: {fact.covered} is covered, its burns say {sum(fact.burns.values())}"
        for fact in known.values()
        if fact.covered != sum(fact.burns.values())
    ]
    missing: defaultdict[str, int] = defaultdict(int)
    windows: defaultdict[tuple[str, object], list[FactRow]] = defaultdict(list)
    for fact in known.values():
        missing[fact.balance_id] += fact.amount - fact.covered
        windows[fact.balance_id, fact.window_start].append(fact)
    for row in await uow.connection.execute(select(balances)):
        if row.overage != missing[row.id]:
            found.append(f"balance {row.id}: its overage is {row.overage}, its facts say {missing[row.id]}")
    for (identity, start), several in windows.items():
        mine = [g for g in all_grants.values() if g.balance_id == identity and g.window_start == start]
        due = any(not g.begun and g.effective_at <= uow.now for g in mine)
        due |= any(not g.expiry_booked and g.is_over(uow.now) for g in mine)
        replayed = replay(mine, several, now=uow.now).burns
        if not due and any(fact.burns != replayed.get(fact.id, {}) for fact in several):
            found.append(f"balance {identity}: a replay of its window {start} says otherwise")
    return found
