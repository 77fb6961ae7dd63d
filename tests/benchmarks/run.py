"""The whole run, in order."""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from tests.benchmarks import raw
from tests.benchmarks.bench import Bench, Plan, started
from tests.benchmarks.machine import CoreTimes, describe
from tests.benchmarks.processes import cores, pinned
from tests.benchmarks.rows import (
    books,
    calls,
    ceilings,
    engine,
    fleet,
    ladders,
    memory,
    peer,
    populations,
    starts,
)

ROWS: Mapping[str, Callable[[Bench], dict[str, object]]] = {
    "calls": calls.measure,
    "ceilings": ceilings.measure,
    "ladders": ladders.measure,
    "half": ladders.measure_half,
    "peer": peer.measure,
    "engine": engine.measure,
    "populations": populations.measure,
    "memory": memory.measure,
    "starts": starts.measure,
    "reports": books.measure_reports,
    "leases": books.measure_leases,
    "fleet": fleet.measure,
}
"""What can be measured, in the order of the run; each returns fields of `raw.Run`."""


def run(plan: Plan, folder: Path, say: Callable[[str], None], only: Collection[str] = ()) -> raw.Run:
    """Everything, or `only` these. `say` is told what is going on."""
    server_core, load_core = cores()
    machine = describe(server_core, load_core)
    began, at_start = time.monotonic(), CoreTimes.read(server_core)
    found: dict[str, object] = {}
    failed: dict[str, str] = {}
    with pinned(load_core), started(folder, plan, say, server_core, load_core) as bench:
        for name, measure in ROWS.items():
            if only and name not in only:
                continue
            try:
                found |= measure(bench)
            except Exception as error:  # noqa: BLE001 whatever it is, what the other rows have measured is not lost for it
                say(f"{name} failed: {error!r}")
                failed[name] = f"{type(error).__name__}: {error}"[:500]
    at_end = CoreTimes.read(server_core)
    stolen = (at_end.stolen - at_start.stolen) / max(1, at_end.total - at_start.total)
    pace = plan.pace
    return raw.Run.model_validate(
        {
            "machine": machine,
            "pace": raw.Pace(
                rounds=pace.rounds, seconds=pace.seconds, in_flight=pace.in_flight, threads=pace.threads
            ),
            "minutes": (time.monotonic() - began) / 60,
            "core_stolen": stolen,
            "failed": failed,
            **found,
        }
    )
