"""How balances stand: the hints that sidecars show, and the rows that people read."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, or_, select

from control_plane.customers import entitled
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.rows import OPEN, QUARANTINED, read_leases
from control_plane.leases.tables import gauge_holders, leases, peaks
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.occurrences import COUNTED_NAMES, Wanted, new_balance, occurrences
from control_plane.ledger.rows import BEYOND_LIMIT, BalanceRow, GrantRow
from control_plane.ledger.tables import balances, facts
from purser.sync.v1 import session_pb2 as session
from sidecar.engine.catalog import Aggregate, BalanceScope
from sidecar.engine.entitlement import BalanceSpec, Entitlements
from sidecar.engine.values import BalanceKind, BalanceRef

_SHOWN_SUBJECT_BALANCES: Final = 200
_HINT_MAX: Final = 2**63 - 1
"""A hint's numbers are int64; a sum of several amounts may be more, and is shown as this."""


@dataclass(slots=True)
class Standing:
    """A balance at an instant, summed over the grants active then. Amounts at its scale.

    `spent` counts what leases have spent already; `leased` and `quarantined` only what is unsettled.
    """

    row: BalanceRow
    granted: int | None
    """Granted and active, or the limit. None: unlimited."""
    available: int = 0
    leased: int = 0
    quarantined: int = 0
    spent: int = 0
    presumed: int = 0
    ended: int = 0
    overage: int = 0
    period_start: datetime | None = None
    period_end: datetime | None = None
    next_expiry_at: datetime | None = None
    scoped: Mapping[str, int] | None = None

    @property
    def used(self) -> int:
        """Spent and presumed, with overage."""
        return self.spent + self.presumed + self.overage

    def hint(self) -> session.BalanceHint:
        """As the feed and acquiring say it."""
        hint = session.BalanceHint(
            ref=session.BalanceRef(
                customer_id=self.row.customer_id, subject_id=self.row.subject_id, balance=self.row.name
            ),
            version=self.row.version,
            granted=None if self.granted is None else _shown(self.granted),
            used=_shown(self.used),
            available=_shown(self.available),
            leased=_shown(self.leased + self.quarantined),
            overage=_shown(self.overage),
        )
        if self.period_start is not None:
            hint.period_start.FromDatetime(self.period_start)
        if self.period_end is not None:
            hint.period_end.FromDatetime(self.period_end)
        if self.next_expiry_at is not None:
            hint.next_expiry_at.FromDatetime(self.next_expiry_at)
        for feature, available in sorted((self.scoped or {}).items()):
            hint.scoped.add(feature=feature, available=_shown(available))
        return hint


def _shown(amount: int) -> int:
    """Within int64: one absurd balance must not keep the feed from everybody."""
    return max(-_HINT_MAX, min(_HINT_MAX, amount))


async def hints(uow: UnitOfWork, customer_id: str) -> list[session.BalanceHint]:
    """How a customer's balances stand now, those of its subjects and its parent's budgets included."""
    return [standing.hint() for standing in await standings(uow, customer_id)]


async def standings(uow: UnitOfWork, customer_id: str) -> list[Standing]:
    """As `hints`, for people: by name. A balance that nobody has touched yet stands as its plan says. Reads
    only.
    """
    own = await entitled.load(uow, customer_id, uow.now)
    wanted = {balance_id(item.ref): item for item in _wanted(own, uow.now)}
    mine = (
        select(balances)
        .where(
            or_(among(balances.c.id, wanted), (balances.c.customer_id == customer_id)),
            balances.c.kind != BalanceKind.RATE.name,
        )
        .order_by(balances.c.subject_id, balances.c.name)
        .limit(_SHOWN_SUBJECT_BALANCES + len(wanted))
    )
    vault = Vault(uow, reading=True)
    for row in (await uow.connection.execute(mine)).mappings():
        vault.held[row["id"]] = Holding(BalanceRow(**row))
    for identity, item in wanted.items():
        if identity not in vault.held:
            vault.held[identity] = Holding(new_balance(item, uow.now))
    specs: dict[str, BalanceSpec] = {identity: item.spec for identity, item in wanted.items()}
    for identity, holding in vault.held.items():
        spec = own.balances.get(holding.row.name)
        if spec is not None and identity not in specs and spec.scope is BalanceScope.SUBJECT:
            specs[identity] = spec
    found = await stand(vault, specs, own)
    return sorted(found.values(), key=lambda standing: (standing.row.subject_id, standing.row.name))


async def stand(
    vault: Vault, specs: Mapping[str, BalanceSpec], own: Entitlements | None = None
) -> dict[str, Standing]:
    """How the vault's balances stand, by id; with their spec where one is in force. Occurrences that are due
    are counted in.
    """
    ids = list(vault.held)
    await vault.load_live(ids)
    spent = await _spent_by_leases(vault, ids)
    open_overage = await _overage(vault, [one for one in ids if vault.held[one].row.overage])
    gauges = [one for one in ids if vault.held[one].row.kind == BalanceKind.GAUGE.name]
    judged = [one for one in ids if one in specs and specs[one].decided_remotely]
    held_by, peak = await _held(vault, gauges), await _peaks(vault, judged)
    found: dict[str, Standing] = {}
    for identity, holding in vault.held.items():
        spec = specs.get(identity)
        row = holding.row
        if row.kind == BalanceKind.GAUGE.name or (spec is not None and spec.decided_remotely):
            used, presumed = held_by.get(identity, (0, 0))
            if row.kind != BalanceKind.GAUGE.name:
                used = _peak(spec, peak, row, vault.now)
            limit = spec.limit if spec else None
            over = 0 if limit is None else max(0, used - limit)
            free = 0 if limit is None else max(0, limit - used)
            presumed = min(presumed, used - over)
            found[identity] = Standing(
                row,
                limit,
                spent=used - over - presumed,
                presumed=presumed,
                overage=over,
                available=free,
            )
        else:
            due = dict(holding.grants)
            if spec is not None:
                ref = BalanceRef(row.customer_id, row.subject_id, row.name)
                made = occurrences(
                    holding, Wanted(ref, spec, vault.now, own.grants if own else ()), vault.now
                )
                due = {grant.id: grant for grant in made} | due
            active = [grant for grant in due.values() if grant.active(vault.now)]
            found[identity] = _sum(row, spec, active, spent)
            _add_overage(found[identity], active, open_overage.get(identity, {}))
    return found


def _wanted(own: Entitlements, at: datetime) -> list[Wanted]:
    items = []
    for spec in own.balances.values():
        ref = spec.ref(own.customer_id, "", own.parent_id)
        if ref is not None and spec.kind is not BalanceKind.RATE:
            items.append(Wanted(ref, spec, at))
    return items


def _sum(
    row: BalanceRow,
    spec: BalanceSpec | None,
    active: Sequence[GrantRow],
    by_leases: Mapping[str, tuple[int, int]],
) -> Standing:
    unlimited = spec is not None and spec.unlimited
    standing = Standing(row, None if unlimited else 0)
    for grant in active:
        open_spent, quarantined_spent = by_leases.get(grant.id, (0, 0))
        used = grant.spent + open_spent + quarantined_spent
        beyond = grant.role == BEYOND_LIMIT
        standing.spent += 0 if beyond else used
        standing.overage += used + grant.presumed if beyond else 0
        standing.presumed += 0 if beyond else grant.presumed
        standing.leased += grant.leased - open_spent
        standing.quarantined += grant.quarantined - quarantined_spent
        if not beyond:
            standing.ended += grant.ended
            standing.available += grant.available
            if standing.granted is not None:
                standing.granted += (
                    grant.target if row.kind != BalanceKind.WALLET.name else grant.amount - grant.cut
                )
        if grant.window_start is not None:
            standing.period_start, standing.period_end = grant.window_start, grant.expires_at
    ends = [grant.ends_at for grant in active if grant.ends_at is not None and grant.available + grant.leased]
    standing.next_expiry_at = min(ends) if ends and row.kind == BalanceKind.WALLET.name else None
    features = {feature for grant in active for feature in grant.scope}
    if features:
        standing.scoped = {
            feature: sum(grant.available for grant in active if grant.serves(feature))
            for feature in {"", *features}
        }
    return standing


def _add_overage(
    standing: Standing, active: Sequence[GrantRow], by_window: Mapping[datetime | None, int]
) -> None:
    windows = {grant.window_start for grant in active}
    if standing.row.kind not in COUNTED_NAMES or not active:
        windows = set(by_window)
    standing.overage += sum(by_window.get(start, 0) for start in windows)


def _peak(
    spec: BalanceSpec | None,
    found: Mapping[tuple[str, str], tuple[int, int]],
    row: BalanceRow,
    now: datetime,
) -> int:
    if spec is None or spec.meter is None:
        return 0
    window = spec.period.window(now).start.isoformat() if spec.period is not None else ""
    highest, latest = found.get((row.id, window), (0, 0))
    return highest if spec.meter.aggregate is Aggregate.MAX else latest


async def _spent_by_leases(vault: Vault, ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Grant → what its open and its quarantined leases have spent, which is in `leased` and `quarantined`
    still.
    """
    spent: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    unsettled = (
        among(leases.c.balance_id, ids) & leases.c.state.in_((OPEN, QUARANTINED)) & (leases.c.spent > 0)
    )
    for lease in (await read_leases(vault.uow, unsettled, lock=False)).values():
        for piece in lease.spent_slices():
            spent[piece.grant_id][lease.state == QUARANTINED] += piece.amount
    return {grant_id: (pair[0], pair[1]) for grant_id, pair in spent.items()}


async def _overage(vault: Vault, ids: Collection[str]) -> dict[str, dict[datetime | None, int]]:
    if not ids:
        return {}
    missing = func.sum(facts.c.amount - facts.c.covered)
    query = (
        select(facts.c.balance_id, facts.c.window_start, missing)
        .where(among(facts.c.balance_id, ids), facts.c.covered < facts.c.amount)
        .group_by(facts.c.balance_id, facts.c.window_start)
    )
    found: defaultdict[str, dict[datetime | None, int]] = defaultdict(dict)
    for identity, start, amount in await vault.uow.connection.execute(query):
        found[identity][start] = int(amount)
    return found


async def _held(vault: Vault, ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """What is held of each gauge, and how much of it is presumed."""
    if not ids:
        return {}
    sums = func.sum(gauge_holders.c.quantity), func.sum(gauge_holders.c.presumed)
    query = (
        select(gauge_holders.c.balance_id, *sums)
        .where(among(gauge_holders.c.balance_id, ids))
        .group_by(gauge_holders.c.balance_id)
    )
    rows = await vault.uow.connection.execute(query)
    return {identity: (int(held), int(presumed)) for identity, held, presumed in rows}


async def _peaks(vault: Vault, ids: Collection[str]) -> dict[tuple[str, str], tuple[int, int]]:
    if not ids:
        return {}
    query = select(peaks.c.balance_id, peaks.c.window, peaks.c.highest, peaks.c.latest).where(
        among(peaks.c.balance_id, ids)
    )
    rows = await vault.uow.connection.execute(query)
    return {(identity, window): (highest, latest) for identity, window, highest, latest in rows}


async def changed_since(
    uow: UnitOfWork, at: datetime, customer_ids: Collection[str] | None = None
) -> Collection[str]:
    """Customers, of all or of these, whose balances may stand otherwise than at that instant: rows changed, or usage of
    leases came in.
    """
    by_lease = select(leases.c.balance_id).where(leases.c.changed_at >= at)
    query = (
        select(balances.c.customer_id)
        .where(or_(balances.c.changed_at >= at, balances.c.id.in_(by_lease)))
        .distinct()
    )
    if customer_ids is not None:
        query = query.where(among(balances.c.customer_id, customer_ids))
    return set((await uow.connection.execute(query)).scalars())
