"""The digits after the point that every balance counts in: they are what its amounts mean, and so they stay for good.

A balance keeps integers. A catalog that gave a unit other digits would make another amount of what customers have; so
whatever was published once keeps its scale, also while no catalog names it, and a text that says otherwise is refused.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sqlalchemy import insert, select

from control_plane.catalog.tables import scales
from control_plane.catalog.text import BadText, LocatedData, TextProblem
from control_plane.db.unit_of_work import UnitOfWork
from sidecar.engine.catalog import Catalog, MeteredTerms


class _Said(NamedTuple):
    """Something that is counted, where the catalog says how, and with how many digits."""

    name: str
    path: str
    scale: int
    mend: str


async def keep_scales(uow: UnitOfWork, catalog: Catalog, located: LocatedData) -> None:
    """Notes the scales of what is new. Raises BadText, with all that is counted otherwise than it was."""
    known = await _read(uow)
    new: dict[str, int] = {}
    problems: list[TextProblem] = []
    for said in _said(catalog):
        before = known.get(said.name, new.get(said.name))
        if before is None:
            new[said.name] = said.scale
        elif before != said.scale:
            what = f"{said.name} is counted with {before} digits after the point, and here with {said.scale}"
            problems.append(located.problem(said.path, what, said.mend))
    if problems:
        raise BadText(problems)
    if new:
        rows = [{"name": name, "scale": scale} for name, scale in new.items()]
        await uow.connection.execute(insert(scales), rows)


async def _read(uow: UnitOfWork) -> Mapping[str, int]:
    return {row.name: row.scale for row in await uow.connection.execute(select(scales))}


def _said(catalog: Catalog) -> Iterator[_Said]:
    for unit in catalog.units.values():
        mend = f"leave it at what it was, or give the unit another name: balances in {unit.name} keep their worth"
        yield _Said(f"unit {unit.name}", f"units.{unit.name}.scale", unit.scale, mend)
    for meter in catalog.meters.values():
        mend = "give the new meter another name, and a feature of its own"
        yield _Said(f"meter {meter.name}", f"meters.{meter.name}", meter.scale, mend)
    for section, several in (("plans", catalog.plans), ("add_ons", catalog.add_ons)):
        for name, holder in several.items():
            for feature, terms in holder.entitlements.items():
                if isinstance(terms, MeteredTerms) and terms.allowance is not None:
                    path = f"{section}.{name}.entitlements.{feature}"
                    mend = "give what is counted by another meter a feature of its own"
                    scale = catalog.meters[terms.allowance.meter].scale
                    yield _Said(f"the allowance of {feature}", path, scale, mend)
