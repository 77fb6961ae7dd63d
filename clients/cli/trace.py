"""`purser trace`: everything that hangs together with a decision, an event or a posting."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.tree import Tree

from clients.cli import output, rest

LONGEST_LINE: Final = 10_000
"""Ids are there to be copied: no line is cut where the terminal ends."""


def trace(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="Of a decision, event, posting, lease or reservation.")
    ],
    control_plane: rest.ControlPlane = rest.CONTROL_PLANE,
    token: rest.Token = "",
    as_json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False,
) -> None:
    """Follow one charge from the decision that allowed it to the postings that booked it, and back."""
    found = rest.call(control_plane, token, "GET", f"/trace/{id_}")
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    tree = Tree(f"[bold]{escape(id_)}[/]")
    _grow(tree, found)
    output.console(width=LONGEST_LINE).print(tree)


def _grow(tree: Tree, value: Any) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value, 1)
    for name, child in items:
        if isinstance(child, dict | list):
            if child:
                _grow(tree.add(f"[bold]{escape(str(name))}[/]"), child)
        elif child not in ("", None):
            tree.add(f"[dim]{escape(str(name))}[/] {escape(str(child))}")
