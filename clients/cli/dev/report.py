"""How the demo's outcome looks: scenes, checks, a table per customer, lines to paste, JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
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
    """A line each, green or red."""
    table = Table.grid(padding=(0, 2))
    for check in judged:
        mark = Text("✓", "bold green") if check.held else Text("✗", "bold red")
        table.add_row(mark, Text(check.name, "green" if check.held else "red"), Text(check.figures))
    held = sum(check.held for check in judged)
    whole = held == len(judged)
    verdict = f"{held} of {len(judged)} checks held"
    return [Padding(table, (0, 0, 0, 1)), Text(""), Text(verdict, "bold green" if whole else "bold red")]


def people(rows: Sequence[Row]) -> RenderableType:
    """A line per customer of the replay, and one below it for what was refused, by reason. Fits into 80 columns."""
    lines = [Text(_LINE.format(*_TITLES), "dim", no_wrap=True)]
    for row in rows:
        before, unit = row.before.partition(" ")[::2]
        balance = f"{before} → {row.after}" if row.after.endswith(unit) and unit else ""
        figures = (f"{row.requests:,}", f"{row.allowed:,}", f"{row.tokens:,}", row.cost, balance)
        lines.append(Text(_LINE.format(row.customer, row.plan, *figures), no_wrap=True))
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
