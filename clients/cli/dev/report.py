"""How the demo's outcome looks: scenes, checks, a table per customer, lines to paste, JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from clients.cli.dev.outcome import Check, Outcome, Row
from clients.cli.dev.stage import draw_scene


def full(outcome: Outcome) -> RenderableType:
    """All of it, for a screen that has shown nothing before."""
    parts: list[RenderableType] = [Text(outcome.heading, "bold"), Text("")]
    for number, scene in enumerate(outcome.scenes, 1):
        parts += draw_scene(number, scene.title, "played", scene.lines)
    return Group(*parts, Text(""), people(outcome.rows), Text(""), *checks(outcome.checks), Text(""))


def checks(judged: Sequence[Check]) -> list[RenderableType]:
    """A line each, green or red, and how many held."""
    width = max(len(check.name) for check in judged)
    lines = [
        Text.assemble(
            (" ✓  ", "bold green") if check.held else (" ✗  ", "bold red"),
            (f"{check.name:<{width}}  ", "green" if check.held else "red"),
            check.figures,
        )
        for check in judged
    ]
    held = sum(check.held for check in judged)
    colour = "bold green" if held == len(judged) else "bold red"
    return [*lines, Text(""), Text(f"{held} of {len(judged)} checks held", colour)]


def people(rows: Sequence[Row]) -> RenderableType:
    """A line per customer of the replay, and one below it for what was refused, by reason. Fits into 80 columns."""
    lines = [Text(_LINE.format(*_TITLES), "dim", no_wrap=True)]
    for row in rows:
        before, unit = row.before.partition(" ")[::2]
        balance = f"{before} → {row.after}" if row.after.endswith(unit) and unit else ""
        figures = (f"{row.requests:,}", f"{row.allowed:,}", f"{row.tokens:,}", row.cost, balance)
        lines.append(Text(_LINE.format(row.customer, row.plan, *figures).rstrip(), no_wrap=True))
        if row.refused:
            reasons = (f"{count:,} {reason}" for reason, count in Counter(row.refused).most_common())
            lines.append(Text(f"{'':17}refused: {', '.join(reasons)}", "yellow"))
    return Group(*lines)


_LINE = "{:<7}{:<8}{:>6}{:>8}{:>10}{:>12}  {}"
_TITLES = ("who", "plan", "asked", "allowed", "tokens", "paid, usd", "balance before → after")


def pastes(lines: Sequence[str]) -> RenderableType:
    """Lines to paste, as they are."""
    return Group(
        *(Text(line, "cyan" if line and not line.startswith("#") else "dim", no_wrap=True) for line in lines)
    )


def show(console: Console, outcome: Outcome, *, scenes_too: bool) -> None:
    """Prints it below what is there."""
    if scenes_too:
        console.print(full(outcome))
    else:
        console.print(Group(Text(""), people(outcome.rows), Text(""), *checks(outcome.checks), Text("")))


def as_json(outcome: Outcome) -> str:
    """The one JSON object of `--json`, on one line."""
    return json.dumps(outcome.summary, ensure_ascii=False)
