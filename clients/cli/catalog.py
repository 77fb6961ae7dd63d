"""`purser catalog validate|show|publish`: the catalog as a YAML file."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape

from clients.cli import output, rest

app = typer.Typer(help="The catalog as a YAML file: validate it, show it, publish it.", no_args_is_help=True)
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="A catalog file, YAML or JSON; - for standard input.")
]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


class Move(enum.StrEnum):
    """What happens to existing subscriptions."""

    NONE = "none"
    ALL = "all"


@app.command()
def validate(file: File, as_json: Json = False) -> None:
    """Read a catalog, without a server, and name every problem with line, column and mend. Exit status 1: some."""
    if as_json:
        problems = _problems(file)
        typer.echo(json.dumps({"valid": not problems, "problems": problems}, ensure_ascii=False))
        raise typer.Exit(output.FAILED if problems else output.ALLOWED)
    document = _document(file)
    counts = ", ".join(
        _count(len(document[part]), part.replace("_", " ").removesuffix("s"))
        for part in _COUNTED
        if document.get(part)
    )
    output.console().print(f"[bold green]valid[/]  {escape(str(file))}: {counts}")


_COUNTED = ("units", "meters", "rate_cards", "features", "plans", "add_ons", "partners")


@app.command()
def show(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Show this file instead of the published catalog.")
    ] = None,
    revision: Annotated[
        int | None, typer.Option("--revision", help="This revision. Default: the newest.")
    ] = None,
    control_plane: rest.ControlPlane = rest.CONTROL_PLANE,
    token: rest.Token = "",
    as_json: Json = False,
) -> None:
    """Print a catalog in its canonical form: what equals a default is left out."""
    document = _document(file) if file else _published(control_plane, token, revision)
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        typer.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110), nl=False)


@app.command()
def publish(
    file: File,
    move: Annotated[
        Move,
        typer.Option(
            "--move", help="none: existing subscriptions stay on their version; all: they move along."
        ),
    ] = Move.NONE,
    control_plane: rest.ControlPlane = rest.CONTROL_PLANE,
    token: rest.Token = "",
    as_json: Json = False,
) -> None:
    """Publish a catalog: its revision, the plan versions it makes, and what becomes of existing subscriptions."""
    answer = rest.call(
        control_plane, token, "POST", "/catalog/revisions", params={"move": move.value}, content=_source(file)
    )
    typer.echo(json.dumps(answer, ensure_ascii=False) if as_json else "\n".join(_published_lines(answer)))


def _published_lines(answer: dict[str, Any]) -> Iterator[str]:
    yield f"revision {answer['revision']}"
    for plan, version in answer["plan_versions"].items():
        yield f"  new      {plan} version {version}"
    if answer["moved"]:
        yield f"  moved    {_count(answer['moved'], 'subscription')}"
    for kept in answer["staying"]:
        count = _count(kept["subscriptions"], "subscription")
        yield f"  staying  {count} on {kept['plan']} version {kept['plan_version']}"
    if answer["unmovable"]:
        yield f"  could not move, plan or add-on being gone: {', '.join(answer['unmovable'])}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _source(file: Path) -> bytes:
    try:
        return _bytes(file)
    except OSError as error:
        raise output.fail(error) from error


def _bytes(file: Path) -> bytes:
    return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()


def _document(file: Path) -> dict[str, Any]:
    """The canonical form of a file; its problems go to standard error."""
    from control_plane.catalog.text import BadText

    try:
        return _read(_source(file))
    except BadText as error:
        for problem in error.problems:
            path = f"{problem.path}: " if problem.path else ""
            mend = f" — {problem.mend}" if problem.mend else ""
            output.note(f"{file}:{problem.at.line}:{problem.at.column}: {path}{problem.what}{mend}")
        raise output.fail(ValueError(f"{_count(len(error.problems), 'problem')} in {file}")) from error


def _problems(file: Path) -> list[dict[str, Any]]:
    """What is wrong with a file, as data; a file that can not be read has one problem, which has no place."""
    from control_plane.catalog.text import BadText

    try:
        _read(_bytes(file))
    except OSError as error:
        return [{"line": None, "column": None, "path": "", "message": str(error), "mend": ""}]
    except BadText as error:
        return [
            {
                "line": each.at.line,
                "column": each.at.column,
                "path": each.path,
                "message": each.what,
                "mend": each.mend,
            }
            for each in error.problems
        ]
    return []


def _read(source: bytes) -> dict[str, Any]:
    """The canonical form. Raises BadText."""
    from control_plane.catalog.publish import read_draft
    from sidecar.engine.document import write_catalog

    return write_catalog(read_draft(source).catalog)


def _published(control_plane: str, token: str, revision: int | None) -> dict[str, Any]:
    found: dict[str, Any] = rest.call(
        control_plane, token, "GET", f"/catalog/revisions/{revision or 'current'}"
    )["document"]
    return found
