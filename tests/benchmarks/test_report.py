"""The page and the tables say what was measured, and what was missed."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from tests.benchmarks.raw import (
    Calls,
    Engine,
    Fleet,
    Half,
    Ladder,
    Latencies,
    Memory,
    Pace,
    Pairs,
    Peer,
    Population,
    Populations,
    Run,
    Step,
)
from tests.benchmarks.report import page
from tests.benchmarks.report.goals import NOT_MEASURED, Goal, goals
from tests.benchmarks.report.plots import plots
from tests.benchmarks.report.table import call_rows, facts, goal_rows, print_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"
_DECIMAL = re.compile(r"-?\d+\.\d+")
LATENCIES = Latencies.of(float(n) for n in range(1, 2001))


def calls(name: str, rate: float, *ratios: float, uploading: bool | None = False, busy: float = 0.3) -> Calls:
    return Calls(
        name=name,
        uploading=uploading,
        in_flight=32,
        checks_per_call=50 if name.startswith("Batch") else 1,
        calls_per_second=(rate,) * max(1, len(ratios)),
        ratios=ratios,
        latencies=LATENCIES,
        alone=LATENCIES,
        server_us_per_call=(100.0,),
        generator_busy=(busy,),
    )


def pairs(name: str, *ours: float, theirs: float = 100.0) -> Pairs:
    return Pairs(name=name, unit="calls/s", ours=ours, theirs=(theirs,) * (len(ours) + 1))


def ladder(name: str, *, uploading: bool) -> Ladder:
    steps = [
        Step(
            fraction=fraction,
            offered_per_second=fraction * 10_000,
            answered_per_second=(fraction * 10_000,),
            latencies=LATENCIES,
            late=Latencies.of([20.0]),
            not_answered=0,
        )
        for fraction in (0.5, 0.9)
    ]
    return Ladder(name=name, uploading=uploading, ceiling_per_second=10_000, steps=tuple(steps))


@pytest.fixture
def run() -> Run:
    """A run of everything: some goals are reached, some are missed."""
    echo = calls("bare grpc.server", 10_000, uploading=None)
    return Run(
        machine={"commit": "0123456789ab", "cpu": "a processor, 2 cores"},
        pace=Pace(rounds=3, seconds=0.7, in_flight=32, threads=4),
        minutes=1.0,
        core_stolen=0.01,
        calls=(
            echo,
            calls("CheckAccess", 9_400, 0.9, 0.94, 0.96),
            calls("CheckAccess, always new", 5_000, 0.5),
            calls("BatchCheckAccess × 50", 3_000, 0.3),
            calls("ConsumeUsage, power_loss", 5_000, 0.5),
            echo,
            calls("CheckAccess", 7_000, 0.7, uploading=True, busy=0.97),
        ),
        uploaded_per_second={"power_loss": 2_000},
        ceilings=tuple(
            calls("CheckAccess", 8_000, 0.9, uploading=uploading).model_copy(update={"in_flight": n})
            for uploading in (False, True)
            for n in (1, 8)
        ),
        ladders=tuple(ladder("CheckAccess", uploading=uploading) for uploading in (False, True)),
        half=Half(
            offered_per_second=5_000,
            p99_us=pairs("p99", 130.0, 150.0),
            p50_us=pairs("p50", 100.0, 100.0),
            uploaded_per_second=(2_000,),
        ),
        peer=Peer(version="0", calls_per_second=pairs("check", 120.0), cpu_us_per_call=pairs("check", 80.0)),
        engine=Engine(decision_us=pairs("a decision", 7.0), parts_us={"bill": (3.0,)}),
        populations=Populations(
            customers_max=400,
            hot=200,
            cold_every=500,
            rows=tuple(
                Population(customers=n, server_us_per_call=(us, us), calls_per_second=(8_000, 8_000))
                for n, us in ((1_000, 100.0), (10_000, 120.0), (1_000_000, 104.0))
            ),
        ),
        memory=(
            Memory(
                name="ten entitlements",
                customers=900,
                bytes_per_customer=(1_800, 2_000, 2_100),
                in_use_max=650,
                bytes_in_use=(9_000, 9_200),
            ),
        ),
        start_seconds={"with a snapshot": (0.8, 0.9)},
        reports=(pairs("ReportBatch", 60.0),),
        leases=(pairs("leases", 20.0),),
        fleet=Fleet(
            sidecars=100,
            sent_ms=(80.0, 150.0),
            returned_ms=(40.0, 90.0),
            middle_ms=(60.0, 70.0),
            alone_ms=(8.0, 9.0),
            cpu_ms=(2.5, 2.6),
            bare_ms=(50.0, 60.0),
        ),
    )


def goal(run: Run, start: str) -> Goal:
    return next(each for each in goals(run) if each.name.startswith(start))


def test_goals_are_judged_by_the_median(run: Run) -> None:
    """A goal has the median of its rounds, the lowest and the highest, and is held against the median."""
    row = next(row for row in goal_rows(run) if row[0].startswith("`CheckAccess`, calls/s over the bare"))
    assert row[1:] == ("≥ 0.93", "0.94", "0.90–0.96, 3 rounds", "✓")


def test_a_missed_goal_is_shown_as_missed(run: Run) -> None:
    """What falls short stays in the tables, marked."""
    missed = [goal.name for goal in goals(run) if goal.holds is False]
    assert [name[:20] for name in missed] == [
        "`CheckAccess` p99 at",
        "`ConsumeUsage` on a ",
        "checks/s in batches ",
        "a call's cost from 1",
        "lease acquisitions/s",
    ]
    text = page.page(run)
    for name in missed:
        assert any(name in line and "✗ missed" in line for line in text.splitlines())
    assert "≥ 0.75 ✗" in text, "the row of what is always new says it too"


def test_what_was_not_measured_says_so(run: Run) -> None:
    """Neither reached nor missed; with the reason, where there is one."""
    without = run.model_copy(update={"peer": Peer(version="0", why_not="there is no npm"), "leases": ()})
    verdicts = {row[0]: row[-1] for row in goal_rows(without)}
    assert [name[:5] for name, verdict in verdicts.items() if verdict == NOT_MEASURED] == ["lease"]
    assert f"{NOT_MEASURED}: there is no npm" in verdicts.values()
    assert "Not measured: there is no npm." in page.page(without)


def test_batches_are_compared_with_unary_calls(run: Run) -> None:
    """0.3 of the calls with 50 checks each are 15 times the checks: short of twenty."""
    batch = next(row for row in call_rows(run) if row[0].startswith("Batch"))
    assert batch[2:5] == ("3,000 (150,000 checks/s)", "15.0 × (15.0–15.0)", "≥ 20 ✗")


def test_flat_means_every_row(run: Run) -> None:
    """The row that is farthest off decides, not the last one."""
    found = goal(run, "a call's cost")
    assert (found.reached, found.holds) == ("+20.0%", False)


def test_customers_in_use_are_told_from_cached_ones(run: Run) -> None:
    """The goal is about cached ones; the page and the facts say both."""
    assert goal(run, "memory per cached customer").found == 2_000
    assert (
        "| one of the 650 in use with ten entitlements | 9,100 bytes (9,000 bytes–9,200 bytes) |"
        in page.page(run)
    )
    assert any("by 900 customers; one of the 650 in use: 9,100 bytes" in fact for fact in facts(run))


def test_a_ratio_has_its_neighbours_below() -> None:
    """Each round of ours is held against the mean of theirs before and after it."""
    found = Pairs(name="", unit="", ours=(10.0, 30.0), theirs=(10.0, 30.0, 10.0))
    assert found.ratios == [0.5, 1.5]


def test_percentiles_of_a_histogram() -> None:
    """True to a percent of the latency, whatever its size."""
    for percent, exact in ((50, 1_001), (99, 1_981), (99.9, 1_999)):
        assert LATENCIES.percentile(percent) == pytest.approx(exact, rel=0.011)
    assert LATENCIES.count == 2_000


def test_the_yardstick_stands_once(run: Run) -> None:
    """It is measured with every scenario and shown once, without a ratio."""
    assert [row[:2] for row in call_rows(run)].count(("bare grpc.server", "")) == 1


def test_a_busy_generator_is_said(run: Run) -> None:
    """Where the load was the bottleneck, the rate is a lower bound and says so."""
    assert call_rows(run)[-1][2] == "≥ 7,000"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_tables_are_plain_without_a_terminal(run: Run, terminal: bool) -> None:
    """Lines are drawn on a terminal only; the words are the same, and nothing is cut off."""
    out = io.StringIO()
    print_tables(run, Console(file=out, force_terminal=terminal, width=240))
    assert ("╭" in out.getvalue(), "\x1b" in out.getvalue()) == (terminal, terminal)
    for text in ("BatchCheckAccess × 50", "0.94 (0.90–0.96)", "2,000 bytes", "0123456789ab"):
        assert text in out.getvalue()


def test_raw_data_is_read_back(run: Run) -> None:
    """What was written is the same run, and gives the same page."""
    again = Run.model_validate_json(page.raw_text(run))
    assert again == run
    assert page.page(again) == page.page(run)


def test_plots_are_the_same_every_time(run: Run) -> None:
    """No instant, no chance: the same run draws the same bytes. They are XML, small, and follow the page's colours."""
    drawn = plots(run)
    assert drawn.keys() == {
        f"{name}.svg" for name in ("goals", "ceilings", "ladders", "populations", "fleet")
    }
    assert plots(run) == drawn
    for text in drawn.values():
        ET.fromstring(text)
        assert len(text) < 100_000
        assert "prefers-color-scheme: dark" in text
        assert "var(--ink)" in text
        assert "#010203" not in text


def test_a_run_of_few_rows_has_few_plots(run: Run) -> None:
    """Nothing is drawn of nothing, and the page refers to no plot that is not there."""
    few = Run(machine={}, pace=run.pace, engine=run.engine)
    assert plots(few).keys() == {"goals.svg"}
    assert page.page(few).count(".svg") == 1


def test_no_plot_of_an_earlier_run_stays(run: Run, tmp_path: Path) -> None:
    """What is committed is of one run: a row that did not come to an end this time leaves no picture of the last."""
    page.write(run, tmp_path)
    few = Run(machine={}, pace=run.pace, engine=run.engine)
    written = page.write(few, tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(written)


def test_a_quick_run_says_that_it_is_one(run: Run) -> None:
    """Figures of a few rounds are not taken for a measurement; those of a whole run are not talked down."""
    assert "its figures say nothing" in page.page(run)
    whole = run.model_copy(update={"pace": run.pace.model_copy(update={"rounds": 11})})
    assert "its figures say nothing" not in page.page(whole)


def test_every_table_of_the_page_is_whole(run: Run) -> None:
    """Each line of a table has as many columns as its head."""
    width = 0
    for line in page.page(run).splitlines():
        width = (width or line.count("|")) if line.startswith("|") else 0
        assert not width or line.count("|") == width, line


def test_the_committed_page_is_what_its_raw_data_gives() -> None:
    """docs/benchmarks.md and its plots come from docs/benchmarks/run.json, and nobody has touched them since."""
    run = Run.model_validate_json((DOCS / page.RAW).read_text())
    assert (DOCS / page.PAGE).read_text() == page.page(run)
    drawn = plots(run)
    folder = (DOCS / page.RAW).parent
    assert {path.name for path in folder.glob("*.svg")} == drawn.keys()
    for name, text in drawn.items():
        assert_same_drawing((folder / name).read_text(), text)


def assert_same_drawing(committed: str, drawn: str) -> None:
    """But for the last digits of its numbers, which another machine rounds in another way."""
    (words, numbers), (words_now, numbers_now) = _taken_apart(committed), _taken_apart(drawn)
    assert words == words_now
    assert numbers == pytest.approx(numbers_now, abs=1e-4)


def _taken_apart(svg: str) -> tuple[list[str], list[float]]:
    return _DECIMAL.split(svg), [float(number) for number in _DECIMAL.findall(svg)]


def test_a_drawing_of_other_figures_is_another() -> None:
    assert_same_drawing("M 4 16.598678 L 3", "M 4 16.598677 L 3")
    for other in ("M 4 16.599678 L 3", "L 4 16.598678 L 3", "M 4 16.598678 L 3 "):
        with pytest.raises(AssertionError):
            assert_same_drawing("M 4 16.598678 L 3", other)
