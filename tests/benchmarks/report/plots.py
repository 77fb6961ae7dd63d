"""The plots, as SVG: the same run gives the same bytes, and the same picture is readable on light and on dark pages."""

import io
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tests.benchmarks.raw import Calls, Run
from tests.benchmarks.report.goals import Goal, goals

# Stand for the colours of the page, and are replaced by variables that a style sheet in the file sets.
_INK, _PAPER, _GRID = "#010203", "#fdfcfb", "#0a0b0c"
_VARIABLES = {_INK: "var(--ink)", _PAPER: "var(--paper)", _GRID: "var(--grid)"}
_STYLE = """<style>
:root { --ink: #1f2328; --paper: #ffffff; --grid: #d1d9e0 }
@media (prefers-color-scheme: dark) { :root { --ink: #d1d7e0; --paper: #0d1117; --grid: #3d444d } }
</style>
"""
_COLOURS = ("#4c8dd6", "#d9822b", "#3fa45b", "#c4567a")  # readable on both
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "purser",  # ids that do not change
    "svg.fonttype": "none",  # text stays text
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "figure.facecolor": _PAPER,
    "axes.facecolor": _PAPER,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
_UPLOADS = ((False, "upload stopped"), (True, "upload running"))


def plots(run: Run) -> dict[str, str]:
    """Those for which this run has data: name of the file → its text."""
    with mpl.rc_context(_SETTINGS):  # from the first axis to the last letter
        drawn = {name: draw(run) for name, draw in _PLOTS.items()}
    return {f"{name}.svg": text for name, text in drawn.items() if text}


def _goals(run: Run) -> str:
    """How near each goal is: its median over the bound, or the bound over it, with the rounds' range."""
    rows = [goal for goal in goals(run) if goal.found is not None and goal.name[:13] != "a call's cost"]
    if not rows:
        return ""
    figure, (axes,) = _figure(1, height=0.6 + 0.34 * len(rows))
    for place, goal in enumerate(reversed(rows)):
        middle, low, high = (_nearness(goal, value) for value in (goal.found or 0.0, goal.low, goal.high))
        colour = _COLOURS[2] if goal.holds else _COLOURS[3]
        axes.plot([low, high], [place, place], color=colour, alpha=0.5, linewidth=3, solid_capstyle="butt")
        axes.plot([middle], [place], "o", color=colour, markersize=6)
    axes.axvline(1.0, color=_INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [_short(goal.name) for goal in reversed(rows)])
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.25, 0.5, 1, 2, 4], ["0.1", "0.25", "0.5", "goal", "2 × better", "4 ×"])
    axes.set_xticks([], minor=True)
    axes.set_title("How near the goals are")
    return _svg(figure)


def _nearness(goal: Goal, value: float) -> float:
    value = max(value, goal.bound / 100)
    near = value / goal.bound if goal.at_least else goal.bound / value
    return min(max(near, 0.05), 8.0)


def _short(name: str) -> str:
    plain = name.replace("`", "")
    return plain if len(plain) <= 62 else f"{plain[:60]}…"


def _ceilings(run: Run) -> str:
    """Calls per second, by calls in flight."""
    if not run.ceilings:
        return ""
    figure, panels = _figure(2, height=2.8)
    for axes, (uploading, title) in zip(panels, _UPLOADS, strict=True):
        for colour, (name, rows) in zip(_COLOURS, _by_name(run.ceilings, uploading).items(), strict=False):
            x = [str(row.in_flight) for row in rows]
            axes.plot(x, [row.rate for row in rows], "o-", color=colour, label=name)
            lows = [min(row.calls_per_second) for row in rows]
            highs = [max(row.calls_per_second) for row in rows]
            axes.fill_between(x, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(f"Closed loop, {title}")
        axes.set_xlabel("calls in flight")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("calls per second")
    panels[0].legend(loc="lower right", labelcolor=_INK)
    return _svg(figure)


def _by_name(rows: Sequence[Calls], uploading: bool) -> dict[str, list[Calls]]:
    found: dict[str, list[Calls]] = {}
    for row in rows:
        if row.uploading == uploading:
            found.setdefault(row.name, []).append(row)
    return found


def _ladders(run: Run) -> str:
    """p50, p99 and p99.9 from the intended instant, by the rate that was offered."""
    if not run.ladders:
        return ""
    figure, panels = _figure(2, height=3.2)
    for axes, (uploading, title) in zip(panels, _UPLOADS, strict=True):
        ladders = [ladder for ladder in run.ladders if ladder.uploading == uploading]
        for colour, ladder in zip(_COLOURS, ladders, strict=False):
            x = [step.offered_per_second for step in ladder.steps]
            for percent, line in ((50, ":"), (99, "o-"), (99.9, "--")):
                y = [step.latencies.percentile(percent) / 1000 for step in ladder.steps]
                width = 1.6 if percent == 99 else 1.0
                label = ladder.name if percent == 99 else None
                axes.plot(x, y, line, color=colour, linewidth=width, label=label)
        axes.set_title(f"Open loop, {title}")
        axes.set_xlabel("calls per second, offered")
        axes.set_yscale("log")
        axes.set_xlim(left=0)
    panels[0].set_ylabel("ms (p50 ⋯ p99 — p99.9 - -)")
    panels[0].legend(loc="upper left", labelcolor=_INK)
    return _svg(figure)


def _fleet(run: Run) -> str:
    """What share of the publishes was everywhere after so long."""
    if run.fleet is None:
        return ""
    figure, (axes,) = _figure(1, height=2.6)
    lines = (
        (run.fleet.middle_ms, "half of the fleet, from the request"),
        (run.fleet.sent_ms, "the last of it, from the request"),
        (run.fleet.returned_ms, "the last of it, from the answer"),
    )
    for colour, (times, label) in zip(_COLOURS, lines, strict=False):
        ordered = sorted(times)
        shares = [(number + 1) / len(ordered) for number in range(len(ordered))]
        axes.step(ordered, shares, where="post", color=colour, label=label)
    axes.axvline(100, color=_INK, linewidth=1)
    axes.set_title(f"From a publish until {run.fleet.sidecars} sidecars decide by it (goal: 100 ms)")
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("share of publishes")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower right", labelcolor=_INK)
    return _svg(figure)


def _populations(run: Run) -> str:
    """A call's CPU time, by how many customers there are."""
    if run.populations is None:
        return ""
    figure, (axes,) = _figure(1, height=2.4)
    rows = run.populations.rows
    x = [row.customers for row in rows]
    y = [median(row.server_us_per_call) for row in rows]
    axes.plot(x, y, "o-", color=_COLOURS[0])
    lows, highs = ([pick(row.server_us_per_call) for row in rows] for pick in (min, max))
    axes.fill_between(x, lows, highs, color=_COLOURS[0], alpha=0.15, linewidth=0)
    axes.axhspan(y[0] * 0.9, y[0] * 1.1, color=_COLOURS[2], alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{customers:,}" for customers in x])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_title("CPU time of a call, by known customers (band: within 10 %)")
    axes.set_ylabel("µs")
    return _svg(figure)


_PLOTS: Mapping[str, Callable[[Run], str]] = {
    "goals": _goals,
    "ceilings": _ceilings,
    "ladders": _ladders,
    "populations": _populations,
    "fleet": _fleet,
}


def _figure(panels: int, *, height: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(8.8, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, panels, squeeze=False, sharey=panels > 1)
    return figure, list(axes[0])


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(written, format="svg", metadata=metadata)
    text = written.getvalue()
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    head, tag, rest = text.partition("<defs>")
    lines = f"{head}{_STYLE} {tag}{rest}".splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"
