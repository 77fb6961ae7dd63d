"""`docs/benchmarks.md`, wholly from the raw data of one run."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.raw import Latencies, Pairs, Run, spread
from tests.benchmarks.report import words
from tests.benchmarks.report.goals import percentile
from tests.benchmarks.report.plots import plots
from tests.benchmarks.report.table import (
    CALL_HEADS,
    GOAL_HEADS,
    UPLOAD,
    call_rows,
    facts,
    goal_rows,
    latency,
)

RAW = Path("benchmarks/run.json")
PAGE = Path("benchmarks.md")
_ROUNDS_THAT_SAY_SOMETHING = 5


def write(run: Run, folder: Path) -> list[Path]:
    """Writes the raw data, the plots and the page below `folder`, which is docs/; which files those are.

    A plot of an earlier run that this one has no rows for goes away.
    """
    files = {folder / RAW: raw_text(run), folder / PAGE: page(run)}
    files |= {folder / RAW.parent / name: text for name, text in plots(run).items()}
    for plot in (folder / RAW.parent).glob("*.svg"):
        plot.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(files)


def raw_text(run: Run) -> str:
    """One line for each row, so that a difference between two runs can be read."""
    lines: list[str] = []
    for name in type(run).model_fields:
        dumped = run.model_dump_json(include={name})[1:-1]
        lines.append(dumped.replace('},{"name"', '},\n{"name"'))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def page(run: Run) -> str:
    """The text of the page."""
    drawn = plots(run)
    parts = [words.HEAD.format(raw=RAW)]
    if run.pace.rounds < _ROUNDS_THAT_SAY_SOMETHING:
        parts.append(words.TOO_FEW.format(rounds=run.pace.rounds))
    for title, make, plot in _SECTIONS:
        body = make(run)
        if not body:
            continue
        picture = f"![{title}]({RAW.parent}/{plot}.svg)\n" if f"{plot}.svg" in drawn else ""
        parts.append("\n".join(part for part in (f"## {title}\n", picture, body) if part))
    return "\n".join(parts).rstrip() + "\n"


def _goals(run: Run) -> str:
    return _table(GOAL_HEADS, goal_rows(run))


def _calls(run: Run) -> str:
    return "" if not run.calls else _table(CALL_HEADS, call_rows(run))


def _ceilings(run: Run) -> str:
    rows = [
        (
            row.name,
            UPLOAD[row.uploading],
            str(row.in_flight),
            f"{row.rate:,.0f} ({min(row.calls_per_second):,.0f}–{max(row.calls_per_second):,.0f})",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            *_percentiles(row.latencies),
        )
        for row in run.ceilings
    ]
    heads = ("call", "upload", "in flight", "calls/s", "of the bare server", "p50", "p99", "p99.9")
    return "" if not rows else _table(heads, rows)


def _ladders(run: Run) -> str:
    rows = [
        (
            ladder.name,
            UPLOAD[ladder.uploading],
            f"{step.fraction:.0%}",
            f"{step.offered_per_second:,.0f}",
            f"{median(step.answered_per_second):,.0f}",
            *_percentiles(step.latencies),
            latency(step.late, 99),
            f"{step.not_answered:,}",
        )
        for ladder in run.ladders
        for step in ladder.steps
    ]
    heads = (
        "call",
        "upload",
        "of its ceiling",
        "offered/s",
        "answered/s",
        "p50",
        "p99",
        "p99.9",
        "sent late, p99",
        "not answered",
    )
    return "" if not rows else f"{words.LADDERS}\n{_table(heads, rows)}"


def _half(run: Run) -> str:
    if run.half is None:
        return ""
    half = run.half
    uploaded = f"{median(half.uploaded_per_second):,.0f}" if half.uploaded_per_second else "no"
    said = words.HALF.format(offered=f"{half.offered_per_second:,.0f}", uploaded=uploaded)
    return f"{said}\n{_pairs([half.p50_us, half.p99_us])}"


def _peer(run: Run) -> str:
    if run.peer is None:
        return ""
    if run.peer.calls_per_second is None or run.peer.cpu_us_per_call is None:
        return f"Not measured: {run.peer.why_not}.\n"
    said = words.PEER.format(version=run.peer.version)
    return f"{said}\n{_pairs([run.peer.calls_per_second, run.peer.cpu_us_per_call])}"


def _engine(run: Run) -> str:
    if run.engine is None:
        return ""
    parts = ", ".join(f"`{name}` {median(rounds):.1f} µs" for name, rounds in run.engine.parts_us.items())
    said = words.ENGINE.format(parts=parts)
    return f"{said}\n{_pairs([run.engine.decision_us], theirs='a bare call')}"


def _populations(run: Run) -> str:
    if run.populations is None:
        return ""
    found = run.populations
    said = words.POPULATIONS.format(kept=found.customers_max, cold_every=found.cold_every, hot=found.hot)
    rows = [
        (
            f"{row.customers:,}",
            _range(row.server_us_per_call, "{:.1f} µs"),
            _range(row.calls_per_second, "{:,.0f}"),
        )
        for row in found.rows
    ]
    return f"{said}\n{_table(('customers', 'server CPU per call', 'calls/s'), rows)}"


def _memory(run: Run) -> str:
    rows = [
        (f"{which} with {row.name}", _range(found, "{:,.0f} bytes"))
        for row in run.memory
        for which, found in (
            ("a cached customer", row.bytes_per_customer),
            (f"one of the {row.in_use_max:,} in use", row.bytes_in_use),
        )
        if found
    ]
    rows += [
        (f"start to first answer, {how}", _range([1000 * each for each in rounds], "{:,.0f} ms"))
        for how, rounds in run.start_seconds.items()
    ]
    return "" if not rows else _table(("", "found"), rows)


def _books(run: Run) -> str:
    rows = (*run.reports, *run.leases)
    return "" if not rows else f"{words.BOOKS}\n{_pairs(rows, theirs='plain SQL')}"


def _fleet(run: Run) -> str:
    if run.fleet is None:
        return ""
    fleet = run.fleet
    said = words.FLEET.format(sidecars=fleet.sidecars, publishes=len(fleet.sent_ms), cpu=median(fleet.cpu_ms))
    lines = (
        ("half of the fleet, from the request", fleet.middle_ms),
        ("the last of it, from the request", fleet.sent_ms),
        ("the last of it, from the answer to the request", fleet.returned_ms),
        ("a sidecar that has the core for itself, from the answer to the request", fleet.alone_ms),
        ("the last of as many bare processes, from the message to them", fleet.bare_ms),
    )
    rows = [
        (name, *(f"{percentile(times, percent):.0f} ms" for percent in (50, 90, 99)), f"{max(times):.0f} ms")
        for name, times in lines
        if times
    ]
    return f"{said}\n{_table(('who decides by it', 'p50', 'p90', 'p99', 'longest'), rows)}"


def _machine(run: Run) -> str:
    return "\n".join(f"* {fact}" for fact in facts(run)) + "\n"


_SECTIONS: Sequence[tuple[str, Callable[[Run], str], str]] = (
    ("Goals", _goals, "goals"),
    ("Calls", _calls, ""),
    ("Ceilings", _ceilings, "ceilings"),
    ("Rates and latencies", _ladders, "ladders"),
    ("Latency at half the ceiling", _half, ""),
    ("Beside Cerbos", _peer, ""),
    ("The engine", _engine, ""),
    ("Few customers and many", _populations, "populations"),
    ("Memory and start-up", _memory, ""),
    ("The books on PostgreSQL", _books, ""),
    ("A publish and a fleet", _fleet, "fleet"),
    ("The run", _machine, ""),
)


def _pairs(rows: Iterable[Pairs], theirs: str = "theirs") -> str:
    table = [
        (
            row.name,
            row.unit,
            _figure(median(row.ours)),
            _figure(median(row.theirs)),
            _range(row.ratios, "{:.3g}"),
        )
        for row in rows
    ]
    return _table(("", "unit", "ours", theirs, "ratio"), table)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _range(values: Sequence[float], form: str) -> str:
    middle, low, high = spread(values)
    return f"{form.format(middle)} ({form.format(low)}–{form.format(high)})"


def _percentiles(latencies: Latencies) -> tuple[str, ...]:
    return tuple(latency(latencies, percent) for percent in (50, 99, 99.9))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
