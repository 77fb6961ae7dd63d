"""The goals, each held against the run. A goal that fails is shown as failing; one that was not measured says so."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

from tests.benchmarks.raw import Calls, Memory, Pairs, Run, spread

CHECK, NEW_CHECK, BATCH = "CheckAccess", "CheckAccess, always new", "BatchCheckAccess × 50"
CALL_GOALS = {
    CHECK: 0.93,
    NEW_CHECK: 0.75,
    "ConsumeUsage, process_crash": 0.6,
    "ConsumeUsage, power_loss": 0.75,
}
"""Calls per second, over the bare server's."""
BATCH_GOAL = 20.0
"""Checks per second in batches, over the bare server's calls."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Goal:
    """One row: what is wanted, and what was found. `rounds` are those whose median is `found`."""

    name: str
    wanted: str
    found: float | None
    holds: bool | None
    low: float = 0.0
    high: float = 0.0
    rounds: int = 0
    form: Callable[[float], str] = "{:.2f}".format
    bound: float = 1.0
    at_least: bool = True
    note: str = ""

    @property
    def verdict(self) -> str:
        return {True: "✓", False: "✗ missed", None: NOT_MEASURED}[self.holds]

    @property
    def reached(self) -> str:
        return "" if self.found is None else self.form(self.found)

    @property
    def around(self) -> str:
        """How far the rounds are apart."""
        return (
            ""
            if self.found is None
            else f"{self.form(self.low)}–{self.form(self.high)}, {self.rounds} rounds"
        )


def goals(run: Run) -> list[Goal]:
    """All of them, in the order in which they are promised."""
    return [
        _at_least("`CheckAccess`, calls/s over the bare server's", CALL_GOALS[CHECK], _call(run, CHECK)),
        _at_least(
            "`CheckAccess`, calls/s over Cerbos `CheckResources` with a policy of a plan's limit",
            1.05,
            None
            if run.peer is None or run.peer.calls_per_second is None
            else run.peer.calls_per_second.ratios,
            note="" if run.peer is None else run.peer.why_not,
        ),
        _at_most(
            "`CheckAccess` p99 at half its ceiling, over the bare server's at the same rate, upload running",
            1.2,
            None if run.half is None else run.half.p99_us.ratios,
        ),
        _at_least(
            "`ConsumeUsage` on a leased balance, power_loss, calls/s over the bare server's",
            CALL_GOALS["ConsumeUsage, power_loss"],
            _call(run, "ConsumeUsage, power_loss"),
        ),
        _at_most(
            "a decision inside the engine, over the server's CPU time for one bare call",
            0.08,
            None if run.engine is None else run.engine.decision_us.ratios,
            form="{:.3f}".format,
        ),
        _at_least(
            "checks/s in batches of 50, over the bare server's unary calls/s",
            BATCH_GOAL,
            _times(_call(run, BATCH), 50),
            form="{:.1f}".format,
        ),
        _flat(run),
        _at_most(
            "memory per cached customer with ten entitlements",
            2048,
            _ten(run.memory),
            form="{:,.0f} bytes".format,
            wanted="≤ 2 KiB",
        ),
        _at_least(
            "`ReportBatch` into PostgreSQL, over plain INSERTs of events, keys and postings",
            0.5,
            _first(run.reports),
        ),
        _at_least(
            "lease acquisitions/s on PostgreSQL, one per call, over bare `UPDATE … RETURNING`, 64 callers each",
            0.5,
            _first(run.leases),
        ),
        _published(run),
    ]


def _bounded(
    name: str,
    bound: float,
    rounds: Iterable[float] | None,
    *,
    at_least: bool,
    form: Callable[[float], str] = "{:.2f}".format,
    wanted: str = "",
    note: str = "",
) -> Goal:
    wanted = wanted or f"{'≥' if at_least else '≤'} {bound:g}"
    if not (found := list(rounds or ())):
        return Goal(name, wanted, None, None, bound=bound, at_least=at_least, note=note)
    middle, low, high = spread(found)
    holds = middle >= bound if at_least else middle <= bound
    return Goal(name, wanted, middle, holds, low, high, len(found), form, bound, at_least=at_least)


_at_least = partial(_bounded, at_least=True)
_at_most = partial(_bounded, at_least=False)


def call(run: Run, name: str, *, uploading: bool | None = False) -> Calls | None:
    """The rounds of a call, upload stopped."""
    return next((each for each in run.calls if (each.name, each.uploading) == (name, uploading)), None)


def _call(run: Run, name: str) -> tuple[float, ...] | None:
    found = call(run, name)
    return None if found is None else found.ratios


def _times(rounds: Iterable[float] | None, factor: float) -> list[float]:
    return [factor * each for each in rounds or ()]


def _first(pairs: tuple[Pairs, ...]) -> list[float]:
    return pairs[0].ratios if pairs else []


def _ten(memory: Iterable[Memory]) -> tuple[float, ...]:
    return next((each.bytes_per_customer for each in memory if each.name == "ten entitlements"), ())


def _flat(run: Run) -> Goal:
    """The row that is farthest from the first; each of its rounds beside the first row's of the same turn."""
    rows = () if run.populations is None else run.populations.rows
    few, many = (rows[0].customers, rows[-1].customers) if rows else (1_000, 1_000_000)
    name = f"a call's cost from {few:,} to {many:,} known customers (bounded cache)"
    wanted = "flat within 10 %"
    if not rows:
        return Goal(name, wanted, None, None, bound=0.1, at_least=False)
    turns = [
        [many / few - 1 for few, many in zip(rows[0].server_us_per_call, row.server_us_per_call, strict=True)]
        for row in rows[1:]
    ]
    worst = max(turns, key=lambda turn: abs(median(turn)))
    middle, low, high = spread(worst)
    form = "{:+.1%}".format
    return Goal(name, wanted, middle, abs(middle) <= 0.1, low, high, len(worst), form, 0.1, at_least=False)


def _published(run: Run) -> Goal:
    many = 100 if run.fleet is None else run.fleet.sidecars
    name = f"a published change until the last of {many} sidecars decides by it, p99"
    wanted = "≤ 100 ms"
    if run.fleet is None:
        return Goal(name, wanted, None, None, bound=100, at_least=False)
    times = run.fleet.returned_ms
    found = percentile(times, 99)
    form = "{:.0f} ms".format
    return Goal(
        name, wanted, found, found <= 100, min(times), max(times), len(times), form, 100, at_least=False
    )


def percentile(values: tuple[float, ...], percent: int) -> float:
    """Of few values: between neighbours, never beyond the highest."""
    return values[0] if len(values) == 1 else quantiles(values, n=100, method="inclusive")[percent - 1]
