"""The catalog document: plain data in, a typed catalog out, or every problem that it has; and back again."""

from collections.abc import Mapping
from typing import Any, Final

from sidecar.engine.catalog import AddOn, Catalog, OnUnknownCustomer, Partner, Plan
from sidecar.engine.reading.features import check_requirements, read_feature
from sidecar.engine.reading.node import Node, Problem
from sidecar.engine.reading.plans import read_add_on, read_partner, read_plans
from sidecar.engine.reading.pricing import read_meter, read_rate_card, read_unit
from sidecar.engine.reading.terms import Goods
from sidecar.engine.writing import catalog_document

FORMAT: Final = "catalog/v1"
MAX_DEPTH: Final = 32
MAX_NODES: Final = 200_000

__all__ = ["FORMAT", "CatalogError", "Problem", "read_catalog", "write_catalog"]


class CatalogError(Exception):
    """The document is no catalog; `problems` says everything that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def read_catalog(data: Any) -> Catalog:
    """Reads plain data: dict, list, str, int, Decimal, bool, None. Raises CatalogError, and nothing else."""
    problems: list[Problem] = []
    root = Node(data, "", problems)
    if _bounded(root):
        catalog = _read(root)
        if not problems:
            return catalog
    raise CatalogError(tuple(dict.fromkeys(problems)))


def write_catalog(catalog: Catalog) -> dict[str, Any]:
    """The canonical document: JSON-able, decimals as strings, keys sorted; reading it gives the same catalog."""
    return {"purser": FORMAT, **catalog_document(catalog)}


def _bounded(root: Node) -> bool:
    """Refuses what is too deep or too large before anything else looks at it; a shared part counts each time."""
    waiting: list[tuple[Any, int]] = [(root.value, 0)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH:
            root.problem(f"it is nested more than {MAX_DEPTH} deep", "flatten it")
            return False
        if seen > MAX_NODES:
            root.problem(f"it has more than {MAX_NODES} values", "split it")
            return False
        if isinstance(value, Mapping):
            waiting += ((below, depth + 1) for below in value.values())
        elif isinstance(value, list | tuple):
            waiting += ((below, depth + 1) for below in value)
    return True


def _read(root: Node) -> Catalog:
    f = root.fields(
        *(
            "purser",
            "units",
            "meters",
            "rate_cards",
            "features",
            "plans",
            "add_ons",
            "partners",
            "default_plan",
        ),
        required=("purser",),
    )
    if "purser" in f and f["purser"].value != FORMAT:
        f["purser"].problem("the format is not known", f"write purser: {FORMAT}")
    units = {name: read_unit(name, node) for name, node in _entries(f, "units")}
    meters = {name: read_meter(name, node) for name, node in _entries(f, "meters")}
    cards = {name: read_rate_card(name, node, units) for name, node in _entries(f, "rate_cards")}
    features = {name: read_feature(name, node, meters, cards) for name, node in _entries(f, "features")}
    if "features" in f and isinstance(f["features"].value, Mapping):
        check_requirements(Node(f["features"].value, "features", root.problems), features)
    goods = Goods(units, meters, cards, features)
    plans: dict[str, Plan] = read_plans(f["plans"], goods) if "plans" in f else {}
    add_ons: dict[str, AddOn] = {
        name: read_add_on(name, node, goods) for name, node in _entries(f, "add_ons")
    }
    partners: dict[str, Partner] = {
        name: read_partner(name, node, goods) for name, node in _entries(f, "partners")
    }
    default = f["default_plan"].reference(plans, "plan") if "default_plan" in f else None
    for feature in features.values():
        if feature.trouble.on_unknown_customer is OnUnknownCustomer.DEFAULT_PLAN and "default_plan" not in f:
            root.at("features", None).at(feature.name, None).problem(
                "on_unknown_customer: default_plan needs one", "write default_plan: PLAN at the top"
            )
    return Catalog(
        units=units,
        meters=meters,
        rate_cards=cards,
        features=features,
        plans=plans,
        add_ons=add_ons,
        partners=partners,
        default_plan=default.name if default else "",
    )


def _entries(f: Mapping[str, Node], key: str) -> list[tuple[str, Node]]:
    return f[key].entries() if key in f else []
