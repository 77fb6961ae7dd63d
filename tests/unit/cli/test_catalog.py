"""`purser catalog validate|show`: offline, with line, column and mend."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.cli import rest
from clients.cli.catalog import app
from clients.cli.dev.catalog_text import EXAMPLE

runner = CliRunner()


def test_the_example_is_valid() -> None:
    """A good file is said to be good, with what is in it."""
    done = runner.invoke(app, ["validate", str(EXAMPLE)])
    assert done.exit_code == 0, done.output
    assert "valid" in done.output
    assert "7 plans" in done.output


def test_every_problem_with_its_place(tmp_path: Path) -> None:
    """All problems at once, each with line and column and how to mend it; exit status 1."""
    bad = tmp_path / "bad.yaml"
    text = EXAMPLE.read_text(encoding="utf-8")
    bad.write_text(text.replace("scale: 9", "scale: nine").replace("spends: usd}", "spends: gold}"))
    done = runner.invoke(app, ["validate", str(bad)])
    assert done.exit_code == 1
    line = 1 + text[: text.index("scale: 9")].count("\n")
    assert f"bad.yaml:{line}:" in done.stderr
    assert "units.usd.scale" in done.stderr
    assert "plans.prepaid.entitlements.chat.spends" in done.stderr
    assert "problems in" in done.stderr


def test_problems_as_json(tmp_path: Path) -> None:
    """One object on standard output, whether the file is good, bad or not there; the status is 0 or 1."""
    bad = tmp_path / "bad.yaml"
    text = EXAMPLE.read_text(encoding="utf-8")
    bad.write_text(text.replace("scale: 9", "scale: nine"))
    done = runner.invoke(app, ["validate", "--json", str(bad)])
    assert (done.exit_code, done.stderr) == (1, "")
    answer = json.loads(done.stdout)
    assert not answer["valid"]
    problem = answer["problems"][0]
    assert (problem["path"], problem["line"]) == (
        "units.usd.scale",
        1 + text[: text.index("scale: 9")].count("\n"),
    )
    assert problem["column"] > 0
    assert problem["message"]
    assert problem["mend"]
    missing = runner.invoke(app, ["validate", "--json", str(tmp_path / "none.yaml")])
    assert missing.exit_code == 1
    assert "none.yaml" in json.loads(missing.stdout)["problems"][0]["message"]
    good = runner.invoke(app, ["validate", "--json", str(EXAMPLE)])
    assert (good.exit_code, json.loads(good.stdout)) == (0, {"valid": True, "problems": []})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """An error in words, not a traceback."""
    done = runner.invoke(app, ["validate", str(tmp_path / "none.yaml")])
    assert done.exit_code == 1
    assert "none.yaml" in done.stderr


def test_show_is_canonical() -> None:
    """What is shown of a file reads back as the same catalog, and is shown the same again."""
    shown = runner.invoke(app, ["show", str(EXAMPLE)]).output
    again = runner.invoke(app, ["show", "-"], input=shown).output
    assert shown == again
    as_json = json.loads(runner.invoke(app, ["show", "--json", str(EXAMPLE)]).output)
    assert as_json["purser"] == "catalog/v1"


ANSWER = {
    "plan_versions": {"pro": 2},
    "moved": 0,
    "stayed": 13,
    "staying": [
        {"plan": "free", "plan_version": 1, "subscriptions": 12},
        {"plan": "pro", "plan_version": 1, "subscriptions": 1},
    ],
    "unmovable": ["sub_x"],
    "revision": 7,
}


def test_a_publish_says_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision first, the plan versions it made, who moved and who stays on what; --json: the answer itself."""
    monkeypatch.setattr(rest, "call", lambda *args, **named: ANSWER)
    said = runner.invoke(app, ["publish", str(EXAMPLE)]).output
    assert said.splitlines() == [
        "revision 7",
        "  new      pro version 2",
        "  staying  12 subscriptions on free version 1",
        "  staying  1 subscription on pro version 1",
        "  could not move, plan or add-on being gone: sub_x",
    ]
    assert json.loads(runner.invoke(app, ["publish", "--json", str(EXAMPLE)]).output) == ANSWER
