"""A run as tables: for the terminal, and as the rows of the page."""

from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks.raw import Calls, Latencies, Run, spread
from tests.benchmarks.report.goals import BATCH, BATCH_GOAL, CALL_GOALS, goals

UPLOAD = {None: "", False: "stopped", True: "running"}
GOAL_HEADS = ("", "goal", "found", "lowest and highest", "")
CALL_HEADS = (
    "call",
    "upload",
    "calls/s",
    "of the bare server",
    "goal",
    "p50",
    "p99",
    "alone p50",
    "server CPU",
)


def goal_rows(run: Run) -> list[tuple[str, ...]]:
    """One for each goal."""
    return [
        (goal.name, goal.wanted, goal.reached, goal.around, f"{goal.verdict}{goal.note and f': {goal.note}'}")
        for goal in goals(run)
    ]


def call_rows(run: Run) -> list[tuple[str, ...]]:
    """The measured calls, in the order of the run; the yardstick once."""
    yardstick_seen = False
    found = []
    for calls in run.calls:
        if calls.ratio is None:
            if yardstick_seen:
                continue
            yardstick_seen = True
        found.append(_call_row(calls))
    return found


def _call_row(calls: Calls) -> tuple[str, ...]:
    rate = f"{calls.rate:,.0f}"
    if calls.checks_per_call > 1:
        rate += f" ({calls.rate * calls.checks_per_call:,.0f} checks/s)"
    if calls.generator_was_the_limit:
        rate = f"≥ {rate}"
    reached, goal = _ratio(calls)
    return (
        calls.name,
        UPLOAD[calls.uploading],
        rate,
        reached,
        goal,
        latency(calls.latencies, 50),
        latency(calls.latencies, 99),
        latency(calls.alone, 50) if calls.alone.count else "",
        f"{median(calls.server_us_per_call):,.0f} µs",
    )


def _ratio(calls: Calls) -> tuple[str, str]:
    """What was reached, and the goal; of batches, checks."""
    if not calls.ratios:
        return "", ""
    middle, low, high = (each * calls.checks_per_call for each in spread(calls.ratios))
    bound = BATCH_GOAL if calls.name == BATCH else CALL_GOALS.get(calls.name)
    form = "{:.1f} × ({:.1f}–{:.1f})" if calls.checks_per_call > 1 else "{:.2f} ({:.2f}–{:.2f})"
    goal = "" if bound is None else f"≥ {bound:g} {'✓' if middle >= bound else '✗'}"
    return form.format(middle, low, high), goal


def latency(latencies: Latencies, percent: float) -> str:
    """A percentile, in words."""
    return "" if not latencies.count else span(latencies.percentile(percent))


def span(microseconds: float) -> str:
    return f"{microseconds:,.0f} µs" if microseconds < 1000 else f"{microseconds / 1000:,.1f} ms"


def print_tables(run: Run, console: Console) -> None:
    """For people: tables on a terminal, aligned text elsewhere."""
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]
    tables = [("The goals", GOAL_HEADS, goal_rows(run))]
    if run.calls:
        tables.append(("Purser, measured", CALL_HEADS, call_rows(run)))
    for title, heads, rows in tables:
        border = box.ROUNDED if console.is_terminal else None
        table = Table(title=title, title_justify="left", box=border)
        for number, head in enumerate(heads):
            is_text = number == 0 or head in {"upload", "goal"}
            table.add_column(head, justify="left" if is_text else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for fact in facts(run):
        console.print(f"  {fact}", highlight=False, soft_wrap=True)


def facts(run: Run) -> list[str]:
    """What is not a call, and what the numbers rest on."""
    pace = run.pace
    found = []
    if run.uploaded_per_second:
        uploaded = (f"{rate:,.0f}/s ({name})" for name, rate in run.uploaded_per_second.items())
        found.append(f"upload running: {', '.join(uploaded)} records booked meanwhile")
    for memory in run.memory:
        middle = median(memory.bytes_per_customer)
        said = f"a cached customer with {memory.name}: {middle:,.0f} bytes, by {memory.customers:,} customers"
        if memory.bytes_in_use:
            said += f"; one of the {memory.in_use_max:,} in use: {median(memory.bytes_in_use):,.0f} bytes"
        found.append(said)
    if run.start_seconds:
        started = (f"{median(rounds) * 1000:,.0f} ms {how}" for how, rounds in run.start_seconds.items())
        found.append(f"from start to first answered check: {', '.join(started)}")
    rhythm = f"{pace.rounds} rounds of {pace.seconds:g} s in turn, {pace.in_flight} calls in flight on 4 connections"
    found.append(f"{rhythm}; “alone”: one in flight; the bare server has {pace.threads} threads")
    if run.calls:
        busiest = max(median(calls.generator_busy) for calls in run.calls)
        found.append(f"the load generator used at most {busiest:.0%} of its core")
    found.append(
        f"{run.core_stolen:.1%} of the server's core was stolen by the host; {run.minutes:.0f} minutes"
    )
    found += [f"{name} did not come to an end: {why}" for name, why in run.failed.items()]
    return found + [f"{name}: {value}" for name, value in run.machine.items()]
