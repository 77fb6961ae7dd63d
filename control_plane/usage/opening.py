"""What a run of records moves: found out by a look, then locked in order, balances by id and leases by id."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select

from control_plane.customers import entitled
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases.rows import PRESUMED, LeaseRow, read_leases
from control_plane.leases.settle import Freed
from control_plane.leases.tables import leases
from control_plane.ledger.holding import Holding, Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.in_force import specs_in_force
from control_plane.ledger.occurrences import COUNTED, Wanted
from control_plane.ledger.opening import lock_balances, open_balances
from control_plane.ledger.specs import find_spec
from control_plane.ledger.tables import balances
from control_plane.usage.pricing import window_of
from control_plane.usage.records import Item, Unbookable, instant, ref_of
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.values import BalanceRef


class Overtaken(Exception):
    """A lease changed between the look at it and its lock, so that other balances move than were locked."""


@dataclass(slots=True)
class Opened:
    """Everything that is locked, by what it is asked for."""

    held: dict[BalanceRef, Holding] = field(default_factory=dict)
    specs: dict[tuple[BalanceRef, datetime], BalanceSpec] = field(default_factory=dict)
    """By what spec a balance stood at an instant; of every decided charge that no lease covers."""
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    """Balance → its unit; of every lease's balance."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Usually a decided charge moves its lease's row and no balance. `wary`: locks the balances all the same, so that
    nothing can change unforeseen.
    """

    uow: UnitOfWork
    vault: Vault
    freed: Freed
    wary: bool

    async def open(
        self,
        decided: Sequence[Item],
        returning: Collection[str],
        wanted: Iterable[Wanted],
        *,
        also: Collection[str],
    ) -> Opened:
        """Opens what decided usage, returns to leases, and `wanted` balances of others move, and balances that are
        locked `also`, as far as they exist. Raises Overtaken, unless wary, and Unbookable.
        """
        spending = _spending(decided)
        lease_ids = sorted({*spending, *returning})
        glimpsed = await self._read_leases(lease_ids, lock=False)
        moving = {*returning, *(glimpsed if self.wary else _moving(glimpsed, spending))}
        theirs = {glimpsed[lease_id].balance_id for lease_id in moving if lease_id in glimpsed}
        uncovered = await self._wanted_uncovered(decided, glimpsed, spending)
        every = [*wanted, *uncovered]
        opened = Opened()
        await lock_balances(self.vault, {item.ref for item in every}, also={*theirs, *also})
        counted = {item.ref for item in every if item.spec.kind in COUNTED and not item.spec.decided_remotely}
        in_force = await specs_in_force(self.uow, counted)
        opened.held = await open_balances(self.vault, _each_once(every), in_force)
        opened.specs = {(item.ref, item.at): item.spec for item in uncovered}
        windows: defaultdict[str, set[datetime | None]] = defaultdict(set)
        for one in every:
            windows[balance_id(one.ref)].add(window_of(one.spec, one.at))
        await self.vault.load_windows(windows)
        opened.leases = await self._read_leases(lease_ids, lock=True)
        if not _moving(opened.leases, spending) <= moving or not opened.leases.keys() <= glimpsed.keys():
            raise Overtaken(Overtaken.__doc__)
        await self.freed.load(opened.leases[lease_id] for lease_id in moving if lease_id in opened.leases)
        opened.units = await self._read_units(opened.leases.values())
        return opened

    async def _read_leases(self, ids: Sequence[str], *, lock: bool) -> dict[str, LeaseRow]:
        return await read_leases(self.uow, among(leases.c.id, ids), lock=lock) if ids else {}

    async def _wanted_uncovered(
        self, decided: Sequence[Item], glimpsed: Mapping[str, LeaseRow], spending: Mapping[str, int]
    ) -> list[Wanted]:
        """Balances of decided charges that no lease covers (any more)."""
        wanted: list[Wanted] = []
        found: dict[tuple[BalanceRef, datetime], Wanted | None] = {}
        for item in decided:
            at = instant(item.usage.decided_at)
            for charge in item.usage.charges:
                short = bool(charge.uncovered) or any(
                    part.lease_id not in glimpsed
                    or spending[part.lease_id] > glimpsed[part.lease_id].unsettled
                    for part in charge.covered
                )
                if not short and not (self.wary and charge.covered):
                    continue
                key = (ref_of(charge.ref), at)
                if key not in found:
                    found[key] = await self._wanted_at(*key)
                one = found[key]
                if one is not None:
                    wanted.append(one)
                elif short:
                    raise Unbookable(f"{charge.ref.balance} of {charge.ref.customer_id} is not known")
        return wanted

    async def _wanted_at(self, ref: BalanceRef, at: datetime) -> Wanted | None:
        then = await entitled.at_instant(self.uow, ref.customer_id, at)
        spec = then.balances.get(ref.balance)
        if spec is not None:
            return Wanted(ref, spec, at, then.grants)
        now = await find_spec(self.uow, ref, self.uow.now)
        return None if now is None else Wanted(ref, now.spec, at, now.entitlements.grants)

    async def _read_units(self, held: Iterable[LeaseRow]) -> dict[str, str]:
        units = {holding.row.id: holding.row.unit for holding in self.vault.held.values()}
        unknown = {lease.balance_id for lease in held} - units.keys()
        if unknown:
            query = select(balances.c.id, balances.c.unit).where(among(balances.c.id, unknown))
            units.update((row.id, row.unit) for row in await self.uow.connection.execute(query))
        return units


def _spending(decided: Iterable[Item]) -> dict[str, int]:
    """What is spent of each lease."""
    spending: defaultdict[str, int] = defaultdict(int)
    for item in decided:
        for charge in item.usage.charges:
            for part in charge.covered:
                spending[part.lease_id] += part.amount
    return spending


def _moving(held: Mapping[str, LeaseRow], spending: Mapping[str, int]) -> set[str]:
    """Leases whose spending moves their balance too: it was presumed, or there is not as much left."""
    return {
        lease_id
        for lease_id, amount in spending.items()
        if lease_id in held and (held[lease_id].state == PRESUMED or amount > held[lease_id].unsettled)
    }


def _each_once(wanted: Iterable[Wanted]) -> list[Wanted]:
    """One per balance, instant and plan: what is decided is judged by the plan of its decision."""
    return list({(item.ref, item.at, id(item.spec)): item for item in wanted}.values())
