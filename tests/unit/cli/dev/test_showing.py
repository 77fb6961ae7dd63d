"""How the story looks: on a terminal, in a pipe, in the README."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from clients.cli.dev import outcome as outcomes
from clients.cli.dev import picture, report
from clients.cli.dev.heard import percentile
from clients.cli.dev.stage import LiveStage, PlainStage
from tests.unit.cli.dev.outcomes import outcome

TITLES = ("one", "two")
REPOSITORY = Path(__file__).resolve().parents[4]
RECORDED = Path(__file__).with_name("demo.json")


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def test_plain_lines_have_no_control_codes() -> None:
    """In a pipe the story is plain text, markup in it is text too, and what ticks is left out."""
    console = plain()
    with PlainStage(console, TITLES) as stage:
        stage.scene("one")
        stage.say("[bold]said[/]")
        stage.tick("0.1 s old")
        stage.scene("two")
        for done in range(0, 101, 5):
            stage.progress(done, 100)
    report.show(console, outcome(), scenes_too=False)
    text = shown(console)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "[bold]said[/]" in text
    assert "0.1 s old" not in text
    assert [line.strip() for line in text.splitlines() if "requests" in line] == [
        f"{done} of 100 requests" for done in (25, 50, 75, 100)
    ]
    assert [scene.lines for scene in stage.scenes] == [["[bold]said[/]"], []]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30)])
def test_a_frame_of_the_live_screen_fits(width: int, height: int) -> None:
    """However much is said, a frame is as large as the terminal and shows the scene that plays, its last line too."""
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=True,
        color_system=None,
        highlight=False,
    )
    titles = tuple(f"scene {number}" for number in range(7))
    stage = LiveStage(console, titles, "heading " * 20, lambda: [("asked", "1,000,000")] * 9)
    stage.scene("scene 3")
    for number in range(40):
        stage.say(f"line {number} " + "long " * 40)
    stage.tick("0.5 s old")
    stage.progress(10, 20)
    frame = console.render_lines(stage._draw(), console.options, pad=False)
    text = "\n".join("".join(segment.text for segment in line) for line in frame)
    assert len(frame) == height
    assert all(len(line) <= width for line in text.splitlines())
    for part in (*titles, "line 39", "0.5 s old", "10 of 20 requests", "asked"):
        assert part in text


def test_the_table_fits_into_80_columns() -> None:
    """Rows and refusals of the widest customers; nothing wraps and nothing is cut."""
    console = plain(80)
    console.print(report.people(outcome().rows))
    text = shown(console)
    assert len(text.splitlines()) == 1 + 3 + 1
    assert "refused: 500 LIMIT_REACHED, 60 RATE_LIMITED" in text
    assert "1,000,000 → 543,210 tokens" in text


def test_lines_to_paste_are_never_wrapped() -> None:
    """A command that wraps can not be pasted."""
    console = plain(40)
    console.print(report.pastes(outcome().pastes), soft_wrap=True)
    assert shown(console).splitlines() == list(outcome().pastes)


def test_json_is_one_line() -> None:
    """The object of `--json` has no line breaks."""
    text = report.as_json(outcome())
    assert "\n" not in text
    assert json.loads(text) == {"requests": 9, "oversold": 0}


def test_one_red_check_is_enough() -> None:
    """An outcome holds only as a whole."""
    assert outcome().held
    assert not outcome(held=False).held


def test_a_recorded_outcome_gives_the_same_picture(tmp_path: Path) -> None:
    """Written, read back and drawn: the same characters each time."""
    source, target = tmp_path / "outcome.json", tmp_path / "picture.svg"
    source.write_text(outcomes.to_json(outcome()), encoding="utf-8")
    picture.main(source, target)
    assert target.read_text(encoding="utf-8") == picture.draw(outcome())
    assert "never" in picture.draw(outcome())


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_percentiles(percent: int, value: int) -> None:
    """The smallest value that so many percent do not exceed."""
    assert percentile(list(range(1, 101)), percent) == value
    assert percentile([7], percent) == 7


def test_the_picture_in_the_readme_is_what_the_program_shows() -> None:
    """`docs/demo.svg` is the recorded demo as it would be shown today, and the README shows it.

    When the look has changed: `python -m clients.cli.dev.picture tests/unit/cli/dev/demo.json docs/demo.svg`.
    """
    recorded = outcomes.from_json(RECORDED.read_text(encoding="utf-8"))
    assert recorded.held
    assert (REPOSITORY / "docs" / "demo.svg").read_text(encoding="utf-8") == picture.draw(recorded)
    assert "docs/demo.svg" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
