"""A balance held under its row's lock, with the grants that the work at hand needs; written back in bulk."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import Select, select
from sqlalchemy.dialects import postgresql, sqlite

from control_plane.db.among import among
from control_plane.db.bulk import AnyRow, append, read_by_keys, update_rows
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.feed.bus import Bus
from control_plane.ledger.journal import Journal
from control_plane.ledger.rows import BalanceRow, GrantRow
from control_plane.ledger.tables import balances, grants

_CHANGING: Final = [
    "id",
    "amount",
    "target",
    "available",
    "leased",
    "quarantined",
    "spent",
    "presumed",
    "ended",
    "cut",
    "rolled",
    "burned",
    "voided_at",
    "begun",
    "expiry_booked",
    "earlier",
]
_TERM_FIELDS: Final = tuple(f.name for f in fields(GrantRow))


@dataclass(slots=True)
class Holding:
    """One balance and those of its grants that were asked for. Change the rows, then `Vault.save`."""

    row: BalanceRow
    grants: dict[str, GrantRow] = field(default_factory=dict)
    loaded_windows: set[datetime | None] = field(default_factory=set)
    why: dict[str, str] = field(default_factory=dict)
    """Grant id → the cause that is booked with what ended, was presumed or issued."""
    touched: bool = False
    _before: dict[str, GrantRow] = field(default_factory=dict)

    def window(self, start: datetime | None) -> list[GrantRow]:
        """The grants of one window, as far as they are loaded."""
        return [grant for grant in self.grants.values() if grant.window_start == start]

    def add(self, grant: GrantRow, cause: str = "issue") -> None:
        """Puts in a new grant."""
        self.grants[grant.id] = grant
        self.why[grant.id] = cause

    def because(self, grant: GrantRow, cause: str) -> None:
        """Names the cause of what happens to the grant in this transaction."""
        self.why[grant.id] = cause

    def known(self, grant: GrantRow) -> None:
        """Takes in a row as it was read."""
        if grant.id not in self.grants:
            self.grants[grant.id] = grant
            self._before[grant.id] = _copy(grant)

    def changed(self) -> list[tuple[GrantRow | None, GrantRow]]:
        """What was read and is different now (before, after), and what is new (None, after)."""
        pairs = ((self._before.get(grant.id), grant) for grant in self.grants.values())
        return [(before, after) for before, after in pairs if before != after]

    def saved(self) -> None:
        self._before = {grant.id: _copy(grant) for grant in self.grants.values()}
        self.touched = False


class Vault:
    """The balances that one unit of work holds locked."""

    def __init__(self, uow: UnitOfWork, *, reading: bool = False) -> None:
        """`reading`: nothing is locked, and nothing may be saved."""
        self._uow = uow
        self._reading = reading
        self.journal = Journal()
        self.held: dict[str, Holding] = {}
        self._live: set[str] = set()

    @property
    def now(self) -> datetime:
        return self._uow.now

    @property
    def uow(self) -> UnitOfWork:
        return self._uow

    async def create(self, rows: Iterable[BalanceRow]) -> None:
        """Makes the rows that are not there yet; who else makes them meanwhile makes the same."""
        values = [asdict(row) for row in sorted(rows, key=lambda row: row.id)]
        if values:
            await self._uow.connection.execute(insert_missing(self._uow, balances), values)

    async def lock(self, ids: Collection[str]) -> dict[str, Holding]:
        """Locks balances in the order of their ids; those that do not exist are left out.

        Call it once per unit of work if you can: a second call may meet another transaction's first half-way,
        and PostgreSQL then picks a victim, which is tried again.
        """
        missing = set(ids) - self.held.keys()
        if missing:
            query = select(balances).where(among(balances.c.id, missing)).order_by(balances.c.id)
            query = query if self._reading else query.with_for_update()
            for row in (await self._uow.connection.execute(query)).mappings():
                self.held[row["id"]] = Holding(BalanceRow(**row))
        return {identity: self.held[identity] for identity in ids if identity in self.held}

    async def load_live(self, ids: Collection[str]) -> None:
        """Reads the grants of locked balances whose end is not booked yet; once."""
        unread = set(ids) - self._live
        if unread:
            self._live |= unread
            await self._read(
                select(grants).where(among(grants.c.balance_id, unread), grants.c.expiry_booked.is_(False))
            )

    async def looked_at(self, ids: Collection[str]) -> "Vault":
        """These balances for reading: as this unit of work has saved them; those that it did not lock are read."""
        found = Vault(self._uow, reading=True)
        found.held = {identity: self.held[identity] for identity in ids if identity in self.held}
        found._live = self._live & found.held.keys()
        await found.lock(ids)
        return found

    async def load_windows(self, wanted: Mapping[str, Collection[datetime | None]]) -> None:
        """Reads all grants of these windows, ended ones included."""
        pairs = [
            (identity, start)
            for identity, starts in wanted.items()
            for start in starts
            if start not in self.held[identity].loaded_windows
        ]
        dated = [(identity, start) for identity, start in pairs if start is not None]
        timeless = [identity for identity, start in pairs if start is None]
        columns = grants.c.balance_id, grants.c.window_start
        self._take(await read_by_keys(self._uow.connection, select(grants), columns, dated))
        if timeless:
            await self._read(
                select(grants).where(among(grants.c.balance_id, timeless), grants.c.window_start.is_(None))
            )
        for identity, start in pairs:
            self.held[identity].loaded_windows.add(start)

    async def load_grants(self, ids: Collection[str]) -> None:
        """Reads single grants of locked balances."""
        have = {identity for holding in self.held.values() for identity in holding.grants}
        unread = set(ids) - have
        if unread:
            await self._read(select(grants).where(among(grants.c.id, unread)))

    async def _read(self, query: Select[Any]) -> None:
        self._take(await self._uow.connection.execute(query))

    def _take(self, rows: Iterable[AnyRow]) -> None:
        for row in rows:
            self.held[row.balance_id].known(GrantRow(**row._asdict()))

    async def save(self) -> None:
        """Writes every changed row, raises their balances' versions, and appends the books."""
        assert not self._reading, "a reading vault is not saved"
        updates: list[dict[str, Any]] = []
        inserts: list[dict[str, Any]] = []
        touched: list[Holding] = []
        for holding in self.held.values():
            changed = holding.changed()
            for before, after in changed:
                self._book(holding, before, after)
                row = {name: getattr(after, name) for name in _TERM_FIELDS}
                if before is None:
                    inserts.append(row)
                else:
                    updates.append({name: row[name] for name in _CHANGING})
            if changed or holding.touched:
                touched.append(holding)
        connection = self._uow.connection
        await append(connection, grants, inserts)
        await update_rows(connection, grants, "id", updates)
        bus = self._uow.kept(Bus)
        for holding in touched:
            holding.row.version += 1
            holding.row.changed_at = self.now
            holding.saved()
            self._uow.after_commit(partial(bus.balance_changed, holding.row.id))
        rows = [
            {
                "id": holding.row.id,
                "overage": holding.row.overage,
                "version": holding.row.version,
                "changed_at": self.now,
            }
            for holding in touched
        ]
        await update_rows(connection, balances, "id", rows)
        await self.journal.flush(self._uow)

    def _book(self, holding: Holding, before: GrantRow | None, after: GrantRow) -> None:
        """Value that was issued, ended or presumed; what was used is posted by those who know the event."""
        issued = after.amount - (before.amount if before else 0)
        ended = after.ended - (before.ended if before else 0)
        presumed = after.presumed - (before.presumed if before else 0)
        if not (issued or ended or presumed):
            return
        entry = self.journal.entry(
            cause=holding.why.get(after.id, "return"),
            customer_id=after.customer_id,
            occurred_at=self.now,
            recorded_at=self.now,
            reference=after.id,
        )
        parts: defaultdict[str, int] = defaultdict(int)
        parts[f"issued:{after.source}"] = -issued
        parts[f"ended:{after.id}"] = ended
        parts[f"presumed:{after.balance_id}"] = presumed
        for account, amount in parts.items():
            entry.post(account, amount, unit=holding.row.unit, balance_id=after.balance_id)
        entry.post(
            f"grant:{after.id}",
            issued - ended - presumed,
            unit=holding.row.unit,
            balance_id=after.balance_id,
            grant_id=after.id,
        )


def insert_missing(uow: UnitOfWork, table: Any) -> Any:
    """An INSERT that passes over rows whose key is there, on either database."""
    dialect = uow.connection.dialect.name
    insert_into = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert_into(table).on_conflict_do_nothing()


def _copy(grant: GrantRow) -> GrantRow:
    # `dataclasses.replace` goes through __init__ by keyword: three times slower, and this runs for every row read.
    return GrantRow(**{name: getattr(grant, name) for name in _TERM_FIELDS})
