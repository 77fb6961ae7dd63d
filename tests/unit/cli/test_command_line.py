"""The `purser` command: every command is there, and one command does not wait for the others' imports."""

import importlib
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from clients.cli.__main__ import COMMANDS, build

runner = CliRunner()


def test_help_names_every_command() -> None:
    """`purser --help` lists them all."""
    done = runner.invoke(build(["--help"]), ["--help"], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert [name for name in COMMANDS if f" {name} " not in done.output] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    """Each is where the table says, and explains itself."""
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, typer.Typer) or found.__doc__
    assert runner.invoke(build([name]), [name, "--help"]).exit_code == 0


@pytest.mark.parametrize("name", ["check", "trace", "catalog", "dev"])
def test_a_command_loads_what_it_needs(name: str) -> None:
    """Talking to a server, or asking for help, loads neither server."""
    code = (
        f"import sys; from clients.cli.__main__ import build; build([{name!r}]);"
        "print([m for m in sys.modules if m.split('.')[0] in ('sidecar', 'control_plane', 'sqlalchemy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_command_is_an_error() -> None:
    """It is named, with status 2."""
    done = runner.invoke(build(["chek"]), ["chek"])
    assert done.exit_code == 2
    assert "chek" in done.output
