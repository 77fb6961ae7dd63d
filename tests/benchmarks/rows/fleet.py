"""From a publish to the last of a fleet's sidecars that decides by it.

The control plane has one core; the other has everybody else, who would have a machine each: so many sidecars take their
turns there, and the last one's answer waits for all the others'.
"""

import time
from contextlib import ExitStack
from statistics import median

from tests.benchmarks.bench import Bench
from tests.benchmarks.catalog import TEN
from tests.benchmarks.installation import ControlPlane
from tests.benchmarks.processes import Server
from tests.benchmarks.raw import Fleet

_START_SECONDS = 300  # dozens of sidecars start in each process, one after another
_MODULE = "tests.benchmarks.programs.fleet"


def measure(bench: Bench) -> dict[str, object]:
    """Every publish moves everybody to a plan with another level."""
    plan = bench.plan
    bench.say(f"{plan.sidecars} sidecars")
    names = [f"cus_fleet_{number:03}" for number in range(plan.sidecars)]
    sent: list[float] = []
    returned: list[float] = []
    middle: list[float] = []
    with ExitStack() as stack:
        plane = ControlPlane.start(bench.folder / "fleet-plane", core=bench.server_core, yields=False)
        stack.callback(plane.stop)
        plane.subscribe(names, TEN)
        fleet = [_start(bench, stack, plane, names, number) for number in range(plan.fleet_processes)]
        for process in fleet:
            process.wait_until(lambda process=process: bool(process.said()), seconds=_START_SECONDS)  # type: ignore[misc]
        bench.say(f"{plan.publishes} publishes")
        revision = plane.publish(2, move=True)
        for level in range(3, plan.publishes + 3):
            asked_at, answered_at, last = _published(plane, fleet, revision + 1, level)
            revision += 1
            sent.append((max(last) - asked_at) * 1000)
            returned.append((max(last) - answered_at) * 1000)
            middle.append((median(last) - asked_at) * 1000)
    return {
        "fleet": Fleet(
            sidecars=plan.sidecars,
            processes=plan.fleet_processes,
            sent_ms=tuple(sent),
            returned_ms=tuple(returned),
            middle_ms=tuple(middle),
        )
    }


def _start(bench: Bench, stack: ExitStack, plane: ControlPlane, names: list[str], number: int) -> Server:
    folder = bench.folder / f"fleet-{number}"
    folder.mkdir()
    server = Server(
        _MODULE,
        f"--control-plane={plane.grpc_address}",
        f"--data={folder}",
        f"--customers={','.join(names[number :: bench.plan.fleet_processes])}",
        core=bench.load_core,
        log=folder / "fleet.log",
        listens=True,
    )
    stack.callback(server.stop)
    return server


def _published(
    plane: ControlPlane, fleet: list[Server], revision: int, level: int
) -> tuple[float, float, list[float]]:
    """When it was asked for, when that was answered, and when each sidecar decided by it."""
    for process in fleet:
        process.tell(f"{revision} {level}")
    for process in fleet:
        _wait(process, "armed", revision)
    asked_at = time.monotonic()
    published = plane.publish(level, move=True)
    answered_at = time.monotonic()
    assert published == revision, "nobody else changes anything"
    found: list[float] = []
    for process in fleet:
        found += _wait(process, "revision", revision)["answered_at"]
    return asked_at, answered_at, found


def _wait(process: Server, key: str, value: int) -> dict[str, list[float]]:
    """The line with this in it."""
    found: list[dict[str, list[float]]] = []

    def is_there() -> bool:
        found[:] = [line for line in process.said() if line.get(key) == value]
        return bool(found)

    process.wait_until(is_there, poll_seconds=0.005)
    return found[0]
