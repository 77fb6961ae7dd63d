"""`purser dev`: everything on this machine, and with `--demo` a story that ends in checks."""

# ruff: noqa: PLR0917 — the signature is the options: Typer reads it, nobody calls it by position.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dev(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder for databases and logs. Default: a temporary one, removed at the end."
        ),
    ] = None,
    free_ports: Annotated[
        bool,
        typer.Option(
            "--free-ports", help="Take other ports where the standard ones are taken; --demo does so."
        ),
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Two sidecars, the example catalog, and a story of about a minute.")
    ] = False,
    exit_: Annotated[
        bool, typer.Option("--exit", help="End after the demo. Exit status 0: every check held, 1: not.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", help="CSV of LLM requests to replay: TIMESTAMP,ContextTokens,GeneratedTokens."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides who calls, and with what.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output; the story on standard error.")
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="Write the demo's outcome to this file, for its picture.", hidden=True),
    ] = None,
) -> None:
    """Run a control plane and a sidecar on SQLite, without any other server, until Ctrl-C."""
    if not demo and (exit_ or trace or as_json or record):
        raise typer.BadParameter("--exit, --trace, --json and --record go with --demo")
    from clients.cli.dev import running

    options = running.Options(
        data=data,
        demo=demo,
        free_ports=free_ports,
        exit_after=exit_,
        trace=trace,
        seed=seed,
        as_json=as_json,
        record=record,
    )
    raise typer.Exit(running.run(options))
