"""Booking a run of records: keys, returns, decided usage, facts, gauges; everything in bulk, all or
nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from control_plane.catalog.revisions import read_catalogs
from control_plane.customers import entitled
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.leases import gauges, verdicts
from control_plane.leases.letting_go import lose_key
from control_plane.leases.returns import Return, apply_returns
from control_plane.leases.rows import (
    PRESUMED,
    LeaseRow,
    update_leases,
)
from control_plane.leases.settle import Freed
from control_plane.ledger.facts import charge
from control_plane.ledger.holding import Vault
from control_plane.ledger.identity import balance_id
from control_plane.ledger.journal import Entry
from control_plane.ledger.rows import FactRow
from control_plane.usage.appends import Appends
from control_plane.usage.dead_letters import Dead, DeadReason, buried, bury
from control_plane.usage.keys import Keys, Standing
from control_plane.usage.opening import Opened, Opening
from control_plane.usage.pricing import Judged, Purse, judge, window_of
from control_plane.usage.records import Item, Unbookable, check, engine_event, instant, ref_of
from control_plane.usage.statuses import EventStatus
from control_plane.usage.uniques import Counted
from purser.sync.v1 import usage_pb2 as sync
from sidecar.engine.catalog import Aggregate
from sidecar.engine.entitlement import BalanceSpec
from sidecar.engine.values import BalanceKind, BalanceRef, GaugeChange, Reason, format_decimal


@dataclass(slots=True)
class Booked:
    """What became of a run of records."""

    accepted: list[Item] = field(default_factory=list)
    duplicates: list[Item] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)

    def add(self, other: "Booked") -> None:
        """Takes in what became of another run."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.dead += other.dead


class _Uncovered(NamedTuple):
    """A part of a charge that no lease covers: a fact."""

    ref: BalanceRef
    spec: BalanceSpec
    """By which the balance stood at that instant."""
    feature: str
    amount: int
    cause: str
    at: datetime


async def book(uow: UnitOfWork, items: Sequence[Item], *, wary: bool = False) -> Booked:
    """Books a run of records. Whatever it raises, nothing of the run may stay: the caller rolls back.

    Overtaken is raised where a lease changed unforeseen: book again, `wary`, with more locks.
    """
    return await _Booking(uow, items, wary=wary).run()


class _Booking:
    """One run. Reads and locks in the order: keys, customers, balances by id, leases by id; then writes in bulk."""

    def __init__(self, uow: UnitOfWork, items: Sequence[Item], *, wary: bool) -> None:
        self._uow = uow
        self._items = items
        self._vault = Vault(uow)
        self._freed = Freed(self._vault)
        self._keys = Keys(uow)
        self._counted = Counted(uow)
        self._opening = Opening(uow, self._vault, self._freed, wary)
        self._opened = Opened()
        self._appends = Appends(uow, self._vault.journal)
        self._booked = Booked()
        self._decided: list[Item] = []
        self._facts: list[Judged] = []
        self._returns: list[Return] = []
        self._remote: dict[str, Judged] = {}
        self._lost: list[Item] = []
        self._unique_events: set[str] = set()
        self._new_facts: list[tuple[FactRow, Entry]] = []

    async def run(self) -> Booked:
        await self._sort()
        await self._counted.count((*self._facts, *self._remote.values()))
        await self._open()
        self._book_decided()
        await self._book_facts()
        await self._book_remote()
        await self._lose_verdicts()
        changed = await apply_returns(self._uow, self._freed, self._opened.leases, self._returns)
        await self._freed.pay()
        await charge(self._vault, self._new_facts)
        await update_leases(self._uow, self._changed_leases(changed))
        await self._vault.save()
        await self._keys.save()
        await self._counted.save()
        await self._appends.save()
        await bury(self._uow, self._booked.dead)
        return self._booked

    # What is what

    async def _sort(self) -> None:
        usage = [item for item in self._items if item.is_usage]
        await self._name_customers(usage)
        self._unique_events = await self._find_unique_events(usage)
        await self._keys.load(usage)
        again = await buried(
            self._uow, (item.name for item in usage if item.record.HasField("first_written"))
        )
        for item in self._items:
            if item.is_return:
                returned = item.record.returned
                self._returns.append(Return(item.uid, returned.lease_id, returned.amount))
            elif item.is_usage and item.name not in again:
                await self._sort_usage(item)
            elif item.is_unreadable:
                self._dead(item, DeadReason.UNREADABLE, "the sidecar's disk has spoiled it")

    async def _name_customers(self, usage: Iterable[Item]) -> None:
        """A fact may name its subject alone, and a sidecar that knew nobody of that name kept it so."""
        nameless = [item.usage.event for item in usage if item.names_subject_only]
        owners = await entitled.owners_of(self._uow, {event.subject_id for event in nameless})
        for event in nameless:
            event.customer_id = owners.get(event.subject_id, "")

    async def _find_unique_events(self, usage: Iterable[Item]) -> set[str]:
        """Events that a `unique` meter may count for these customers, by any revision that they were pinned to."""
        customer_ids = {item.usage.event.customer_id for item in usage if item.usage.decided}
        if not customer_ids:
            return set()
        revisions = await entitled.revisions_of(self._uow, customer_ids)
        catalogs = (await read_catalogs(self._uow, revisions)).values()
        meters = [meter for catalog in catalogs for meter in catalog.meters.values()]
        return {meter.event for meter in meters if meter.aggregate is Aggregate.UNIQUE}

    async def _sort_usage(self, item: Item) -> None:
        if item.names_subject_only:
            self._dead(item, DeadReason.UNKNOWN_CUSTOMER, "the subject is not registered (yet)")
            return
        try:
            check(item)
        except Unbookable as error:
            self._dead(item, DeadReason.UNBOOKABLE, str(error))
            return
        match self._keys.standing(item):
            case Standing.SAME:
                return
            case Standing.DUPLICATE:
                self._booked.duplicates.append(item)
                self._give_back(item, "duplicate")
            case Standing.CONFLICT:
                self._dead(item, DeadReason.KEY_CONFLICT, "the idempotency key was used with other content")
                self._give_back(item, "conflict")
            case Standing.FIRST:
                await self._sort_first(item)

    async def _sort_first(self, item: Item) -> None:
        try:
            if not item.usage.decided:
                judged = await self._judge(item, instant(item.usage.event.occurred_at))
                if judged.entitlements.standing is Reason.CUSTOMER_NOT_FOUND:
                    self._dead(item, DeadReason.UNKNOWN_CUSTOMER, "there is no such customer (yet)")
                    return
                self._facts.append(judged)
            elif _is_remote(item.usage) or item.usage.event.event_name in self._unique_events:
                self._remote[item.name] = await self._judge(item, instant(item.usage.decided_at))
        except ValueError as error:
            self._dead(item, DeadReason.UNBOOKABLE, str(error))
            return
        if item.usage.decided:
            self._decided.append(item)
        self._keys.win(item)
        self._booked.accepted.append(item)

    async def _judge(self, item: Item, at: datetime) -> Judged:
        event = engine_event(item.usage.event)
        return judge(item, event, await entitled.at_instant(self._uow, event.customer_id, at))

    def _dead(self, item: Item, reason: DeadReason, message: str) -> None:
        self._booked.dead.append(Dead(item, reason, message))

    def _give_back(self, item: Item, cause: str) -> None:
        """What a record charged that is not booked goes back to its leases, once; and its seats are free."""
        if item.usage.event.gauge_change:
            self._lost.append(item)
        by_lease: defaultdict[str, int] = defaultdict(int)
        for charge_ in item.usage.charges:
            for part in charge_.covered:
                by_lease[part.lease_id] += part.amount
        self._returns += [Return(item.uid, lease_id, amount, cause) for lease_id, amount in by_lease.items()]

    # Locks

    async def _open(self) -> None:
        self._return_repeated()
        wanted = [item for judged in (*self._facts, *self._remote.values()) for item in judged.wanted()]
        returning = {item.lease_id for item in self._returns}
        lost = {balance_id(ref_of(charge_.ref)) for item in self._lost for charge_ in item.usage.charges}
        self._opened = await self._opening.open(self._decided, returning, wanted, also=lost)

    def _return_repeated(self) -> None:
        """What another had counted already is not spent again."""
        for item in self._decided:
            for charge_ in item.usage.charges:
                if self._counted.repeated(item.name, ref_of(charge_.ref)):
                    parts = charge_.covered
                    self._returns += [
                        Return(item.uid, part.lease_id, part.amount, "counted") for part in parts
                    ]

    # Decided usage

    def _book_decided(self) -> None:
        for item in self._decided:
            usage = item.usage
            decided_at = instant(usage.decided_at)
            entry = self._appends.event(item, at=self._clamped(usage, decided_at), status=EventStatus.BOOKED)
            for line, charge_ in enumerate(usage.charges, start=1):
                if not self._counted.repeated(item.name, ref_of(charge_.ref)):
                    self._book_charge(item, charge_, entry, decided_at)
                self._appends.charge(
                    item.name,
                    line,
                    balance_id=balance_id(ref_of(charge_.ref)),
                    feature=charge_.feature,
                    covered=sum(part.amount for part in charge_.covered),
                    uncovered=charge_.uncovered,
                    exact=charge_.exact,
                )
            for line, cost in enumerate(usage.costs, start=1):
                self._appends.cost(item, line, cost, entry)

    def _book_charge(self, item: Item, charge_: sync.Charge, entry: Entry, decided_at: datetime) -> None:
        beyond = 0
        for part in charge_.covered:
            lease = self._opened.leases.get(part.lease_id)
            amount = min(part.amount, lease.unsettled) if lease is not None else 0
            beyond += part.amount - amount
            if lease is None or not amount:
                continue
            unit = self._opened.units[lease.balance_id]
            paid = lease.spend(amount)
            if lease.state == PRESUMED:
                self._freed.truth(lease, paid)
            for piece in paid:
                entry.post(
                    f"grant:{piece.grant_id}",
                    -piece.amount,
                    unit=unit,
                    balance_id=lease.balance_id,
                    grant_id=piece.grant_id,
                    lease_id=lease.id,
                    feature=charge_.feature,
                )
            entry.post(
                f"usage:{charge_.feature}",
                amount,
                unit=unit,
                balance_id=lease.balance_id,
                feature=charge_.feature,
            )
        ref = ref_of(charge_.ref)
        for amount, cause in ((charge_.uncovered, "uncovered"), (beyond, "beyond_lease")):
            if amount:
                spec = self._opened.specs[ref, decided_at]
                self._fact(item, entry, _Uncovered(ref, spec, charge_.feature, amount, cause, decided_at))

    def _clamped(self, usage: sync.Usage, decided_at: datetime) -> datetime:
        for charge_ in usage.charges:
            for part in charge_.covered:
                if part.lease_id in self._opened.leases:
                    return self._opened.leases[part.lease_id].clamp(decided_at)
        return decided_at

    def _fact(self, item: Item, entry: Entry, charge_: _Uncovered) -> None:
        ref, spec, feature, amount, cause, at = charge_
        fact = FactRow(
            id=f"{item.name}:{len(self._new_facts)}:{cause}",
            balance_id=balance_id(ref),
            window_start=window_of(spec, at),
            event_uid=item.name,
            transaction_id=entry.id,
            occurred_at=at,
            event_key=item.usage.event.idempotency_key,
            feature=feature,
            amount=amount,
            cause=cause,
        )
        self._new_facts.append((fact, entry))

    def _changed_leases(self, returned: Iterable[LeaseRow]) -> list[LeaseRow]:
        spent = {
            part.lease_id
            for item in self._decided
            for charge_ in item.usage.charges
            for part in charge_.covered
        }
        changed = {lease.id: lease for lease in returned}
        changed |= {
            lease_id: self._opened.leases[lease_id] for lease_id in spent if lease_id in self._opened.leases
        }
        return [changed[lease_id] for lease_id in sorted(changed)]

    # Facts

    async def _book_facts(self) -> None:
        purse = Purse(self._vault)
        for judged in sorted(self._facts, key=lambda one: (one.event.occurred_at, one.event.idempotency_key)):
            judged.bill = self._counted.fresh(judged)
            outcome = await purse.price(judged, self._opened.held)
            entry = self._appends.event(
                judged.item,
                at=judged.event.occurred_at,
                status=EventStatus.UNRATED if outcome.unrated else EventStatus.BOOKED,
            )
            line = 0
            for draw in outcome.draws:
                if draw.spec.kind in {BalanceKind.RATE, BalanceKind.GAUGE} or draw.spec.decided_remotely:
                    continue
                line += 1
                amount = draw.within + draw.beyond + draw.uncovered
                at = judged.event.occurred_at
                reported = _Uncovered(draw.ref, draw.spec, draw.feature, amount, "reported", at)
                self._fact(judged.item, entry, reported)
                self._appends.charge(
                    judged.item.name,
                    line,
                    balance_id=balance_id(draw.ref),
                    feature=draw.feature,
                    covered=0,
                    uncovered=amount,
                    exact=format_decimal(draw.exact),
                )
            for number, cost in enumerate(outcome.costs, start=1):
                self._appends.cost_of_fact(judged.item, number, cost, entry)

    # Gauges, max, latest, and what decided usage counted

    async def _book_remote(self) -> None:
        for judged in (*self._facts, *self._remote.values()):
            for charge_ in judged.bill.charges:
                if charge_.spec.decided_remotely and charge_.ref in self._opened.held:
                    await self._reach(judged, charge_.ref, charge_.spec, charge_.quantity)

    async def _lose_verdicts(self) -> None:
        """After what is booked: that is no verdict any more, and stays."""
        for item in self._lost:
            for charge_ in item.usage.charges:
                holding = self._vault.held.get(balance_id(ref_of(charge_.ref)))
                if holding is not None and await lose_key(
                    self._uow, holding.row.id, item.uid, item.usage.event.idempotency_key
                ):
                    holding.touched = True

    async def _reach(self, judged: Judged, ref: BalanceRef, spec: BalanceSpec, value: int) -> None:
        event = judged.event
        self._opened.held[ref].touched = True
        if spec.kind is BalanceKind.GAUGE:
            change = gauges.Change(
                balance_id=balance_id(ref),
                holder_id=event.holder_id,
                event_key=event.idempotency_key,
                at=event.occurred_at,
                quantity=value,
                adds=event.gauge_change is GaugeChange.ADD,
                state=gauges.State.BOOKED,
            )
            about = f"{ref.balance} of {ref.customer_id}"
            await gauges.settle(self._uow, change, about=about, by_verdict=judged.item.usage.by_verdict)
        else:
            await verdicts.note(
                self._uow,
                balance_id=balance_id(ref),
                spec=spec,
                value=value,
                at=event.occurred_at,
                key=event.idempotency_key,
            )


def _is_remote(usage: sync.Usage) -> bool:
    """Did the control plane decide a part of it (a gauge, `max`, `latest`)? Its charge is in no lease and not
    uncovered.
    """
    if usage.event.gauge_change:
        return True
    return any(not charge_.covered and not charge_.uncovered for charge_ in usage.charges)
