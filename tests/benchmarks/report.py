"""One run as a table, as Markdown, as JSON."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.load import percentile
from tests.benchmarks.measure import Result
from tests.benchmarks.run import Report

BATCH_GOAL = 10.0
GOALS = {
    "CheckAccess": 0.75,
    "CheckAccess, always new": 0.75,
    "ConsumeUsage, process_crash": 0.6,
    "ConsumeUsage, power_loss": 0.5,
}
_UPLOAD = {None: "", False: "stopped", True: "running"}
_HOW = "`tests/benchmarks/README.md` says what is measured, and how; this page is what `--markdown` wrote."
_HEADS = ("call", "upload", "calls/s", "of the bare server", "goal", "p50", "p99", "alone p50", "server CPU")


def rows(report: Report) -> list[tuple[str, ...]]:
    """The measured calls, in the order of the run; the yardstick once."""
    yardstick_seen = False
    found = []
    for result in report.results:
        if result.ratio is None:
            if yardstick_seen:
                continue
            yardstick_seen = True
        found.append(_row(result, report))
    return found


def _row(result: Result, report: Report) -> tuple[str, ...]:
    goal, reached = _goal(result, report)
    rate = f"{result.rate:,.0f}"
    if result.scenario.checks_per_call > 1:
        rate += f" ({result.rate * result.scenario.checks_per_call:,.0f} checks/s)"
    if result.generator_was_the_limit():
        rate = f"≥ {rate}"
    return (
        result.scenario.name,
        _UPLOAD[result.uploading],
        rate,
        reached,
        goal,
        _span(percentile(result.latencies_us, 50)),
        _span(percentile(result.latencies_us, 99)),
        _span(percentile(result.alone_us, 50)) if result.alone_us else "",
        f"{median(result.server_us_per_call):,.0f} µs",
    )


def _goal(result: Result, report: Report) -> tuple[str, str]:
    """The goal and what was reached; for batches that is checks/s over the unary checks of the same kind."""
    if result.ratio is None:
        return "", ""
    if result.scenario.checks_per_call > 1:
        times = _times_unary(result, report.results)
        has_goal = not result.scenario.name.endswith("always new")
        wanted = f"≥ {BATCH_GOAL:g} × unary {_verdict(times >= BATCH_GOAL)}" if has_goal else ""
        return wanted, f"{times:.1f} × unary"
    low, high = min(result.ratios), max(result.ratios)
    reached = f"{result.ratio:.2f} ({low:.2f}–{high:.2f})"
    goal = GOALS.get(result.scenario.name)
    return ("" if goal is None else f"≥ {goal} {_verdict(result.ratio >= goal)}"), reached


def _times_unary(batch: Result, results: Iterable[Result]) -> float:
    name = "CheckAccess, always new" if batch.scenario.name.endswith("always new") else "CheckAccess"
    unary = next(r for r in results if r.scenario.name == name and r.uploading == batch.uploading)
    return batch.rate * batch.scenario.checks_per_call / unary.rate


def _verdict(reached: bool) -> str:
    return "✓" if reached else "✗"


def _span(microseconds: float) -> str:
    return f"{microseconds:,.0f} µs" if microseconds < 1000 else f"{microseconds / 1000:,.1f} ms"


def facts(report: Report) -> list[str]:
    """What is not a call, and what the numbers rest on."""
    started = ", ".join(f"{seconds * 1000:,.0f} ms {how}" for how, seconds in report.start_seconds.items())
    busiest = max((median(result.generator_busy) for result in report.results), default=0.0)
    pace = report.plan.pace
    rhythm = f"{pace.rounds} rounds of {pace.seconds:g} s in turn, {pace.in_flight} calls in flight on 4 connections"
    uploaded = ", ".join(f"{rate:,.0f}/s ({name})" for name, rate in report.uploaded_per_second.items())
    return [
        f"upload running: {uploaded} records booked meanwhile",
        f"a cached customer: {report.bytes_per_customer:,.0f} bytes, by {report.plan.customers:,} customers",
        f"from start to first answered check: {started}",
        f"{rhythm}; “alone”: one in flight; the bare server has {report.plan.threads} threads",
        f"the load generator used at most {busiest:.0%} of its core",
        f"{report.core_stolen:.1%} of the server's core was stolen by the host",
        *(f"{name}: {value}" for name, value in report.machine.items()),
    ]


def print_table(report: Report, console: Console) -> None:
    """For people: a table on a terminal, aligned text elsewhere."""
    table = Table(
        title="Purser, measured", title_justify="left", box=box.ROUNDED if console.is_terminal else None
    )
    for head in _HEADS:
        table.add_column(
            head, justify="left" if head in {"call", "upload", "goal"} else "right", no_wrap=True
        )
    for row in rows(report):
        table.add_row(*row)
    console.print(table)
    for fact in facts(report):
        console.print(f"  {fact}", highlight=False, soft_wrap=True)


def markdown(report: Report) -> str:
    """A page with one whole run."""
    head = ["# One run of the bench", "", _HOW, ""]
    lines = [*head, "| " + " | ".join(_HEADS) + " |", "|" + "---|" * len(_HEADS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(report)]
    return "\n".join([*lines, "", *(f"* {fact}" for fact in facts(report)), ""])


def as_json(report: Report) -> dict[str, Any]:
    """For machines: every round."""
    pace = report.plan.pace
    return {
        "machine": report.machine,
        "pace": {"rounds": pace.rounds, "seconds": pace.seconds, "in_flight": pace.in_flight},
        "threads": report.plan.threads,
        "results": [result.as_json() for result in report.results],
        "bytes_per_customer": report.bytes_per_customer,
        "customers": report.plan.customers,
        "uploaded_per_second": report.uploaded_per_second,
        "start_seconds": report.start_seconds,
        "core_stolen": report.core_stolen,
    }


def missed(report: Report) -> list[str]:
    """Goals that this run did not reach, of those without upload."""
    return [row[0] for row in rows(report) if row[4].endswith("✗") and row[1] == "stopped"]
