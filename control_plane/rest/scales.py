"""How many digits an amount has, where its row does not say: by the catalog that named its unit."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select

from control_plane.catalog.revisions import current_revision, read_catalogs
from control_plane.db.among import among
from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.tables import balances
from control_plane.rest.forms import amount, scale_of


class Scales:
    """Made for one answer: knows the scales of balances, and of units by catalog revision."""

    def __init__(self, uow: UnitOfWork, of_balances: dict[str, Any]) -> None:
        self._uow = uow
        self._of_balances = of_balances

    @classmethod
    async def read(cls, uow: UnitOfWork, balance_ids: Collection[str | None]) -> "Scales":
        """With these balances' names and scales at hand."""
        wanted = {balance_id for balance_id in balance_ids if balance_id is not None}
        if not wanted:
            return cls(uow, {})
        rows = await uow.connection.execute(select(balances).where(among(balances.c.id, wanted)))
        return cls(uow, {row.id: row for row in rows})

    def name(self, balance_id: str | None) -> str | None:
        """The balance's name."""
        return None if balance_id is None else self._of_balances[balance_id].name

    def of_balance(self, scaled: int, balance_id: str) -> dict[str, str | None]:
        """An amount of a balance, with its unit."""
        row = self._of_balances[balance_id]
        return {"unit": row.unit, "value": amount(scaled, row.scale)}

    async def of_unit(
        self, scaled: int, unit: str, balance_id: str | None, catalog_revision: int | None
    ) -> dict[str, str | None]:
        """An amount of a unit, by its balance, or else by the catalog it was priced with."""
        if balance_id is not None:
            return self.of_balance(scaled, balance_id)
        for revision in (catalog_revision, await current_revision(self._uow)):
            if revision is not None:
                scale = scale_of((await read_catalogs(self._uow, [revision]))[revision], unit)
                if scale is not None:
                    return {"unit": unit, "value": amount(scaled, scale)}
        return {"unit": unit, "value": None}
