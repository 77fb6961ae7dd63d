"""The `purser` command: every command is there, and one command does not wait for the others' imports."""

import importlib
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner

from clients.cli import output, rest, trace
from clients.cli.__main__ import COMMANDS, build
from control_plane.rest import trace as rest_trace
from purser.v1 import decision_pb2
from tests.unit.clients.fake_sidecar import FakeSidecar, bad_request, status

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
        (
            "check --customer a --sidecar localhost",
            "--sidecar localhost: write HOST:PORT or unix:PATH, for instance localhost:7070",
        ),
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


def test_a_traced_key_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an address is made of may be part of a key."""
    asked: list[str] = []

    def call(_url: str, _token: str, _method: str, path: str) -> dict[str, Any]:
        asked.append(path)
        return {"events": []}

    monkeypatch.setattr(rest, "call", call)
    runner.invoke(build(["trace"]), ["trace", "a/b?c#d"])
    assert asked == ["/trace/a%2Fb%3Fc%23d"]


COST = {"feature": "chat", "rate_card": "llm", "side": "price", "catalog_revision": 4, "unit": "usd"}
COST |= {"value": "5", "exact": "5", "billed": "0"}


def charge(balance: str, covered: str, uncovered: str, feature: str = "chat") -> dict[str, Any]:
    """A line of an event's charges."""
    amounts = {"covered": covered, "uncovered": uncovered}
    return {"balance": balance, "feature": feature, **{part: {"value": it} for part, it in amounts.items()}}


@pytest.mark.parametrize(
    ("cost", "charges", "billed"),
    [
        (COST, [charge("wallet:usd", "5", "0")], "0 usd, the rest is drawn from wallet:usd"),
        (COST, [charge("allowance:chat", "9", "0")], "0 usd, the rest is drawn from allowance:chat"),
        (COST, [charge("allowance:chat", "9", "1")], "0 usd"),
        (COST, [charge("wallet:usd", "1", "0", "other"), charge("budget:daily", "5", "0")], "0 usd"),
        (
            COST,
            [charge("allowance:chat", "9", "0"), charge("wallet:usd", "0", "2")],
            "0 usd, the rest is drawn from allowance:chat and wallet:usd",
        ),
        (
            COST | {"billed": "2"},
            [charge("allowance:chat", "9", "1")],
            "2 usd, the rest is drawn from allowance:chat",
        ),
        (COST | {"billed": "5"}, [charge("allowance:chat", "1", "9")], "5 usd"),
        (COST | {"side": "cost"}, [charge("wallet:usd", "5", "0")], None),
    ],
)
def test_a_trace_says_who_pays(
    cost: dict[str, Any], charges: list[dict[str, Any]], billed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing billed does not read as free: where balances took the rest it says so; and by which card it is priced."""
    found = {"events": [{"costs": [cost], "charges": charges}]}
    monkeypatch.setattr(rest, "call", lambda *args, **named: found)
    said = runner.invoke(build(["trace"]), ["trace", "k1"]).stdout
    assert "priced by rate card llm of catalog revision 4\n" in said
    assert re.findall(r"billed in arrears (.*)", said) == ([] if billed is None else [billed])


def test_what_can_be_traced_is_said_alike() -> None:
    """The help of `purser trace` and the answer when there is nothing."""
    assert trace.TRACED == rest_trace.TRACED


def test_a_sidecars_word_on_a_field_names_the_option() -> None:
    """Whoever types does not know the message's fields."""
    sidecar = FakeSidecar()
    wrong = (
        bad_request("event.event_name", "must not be empty"),
        bad_request("event.measures[a]", "is negative"),
    )
    for problem, what in zip(
        wrong, ("must not be empty; add --event", "is negative (--measure)"), strict=True
    ):
        field = problem.field_violations[0].field
        said = f"{field}: {problem.field_violations[0].description}"
        sidecar.answers.append(status(grpc.StatusCode.INVALID_ARGUMENT, said, problem))
        words = ["check", "--customer", "acme", "--measure", "a=1", "--sidecar", sidecar.address]
        done = runner.invoke(build(words), words)
        assert (done.exit_code, done.stderr) == (1, f"error  {field}: {what}\n")
    sidecar.close()


class _Page(BaseHTTPRequestHandler):
    """Answers everything with a page."""

    def do_GET(self) -> None:
        self.send_response(501)
        self.end_headers()
        self.wfile.write(b"<html>no</html>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class names it so
        """Nobody reads it."""


def test_what_is_no_control_plane_is_not_quoted() -> None:
    """Whoever answers with a page is said to be none, with the status and where one is by default."""
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        words = ["trace", "k1", "--control-plane", url]
        done = runner.invoke(build(words), words)
        server.shutdown()
    assert done.exit_code == 1
    assert done.stderr == (
        f"error  {url} is no control plane's REST API (its answer is no JSON, status 501); "
        "by default that is http://127.0.0.1:7081\n"
    )


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
    assert rest.in_words(problem).splitlines() == lines


def test_the_version_is_told() -> None:
    """`purser --version`."""
    done = runner.invoke(build(["--version"]), ["--version"])
    assert done.exit_code == 0
    assert re.fullmatch(r"purser \d+\.\d+\.\d+\n", done.stdout)


def test_an_answer_is_not_cut_at_the_terminals_edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers and dates, or none: a number that lost its last digits is a wrong one."""
    monkeypatch.setenv("COLUMNS", "40")
    state = decision_pb2.BalanceState(
        balance="allowance:a-long-name",
        limit="1000000.25",
        used="19.973774",
        remaining="999980.276226",
        unit="credit",
    )
    state.resets_at.FromJsonString("2026-12-29T00:00:00Z")
    output.decision(decision_pb2.Decision(allowed=True, reason=1, balances=[state]))  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    for whole in ("1000000.25", "19.973774", "999980.276226", "2026-12-29"):
        assert whole in printed


def test_texts_with_colons_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Line 100 of a file is no emoji, and brackets in an id are no markup."""
    output.fail(ValueError("plans.yaml:100:13: job[red]"))
    output.note("plans.yaml:100:13")
    output.console().print("[bold]plans.yaml:100:13[/]")
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "plans.yaml:100:13\n",
        "error  plans.yaml:100:13: job[red]\nplans.yaml:100:13\n",
    )


def test_a_report_with_the_flags_of_a_consume_is_told_which_one_is_too_many() -> None:
    """A feature is named in a report of a gauge alone."""
    words = ["report", "--customer", "acme", "--feature", "chat", "--event", "llm", "--measure", "tokens=1"]
    done = runner.invoke(build(words), words)
    assert done.exit_code == 1
    assert "leave it out" in done.stderr


def test_a_control_plane_may_be_named_without_its_scheme() -> None:
    """As sidecars are; what is no address at all is named."""
    for words in ("trace k1 --control-plane 127.0.0.1:9", "trace k1 --control-plane http://[::"):
        done = runner.invoke(build(words.split()), words.split())
        assert done.exit_code == 1
        assert "missing an 'http" not in done.stderr
        assert "`purser dev`" in done.stderr
