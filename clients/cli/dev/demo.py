"""The demo: what it replays, the stage it plays on, and what it leaves behind for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

import purser
from clients.cli.dev import catalog_text, outcome, report, sample, story
from clients.cli.dev.books import Books, BooksRefused
from clients.cli.dev.callers import Callers, NobodyAnswers
from clients.cli.dev.cluster import Cluster
from clients.cli.dev.heard import Heard
from clients.cli.dev.outcome import Outcome
from clients.cli.dev.pastes import paste_lines
from clients.cli.dev.people import PlannedCall, plan_calls
from clients.cli.dev.scenes.world import TookAnotherTurn, World
from clients.cli.dev.stage import LiveStage, PlainStage

SIDECARS: Final = 2


class Unheld(Exception):
    """Not every check held."""


class FolderInUse(Exception):
    """The demo begins with empty books, and this folder holds some."""


FAILURES: Final = (
    Unheld,
    FolderInUse,
    BooksRefused,
    NobodyAnswers,
    TookAnotherTurn,
    TimeoutError,
    purser.PurserError,
)
"""What can go wrong besides servers that do not start; each says what in its message."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be replayed."""

    source: str
    seed: int
    calls: Sequence[PlannedCall]
    catalog: str


def prepare(trace: Path | None, seed: int) -> Plan:
    """Reads the trace, or makes a sample, and hands the requests out.

    Raises:
        BadTrace, OSError: the trace can not be read.
    """
    requests = sample.read_trace(trace) if trace else sample.make_sample(seed)
    source = f"{len(requests):,} requests of {trace.name if trace else f'a sample, seed {seed}'}"
    calls = plan_calls(requests, seed=seed, sidecars=SIDECARS)
    return Plan(source, seed, calls, catalog_text.EXAMPLE.read_text(encoding="utf-8"))


def play(plan: Plan, cluster: Cluster, console: Console) -> Outcome:
    """Plays the story and shows what it came to."""
    heard, heading = Heard(), f"purser dev --demo · {plan.source}"
    stage: LiveStage | PlainStage
    if console.is_terminal:
        stage = LiveStage(console, story.TITLES, heading, lambda: _counters(heard))
    else:
        console.print(heading, markup=False, soft_wrap=True)
        stage = PlainStage(console, story.TITLES)
    callers = Callers(cluster.addresses, heard)
    try:
        with Books(cluster.rest_url) as books, stage:
            told = story.play(World(cluster, books, callers, stage, plan.seed, plan.catalog), plan.calls)
    finally:
        callers.close()
    scenes = [outcome.PlayedScene(scene.title, tuple(scene.lines)) for scene in stage.scenes]
    lines = paste_lines(cluster, plan.calls, heard)
    result = Outcome(heading, scenes, told.checks, told.rows, lines, _summary(plan, heard, told))
    report.show(console, result, scenes_too=console.is_terminal)
    return result


def invite(result: Outcome, console: Console) -> None:
    """Lines to paste, while it serves."""
    console.print(report.pastes(result.pastes), soft_wrap=True)


def as_json(result: Outcome) -> str:
    """The JSON object of `--json`."""
    return report.as_json(result)


def recorded(result: Outcome) -> str:
    """All of it, for the picture."""
    return outcome.to_json(result)


def _counters(heard: Heard) -> list[tuple[str, str]]:
    refused = heard.refusals.total()
    return [
        ("asked", f"{heard.requests:,}"),
        ("refused", f"{refused:,}"),
        ("chunks settled", f"{heard.chunks:,}"),
        ("checks", f"{heard.checks:,}"),
        ("repeated", f"{heard.repeated:,}"),
    ]


def _summary(plan: Plan, heard: Heard, told: story.Told) -> dict[str, Any]:
    audit = told.audit
    return {
        "requests": heard.requests,
        "allowed": heard.allowed.total(),
        "refused": dict(sorted(heard.refusals.items())),
        "events_acknowledged": len(heard.events),
        "events_in_ledger": audit.events_in_ledger,
        "events_missing": len(audit.missing),
        "events_extra": len(audit.extra),
        "events_twice": len(audit.twice),
        "oversold": len(audit.oversold),
        "cost_mismatch": len(audit.mismatches),
        "latency": heard.latency(),
        "chunks_settled": heard.chunks,
        "checks_answered": heard.checks,
        "calls_repeated": heard.repeated,
        "checks": [{"name": each.name, "held": each.held, "figures": each.figures} for each in told.checks],
        "customers": [
            {"customer": row.customer, "plan": row.plan, "requests": row.requests, "allowed": row.allowed}
            | {"refused": dict(row.refused), "tokens": row.tokens, "cost": row.cost}
            | {"before": row.before, "after": row.after}
            for row in told.rows
        ],
        "seconds": told.seconds,
        "seed": plan.seed,
    }
