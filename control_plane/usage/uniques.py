"""Meters of unique values: each value costs one per window, whoever counted it first."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import insert, select

from control_plane.db.bulk import read_by_keys
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.identity import balance_id
from control_plane.usage.pricing import Judged, window_of
from control_plane.usage.tables import counted_values
from sidecar.engine.evaluate import Bill, Charge
from sidecar.engine.values import ZERO, BalanceKind, BalanceRef


class Value(NamedTuple):
    """A value in a window of a balance."""

    balance_id: str
    window: str
    value: str


class Counted:
    """The values of one batch: looked up together, counted in order, written together."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow
        self._seen: set[Value] = set()
        self._new: list[dict[str, Any]] = []
        self._repeated: set[tuple[str, BalanceRef]] = set()

    async def count(self, several: Iterable[Judged]) -> None:
        """Counts what is new; `repeated` tells of the rest."""
        events = [(judged, list(_values(judged))) for judged in several]
        table = counted_values.c
        wanted = sorted({value for _, values in events for _, value in values})
        columns = (table.balance_id, table.window, table.value)
        rows = await read_by_keys(self._uow.connection, select(*columns), columns, wanted)
        self._seen.update(Value(*row) for row in rows)
        for judged, values in events:
            for charge, value in values:
                if value in self._seen:
                    self._repeated.add((judged.item.name, charge.ref))
                else:
                    self._seen.add(value)
                    self._new.append({**value._asdict(), "event_uid": judged.item.name})

    def repeated(self, name: str, ref: BalanceRef) -> bool:
        """Had the event's value been counted in that balance already?"""
        return (name, ref) in self._repeated

    def fresh(self, judged: Judged) -> Bill:
        """The bill without what had been counted already."""
        if not self._repeated:
            return judged.bill
        lines = tuple(
            replace(line, allowances=tuple(self._costless(judged, charge) for charge in line.allowances))
            for line in judged.bill.features
        )
        return replace(judged.bill, features=lines)

    def _costless(self, judged: Judged, charge: Charge) -> Charge:
        if charge.value and self.repeated(judged.item.name, charge.ref):
            return replace(charge, quantity=0, exact=ZERO)
        return charge

    async def save(self) -> None:
        """Writes what was counted. A value that somebody else counted meanwhile fails the statement: try
        again.
        """
        if self._new:
            rows = sorted(self._new, key=lambda row: (row["balance_id"], row["window"], row["value"]))
            await self._uow.connection.execute(insert(counted_values), rows)


def _values(judged: Judged) -> Iterator[tuple[Charge, Value]]:
    for charge in judged.bill.charges:
        if charge.value and charge.spec.kind not in {BalanceKind.GAUGE, BalanceKind.RATE}:
            start = window_of(charge.spec, judged.event.occurred_at)
            window = start.isoformat() if start else ""
            yield charge, Value(balance_id(charge.ref), window, charge.value)
