"""How answers look on a terminal. One JSON line with `--json`, words and a table without."""

from __future__ import annotations

from typing import Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.cli import json_form
from purser import errors, messages, types
from purser.v1 import decision_pb2

ALLOWED, FAILED, REFUSED = 0, 1, 3
"""Exit statuses: allowed (or done), an error, refused."""


LONGEST_LINE: Final = 10_000
"""Numbers and ids are there to be copied: no line is cut where the terminal ends."""


def console(*, stderr: bool = False) -> Console:
    """Where answers go; plain text when that is not a terminal. Texts with colons in them stay as they are."""
    return Console(highlight=False, soft_wrap=True, emoji=False, width=LONGEST_LINE, stderr=stderr)


def decision(message: decision_pb2.Decision) -> None:
    """One decision in words, its balances as a table, its explanation as steps."""
    answer, out = messages.decision(message), console()
    verdict = "[bold green]allowed[/]" if answer.allowed else "[bold red]refused[/]"
    said = "" if answer.reason == "OK" else f"  {answer.reason}  {escape(answer.message)}"
    out.print(f"{verdict}{said}")
    for label, value in _facts(answer):
        out.print(f"  [dim]{label:<10}[/] {escape(value)}")
    if answer.balances:
        out.print(balances(answer.balances))
    for number, step in enumerate(answer.explanation, 1):
        mark = "[green]✓[/]" if step.reason.startswith("OK") else "[red]✗[/]"
        source = f" [dim]({escape(step.source)})[/]" if step.source else ""
        about = f" {escape(step.about)}" if step.about else ""
        out.print(f"  {number:>2} {mark} [bold]{escape(step.step)}[/]{about}: {escape(step.finding)}{source}")


def _facts(answer: types.Decision) -> list[tuple[str, str]]:
    fresh = answer.freshness
    age = f"{fresh.age.total_seconds():.3f} s old" if fresh.age is not None else "never confirmed"
    found = [
        ("value", _feature_value(answer.value)),
        ("cost", str(answer.cost or "")),
        ("shortfall", str(answer.shortfall or "")),
        ("retry after", f"{answer.retry_after.total_seconds()} s" if answer.retry_after else ""),
        ("upgrades", ", ".join(answer.upgrade_options)),
        ("warnings", ", ".join(answer.warnings)),
        ("view", f"{fresh.source}, revision {fresh.revision}, {age}"),
        ("decision", answer.decision_id),
    ]
    return [(label, value) for label, value in found if value]


def _feature_value(value: types.Value) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    return "" if value is None else str(value)


def balances(states: tuple[types.BalanceState, ...]) -> Table:
    """A table of balances."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    held = any(state.reserved for state in states)
    for title in ("balance", "limit", "used", *(["reserved"] if held else []), "remaining", "unit", "resets"):
        is_text = title in ("balance", "unit", "resets")
        table.add_column(title, justify="left" if is_text else "right", no_wrap=True)
    for state in states:
        table.add_row(
            state.balance,
            _number(state.limit),
            _number(state.used),
            *([_number(state.reserved)] if held else []),
            _number(state.remaining) if state.limit is None or state.remaining is not None else "",
            state.unit,
            f"{state.resets_at:%Y-%m-%d}" if state.resets_at else "",
        )
    return table


def _number(value: Any) -> str:
    return "unlimited" if value is None else f"{value:f}"


def fail(error: Exception) -> typer.Exit:
    """Says what went wrong, field by field, on standard error."""
    err = console(stderr=True)
    wrong = _wrong_settings(error)
    err.print(f"[bold red]error[/]  {escape('wrong settings' if wrong else _text(error))}")
    for name, what in wrong:
        err.print(f"  [bold]{escape(name)}[/]: {escape(what)}" if name else f"  {escape(what)}")
    if isinstance(error, errors.InvalidRequest):
        for field, what in error.fields.items():
            if f"{field}: {what}" not in str(error):  # a message that names it already is enough
                err.print(f"  [bold]{escape(field)}[/]: {escape(what)}")
    return typer.Exit(FAILED)


def _text(error: Exception) -> str:
    """In words; of a database's error its own, without what SQLAlchemy has to say to developers."""
    driver = getattr(error, "orig", None)
    return str(error) if driver is None else f"the database: {driver}"


def _wrong_settings(error: Exception) -> list[tuple[str, str]]:
    """Name and problem of each setting, when that is the error."""
    if type(error).__name__ != "ValidationError":  # only a command that serves has pydantic loaded
        return []
    from sidecar.runtime.wording import wrong_settings

    return wrong_settings(error)  # type: ignore[arg-type]


def note(line: str) -> None:
    """Says something on standard error, as it is."""
    console(stderr=True).print(line, markup=False)


def as_json(message: Any) -> None:
    """One JSON object on standard output."""
    typer.echo(json_form.dumps(message))
