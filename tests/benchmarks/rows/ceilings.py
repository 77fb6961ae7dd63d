"""Closed loops with few and with many calls in flight: what each server can do at most."""

from dataclasses import replace

from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import CUSTOMER, CUSTOMERS
from tests.benchmarks.measure import compare
from tests.benchmarks.raw import Calls
from tests.benchmarks.stage import Target


def measure(bench: Bench) -> dict[str, object]:
    """The yardstick, checks and consumes, in turn."""
    found: list[Calls] = []
    pace = replace(bench.plan.pace, rounds=bench.plan.ceiling_rounds)
    scenarios = [payloads.check(CUSTOMERS), payloads.consume(CUSTOMER, "power_loss")]
    with bench.sidecar("ceilings", "power_loss") as sidecar:
        targets = [Target(sidecar.server, sidecar.port, scenario) for scenario in scenarios]
        for uploading in (False, True):
            stage = bench.stage(sidecar, uploading=uploading)
            for in_flight in bench.plan.in_flight:
                bench.say(f"ceilings: {in_flight} in flight, upload {'running' if uploading else 'stopped'}")
                paced = pace.with_in_flight(in_flight)
                yardstick, *tested = compare(bench.yardstick, targets, paced, stage, alone=False)
                # The yardstick uploads nothing, but has had what uploads have beside them.
                found += [yardstick.model_copy(update={"uploading": uploading}), *tested]
    return {"ceilings": tuple(found)}
