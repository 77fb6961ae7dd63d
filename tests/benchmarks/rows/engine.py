"""A decision inside the engine, beside what the bare server's call costs on the same core."""

import json
import subprocess
import sys

from tests.benchmarks.bench import Bench
from tests.benchmarks.measure import in_turn
from tests.benchmarks.processes import REPOSITORY, pinned
from tests.benchmarks.raw import Engine
from tests.benchmarks.stage import one_round


def measure(bench: Bench) -> dict[str, object]:
    """CPU time of both, in turn."""
    bench.say("the engine")
    pace = bench.plan.pace
    parts: dict[str, list[float]] = {"bill": [], "decide": [], "build": []}
    command = [sys.executable, "-m", "tests.benchmarks.programs.engine", f"--seconds={pace.seconds}"]

    def ours() -> float:
        with pinned(bench.server_core):
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        for name, rounds in parts.items():
            rounds.append(found[name])
        return found["decision"]

    def theirs() -> float:
        sample, used = one_round(bench.yardstick, seconds=pace.seconds, in_flight=pace.in_flight)
        return used / sample.calls * 1e6

    pairs = in_turn("a decision inside the engine", "µs of CPU time", ours, theirs, pace.rounds)
    return {
        "engine": Engine(decision_us=pairs, parts_us={name: tuple(rounds) for name, rounds in parts.items()})
    }
