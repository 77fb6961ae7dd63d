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


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("chek", "chek"),
        ("check --colour red", "--colour"),
        ("check --min-revision soon", "--min-revision"),
        ("trace", "ID"),
        ("catalog publish x.yaml --move some", "--move"),
        ("dev --exit", "--exit"),
    ],
)
def test_what_can_not_be_read_is_an_error(words: str, named: str) -> None:
    """An unknown command or option, a missing argument, an unusable value: status 1, with its name, as any error."""
    done = runner.invoke(build(words.split()), words.split(), env={"TERMINAL_WIDTH": "120"})
    assert done.exit_code == 1
    assert named in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("check --measure a=abc", "measures.a: 'abc' is not a number; write digits such as 412 or 0.5"),
        ("check --quantity many", "quantity: 'many' is not a number; write digits such as 412 or 0.5"),
        ("consume --change take", "gauge_change: 'TAKE' is unknown; write ADD, REMOVE, SET"),
        ("report --attribute a", "--attribute a: write NAME=VALUE"),
        ("reserve --ttl 5", "--ttl 5: write an ISO 8601 span, for instance PT5M"),
    ],
)
def test_a_value_that_is_none_is_named_with_its_mend(words: str, says: str) -> None:
    """One line names the field and what to write, before any sidecar is asked; status 1."""
    done = runner.invoke(build(words.split()), words.split())
    assert (done.exit_code, done.stderr.strip()) == (1, f"error  {says}")
