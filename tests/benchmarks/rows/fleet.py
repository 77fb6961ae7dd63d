"""From a publish to the last of a fleet's sidecars that decides by it.

The control plane has one core; the other has everybody else, who would have a machine each: so many sidecars take their
turns there, and the last one's answer waits for all the others'.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from statistics import median

from tests.benchmarks.bench import Bench
from tests.benchmarks.catalog import TEN
from tests.benchmarks.installation import ControlPlane
from tests.benchmarks.processes import REPOSITORY, Server
from tests.benchmarks.raw import Fleet

ALONE = 20
"""Publishes while one sidecar has the core for itself: each moves everybody, which takes the control plane a second."""
_START_SECONDS = 300  # a hundred start on one core
_MODULE = "tests.benchmarks.programs.fleet"


def measure(bench: Bench) -> dict[str, object]:
    """Every publish moves everybody to a plan with another level. First one sidecar has the core for itself."""
    plan = bench.plan
    names = [f"cus_fleet_{number:03}" for number in range(plan.sidecars)]
    plane = ControlPlane.start(bench.folder / "fleet-plane", core=bench.server_core, yields=False)
    try:
        plane.subscribe(names, TEN)
        alone = _publishes(bench, plane, names[:1], min(ALONE, plan.publishes))
        together = _publishes(bench, plane, names, plan.publishes)
    finally:
        plane.stop()
    bare = _bare(bench)
    return {
        "fleet": Fleet(
            sidecars=plan.sidecars,
            sent_ms=tuple(together.sent),
            returned_ms=tuple(together.returned),
            middle_ms=tuple(together.middle),
            alone_ms=tuple(alone.returned),
            cpu_ms=tuple(together.cpu),
            bare_ms=tuple(bare["last_ms"]),
        )
    }


def _bare(bench: Bench) -> dict[str, list[float]]:
    """As many processes that are told of a publish and answer a call: what gRPC takes where nothing is done."""
    bench.say(f"{bench.plan.sidecars} bare processes")
    command = [sys.executable, "-m", "tests.benchmarks.programs.bare_fleet"]
    command += [f"--processes={bench.plan.sidecars}", f"--publishes={bench.plan.publishes}"]
    command += [f"--publisher-core={bench.server_core}", f"--fleet-core={bench.load_core}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=_START_SECONDS
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


@dataclass(slots=True)
class _Times:
    """Milliseconds of each publish."""

    sent: list[float] = field(default_factory=list)
    returned: list[float] = field(default_factory=list)
    middle: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def _publishes(bench: Bench, plane: ControlPlane, names: list[str], publishes: int) -> _Times:
    """A fleet of one sidecar for each of these customers, from its start to its end."""
    bench.say(f"{len(names)} sidecars")
    times = _Times()
    with _started(bench, plane, names) as fleet:
        fleet.wait_until(lambda: bool(fleet.said()), seconds=_START_SECONDS)
        bench.say(f"{publishes} publishes")
        revision = plane.publish(2, move=True)
        for level in range(3, publishes + 3):
            revision += 1
            asked_at, answered_at, found = _published(plane, fleet, revision, level)
            last = max(found["answered_at"])
            times.sent.append((last - asked_at) * 1000)
            times.returned.append((last - answered_at) * 1000)
            times.middle.append((median(found["answered_at"]) - asked_at) * 1000)
            times.cpu.append(median(found["cpu_ms"]))
    return times


def _started(bench: Bench, plane: ControlPlane, names: list[str]) -> Server:
    folder = bench.folder / f"fleet-of-{len(names)}"
    folder.mkdir()
    return Server(
        _MODULE,
        f"--control-plane={plane.grpc_address}",
        f"--data={folder}",
        f"--customers={','.join(names)}",
        core=bench.load_core,
        log=folder / "fleet.log",
        listens=True,
    )


def _published(
    plane: ControlPlane, fleet: Server, revision: int, level: int
) -> tuple[float, float, dict[str, list[float]]]:
    """When it was asked for, when that was answered, and what the fleet says of it."""
    fleet.tell(f"{revision} {level}")
    _wait(fleet, "armed", revision)
    asked_at = time.monotonic()
    published = plane.publish(level, move=True)
    answered_at = time.monotonic()
    assert published == revision, "nobody else changes anything"
    return asked_at, answered_at, _wait(fleet, "revision", revision)


def _wait(process: Server, key: str, value: int) -> dict[str, list[float]]:
    """The line with this in it."""
    found: list[dict[str, list[float]]] = []

    def is_there() -> bool:
        found[:] = [line for line in process.said() if line.get(key) == value]
        return bool(found)

    process.wait_until(is_there, poll_seconds=0.005)
    return found[0]
