"""The table says what was measured, and what was missed."""

import io
import json

import pytest
from rich.console import Console

from tests.benchmarks import payloads
from tests.benchmarks import report as reporting
from tests.benchmarks.measure import Pace, Result
from tests.benchmarks.run import Plan, Report


def result(
    scenario: payloads.Scenario,
    rate: float,
    *ratios: float,
    uploading: bool | None = False,
    busy: float = 0.3,
) -> Result:
    return Result(
        scenario,
        uploading,
        calls_per_second=[rate] * max(1, len(ratios)),
        ratios=list(ratios),
        latencies_us=[float(n) for n in range(1, 2001)],
        alone_us=[150.0],
        server_us_per_call=[100.0],
        generator_busy=[busy],
    )


@pytest.fixture
def report() -> Report:
    check, batch = payloads.check(["cus"]), payloads.batch(["cus"])
    return Report(
        machine={"commit": "0123456789ab"},
        plan=Plan(Pace(rounds=3, seconds=2.0), customers=100, starts=1, threads=4),
        results=[
            result(payloads.echo(), 10_000, uploading=None),
            result(check, 8_000, 0.7, 0.8, 0.9),
            result(batch, 1_500, 0.15),
            result(payloads.consume("cus", "process_crash"), 5_000, 0.5),
            result(payloads.echo(), 10_000, uploading=None),
            result(check, 7_000, 0.7, uploading=True, busy=0.97),
        ],
        bytes_per_customer=4_096.0,
        start_seconds={"with a snapshot": 0.8, "without": 0.9},
    )


def test_goals_are_judged_by_the_median(report: Report) -> None:
    """A row has its median ratio, the lowest and the highest; the goal is held against the median."""
    check = next(row for row in reporting.rows(report) if row[0] == "CheckAccess")
    assert check[2:5] == ("8,000", "0.80 (0.70–0.90)", "≥ 0.75 ✓")
    assert reporting.missed(report) == ["BatchCheckAccess × 50", "ConsumeUsage, process_crash"]


def test_batches_are_compared_with_unary_checks(report: Report) -> None:
    """75,000 checks/s in batches are 9.4 times 8,000 unary ones: short of ten."""
    batch = next(row for row in reporting.rows(report) if row[0].startswith("Batch"))
    assert batch[2:5] == ("1,500 (75,000 checks/s)", "9.4 × unary", "≥ 10 × unary ✗")


def test_the_yardstick_stands_once(report: Report) -> None:
    """It is measured with every scenario and shown once, without a ratio."""
    assert [row[:2] for row in reporting.rows(report)].count(("bare grpc.server", "")) == 1


def test_a_busy_generator_is_said(report: Report) -> None:
    """Where the load was the bottleneck, the rate is a lower bound and says so."""
    assert reporting.rows(report)[-1][2] == "≥ 7,000"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_is_plain_without_a_terminal(report: Report, terminal: bool) -> None:
    """Lines are drawn on a terminal only; the words are the same, and nothing is cut off."""
    out = io.StringIO()
    reporting.print_table(report, Console(file=out, force_terminal=terminal, width=200))
    assert ("╭" in out.getvalue(), "\x1b" in out.getvalue()) == (terminal, terminal)
    for text in ("BatchCheckAccess × 50", "0.80 (0.70–0.90)", "4,096 bytes", "0123456789ab"):
        assert text in out.getvalue()


def test_json_has_every_round(report: Report) -> None:
    """What a machine reads survives JSON and has the rounds behind the medians."""
    data = json.loads(json.dumps(reporting.as_json(report)))
    assert data["results"][1]["rounds"]["ratios"] == [0.7, 0.8, 0.9]
    assert data["bytes_per_customer"] == 4096.0


def test_markdown_is_a_table(report: Report) -> None:
    """Every line of the table has as many columns as its head."""
    lines = [line for line in reporting.markdown(report).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(reporting.rows(report))
    assert len({line.count("|") for line in lines}) == 1
