"""The `purser` command. A command's module is imported when that command is called, and only then."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

USAGE_ERROR: Final = 2
"""What the library exits with when it can not read the command line. Here that is an error as every other: scripts
know 0, 1 and 3."""

COMMANDS: Final = {
    "dev": "clients.cli.dev.command:dev",
    "control-plane": "clients.cli.serve:control_plane",
    "sidecar": "clients.cli.serve:sidecar",
    "migrate": "clients.cli.migrate:migrate",
    "catalog": "clients.cli.catalog:app",
    "check": "clients.cli.sidecar_calls:check",
    "consume": "clients.cli.sidecar_calls:consume",
    "report": "clients.cli.sidecar_calls:report",
    "reserve": "clients.cli.sidecar_calls:reserve",
    "settle": "clients.cli.sidecar_calls:settle",
    "release": "clients.cli.sidecar_calls:release",
    "trace": "clients.cli.trace:trace",
}
"""Every command and where it is: a function, or a Typer app with commands of its own."""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"purser {version('purser-server')}")
        raise typer.Exit


class Purser(TyperGroup):
    """The command with all its commands."""

    def main(self, *args: Any, **named: Any) -> Any:
        """Runs what was typed and ends the process."""
        try:
            return super().main(*args, **named)
        except SystemExit as end:
            if end.code != USAGE_ERROR:
                raise
            from clients.cli import output

            raise SystemExit(output.FAILED) from end


def build(words: Sequence[str]) -> typer.Typer:
    """The command line that these words need: one command when they begin with its name, else all of them."""
    app = typer.Typer(
        name="purser",
        cls=Purser,
        help="May this customer do this now, and who pays for it?",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_purser)
    first = words[0] if words else ""
    for name in (first,) if first in COMMANDS else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _purser(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """May this customer do this now, and who pays for it?"""


def main() -> None:
    """Runs the command that was typed."""
    build(sys.argv[1:])(prog_name="purser")


if __name__ == "__main__":
    main()
