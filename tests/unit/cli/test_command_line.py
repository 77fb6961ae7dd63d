"""The `purser` command: every command is there, and one command does not wait for the others' imports."""

import importlib
import re
import subprocess
import sys

import httpx
import pytest
import typer
from typer.testing import CliRunner

from clients.cli import rest
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


def test_a_server_that_is_not_there_is_named_with_the_mend() -> None:
    """Where it was looked for, and what to do."""
    nobody = "127.0.0.1:9"
    for words, option in (
        (f"check --customer acme --feature chat --sidecar {nobody}", "--sidecar"),
        (f"trace k1 --control-plane http://{nobody}", "--control-plane"),
    ):
        done = runner.invoke(build(words.split()), words.split())
        assert done.exit_code == 1
        assert nobody in done.stderr
        assert "`purser dev`" in done.stderr
        assert option in done.stderr


def test_a_trace_is_not_cut_at_the_terminals_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are there to be copied, whatever the width."""
    uid = "u" * 300
    monkeypatch.setattr(rest, "call", lambda *args, **named: {"events": [{"uid": uid}]})
    done = runner.invoke(build(["trace"]), ["trace", "k1"], env={"COLUMNS": "40"})
    assert uid in done.stdout


@pytest.mark.parametrize(
    ("problem", "lines"),
    [
        (
            {"title": "No", "detail": "a: b", "errors": [{"field": "a", "problem": "b"}]},
            ["No", "  a: b"],
        ),
        (
            {
                "title": "Bad",
                "errors": [{"line": 3, "column": 4, "field": "x.y", "problem": "p", "mend": "m"}],
            },
            ["Bad", "  line 3, column 4: x.y: p — m"],
        ),
        ({"title": "Gone", "detail": "there is no such thing"}, ["Gone: there is no such thing"]),
    ],
)
def test_a_problem_of_rest_is_said_once(problem: dict[str, object], lines: list[str]) -> None:
    """Title, then a line for every field at fault; or title and detail, where no field is."""
    assert rest.in_words(httpx.Response(422, json=problem)).splitlines() == lines


def test_the_version_is_told() -> None:
    """`purser --version`."""
    done = runner.invoke(build(["--version"]), ["--version"])
    assert done.exit_code == 0
    assert re.fullmatch(r"purser \d+\.\d+\.\d+\n", done.stdout)
