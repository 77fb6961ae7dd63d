"""From starting a process to its first right answer."""

import time

from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import CUSTOMER
from tests.benchmarks.load import Load, LoadFailed


def measure(bench: Bench) -> dict[str, object]:
    """In a folder that has the snapshot of the process before, and each in an empty one."""
    bench.say("start-up")
    check = payloads.check([CUSTOMER])
    _first_answer(bench, "start", check)
    starts = range(bench.plan.starts)
    return {
        "start_seconds": {
            "with a snapshot": tuple(_first_answer(bench, "start", check) for _ in starts),
            "without": tuple(_first_answer(bench, f"start-{number}", check) for number in starts),
        }
    }


def _first_answer(bench: Bench, name: str, check: payloads.Scenario) -> float:
    with bench.begun(name, "process_crash") as sidecar:
        sidecar.server.wait_until(lambda: _answers(sidecar.port, check), poll_seconds=0.005)
        return time.perf_counter() - sidecar.server.started_at


def _answers(port: int, check: payloads.Scenario) -> bool:
    try:
        sample = Load(port, in_flight=1).run(check.method, check.bodies(), seconds=5, limit=1)
        check.verify(sample.answers[0])
    except (OSError, LoadFailed, IndexError, payloads.WrongAnswer):
        return False
    return True
