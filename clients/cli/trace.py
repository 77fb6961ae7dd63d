"""`purser trace`: everything that hangs together with a decision, an event or a posting."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.tree import Tree

from clients.cli import output, rest

TRACED: Final = "decision, event, key, transaction, lease, grant or reservation"
SHORT: Final = 3
"""So many names with their values stand on one line, as measures do."""


def trace(
    id_: Annotated[str, typer.Argument(metavar="ID", help=f"Of a {TRACED}.")],
    control_plane: rest.ControlPlane = rest.CONTROL_PLANE,
    token: rest.Token = "",
    as_json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False,
) -> None:
    """Follow one charge from the decision that allowed it to the postings that booked it, and back."""
    found = rest.call(control_plane, token, "GET", f"/trace/{quote(id_, safe='')}")
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    tree = Tree(f"[bold]{escape(id_)}[/]")
    _grow(tree, {**found, "events": [_priced(event) for event in found.get("events", ())]})
    output.console().print(tree)


def _priced(event: dict[str, Any]) -> dict[str, Any]:
    """The event, with each cost as people read it: by which prices, and who pays."""
    costs = [_cost(cost, event.get("charges", ())) for cost in event.get("costs", ())]
    return {**event, "costs": costs} if costs else event


def _cost(cost: dict[str, Any], charges: Iterable[dict[str, Any]]) -> dict[str, Any]:
    unit, amount, billed = cost["unit"], cost["value"], cost["billed"]
    if amount is None:  # its unit is in no catalog any more
        return cost
    shown = {
        "feature": cost["feature"],
        "side": cost["side"],
        "amount": f"{amount} {unit}",
        "exact": cost["exact"],
        "priced by": f"rate card {cost['rate_card']} of catalog revision {cost['catalog_revision']}",
    }
    if cost["side"] == "price":
        payers = [charge["balance"] for charge in charges if _pays(charge, cost)] if billed != amount else []
        rest = f", the rest is drawn from {' and '.join(payers)}" if payers else ""
        shown["billed in arrears"] = f"{billed} {unit}{rest}"
    return shown


def _pays(charge: dict[str, Any], cost: dict[str, Any]) -> bool:
    """Does this balance take of what is not billed? No budget or gauge does, nor an allowance that may forgive it."""
    covered, uncovered = (Decimal(charge[part]["value"]) for part in ("covered", "uncovered"))
    match charge["balance"].partition(":")[0]:
        case "wallet":
            takes = bool(covered or uncovered)
        case "allowance":
            takes = bool(covered and (not uncovered or Decimal(cost["billed"])))
        case _:
            takes = False
    return takes and charge["feature"] == cost["feature"]


def _grow(tree: Tree, value: Any) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value, 1)
    for name, child in items:
        line = _line(child)
        if line is None:
            _grow(tree.add(f"[bold]{escape(str(name))}[/]"), child)
        elif line:
            tree.add(f"[dim]{escape(str(name))}[/] {escape(line)}")


def _line(value: Any) -> str | None:
    """What fits on the line of its name; None: it has lines of its own. Empty: there is nothing to say."""
    match value:
        case {"unit": unit, "value": amount, **rest} if not rest:
            return f"{amount} {unit}"
        case dict() if value and any(isinstance(child, dict | list) for child in value.values()):
            return None
        case dict() if len(value) <= SHORT:
            return ", ".join(f"{name} {child}" for name, child in value.items())
        case dict() | [_, *_]:
            return None
        case "" | None | []:
            return ""
        case _:
            return str(value)
