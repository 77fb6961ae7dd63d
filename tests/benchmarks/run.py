"""The whole run, in order: what it starts, what it measures."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmarks import payloads
from tests.benchmarks.installation import CUSTOMER, CUSTOMERS, ControlPlane, Sidecar
from tests.benchmarks.load import Load, LoadFailed
from tests.benchmarks.machine import CoreTimes, describe
from tests.benchmarks.measure import Pace, Result, Target, compare
from tests.benchmarks.processes import Server, cores, pinned

_UPLOADED = "purser_upload_records_total"
_SETTLE_SECONDS = 1.0  # for what a burst of cold customers left to do in the background


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does."""

    pace: Pace
    customers: int
    starts: int
    threads: int


@dataclass(slots=True)
class Report:
    """What one run found."""

    machine: dict[str, str]
    plan: Plan
    results: list[Result] = field(default_factory=list)
    bytes_per_customer: float = 0.0
    start_seconds: dict[str, float] = field(default_factory=dict)
    uploaded_per_second: dict[str, float] = field(
        default_factory=dict
    )  # by durability, while it was measured
    core_stolen: float = 0.0  # share of the server's core that other guests of the host took


@dataclass(slots=True)
class Bench:
    """What is running."""

    folder: Path
    plan: Plan
    say: Callable[[str], None]
    server_core: int
    load_core: int
    plane: ControlPlane
    neighbour: Server
    yardstick: Target

    def standard_pool(self) -> list[Result]:
        """The same bare server on the standard library's pool, which costs a little more than the sidecar's."""
        self.say("the bare server")
        with ExitStack() as stack:
            name = "the same, ThreadPoolExecutor"
            target = _echo(stack, self.folder, self.plan, self.server_core, pool="standard", name=name)
            return self._compared([target], uploading=None)

    def durability(self, report: Report, durability: str, *, checks: bool) -> None:
        """One sidecar, measured without and with upload."""
        scenarios = [payloads.consume(CUSTOMER, durability)]
        if checks:
            kinds = (payloads.check, payloads.new_checks, payloads.batch, payloads.new_batches)
            scenarios += [payloads.new_consumes(CUSTOMER, durability), *(kind(CUSTOMERS) for kind in kinds)]
        with self.sidecar(durability, durability) as sidecar:
            sidecar.verify()
            targets = [Target(sidecar.server, sidecar.port, scenario) for scenario in scenarios]
            self.say(f"{durability}, upload stopped")
            report.results += self._compared(targets, uploading=False)
            self.say(f"{durability}, upload running")
            before, began = sidecar.metric(_UPLOADED), time.perf_counter()
            report.results += self._compared(targets, uploading=True)
            uploaded = sidecar.metric(_UPLOADED) - before
            report.uploaded_per_second[durability] = uploaded / (time.perf_counter() - began)

    def _compared(self, targets: list[Target], *, uploading: bool | None) -> list[Result]:
        pace, plane, neighbour = self.plan.pace, self.plane.server, self.neighbour
        return compare(self.yardstick, targets, pace, plane=plane, neighbour=neighbour, uploading=uploading)

    def bytes_per_customer(self) -> float:
        """Growth of a sidecar's memory by customers that are new to it, with entitlements and balances."""
        self.say(f"memory of {self.plan.customers} cached customers")
        names = [f"cus_{number:07}" for number in range(self.plan.customers)]
        self.plane.subscribe(names)
        batches = [
            payloads.batch(names[n : n + payloads.BATCH]) for n in range(0, len(names), payloads.BATCH)
        ]
        bodies = [scenario.bodies()(0) for scenario in batches]
        with self.sidecar("memory", "process_crash") as sidecar:
            sidecar.verify()
            load = Load(sidecar.port, in_flight=2)
            warm = payloads.new_batches(CUSTOMERS)
            load.run(warm.method, warm.bodies(), seconds=300, limit=100)
            time.sleep(_SETTLE_SECONDS)
            before = sidecar.server.resident_bytes()
            sample = load.run(batches[0].method, lambda n: bodies[n], seconds=300, limit=len(bodies))
            if sample.failures:
                raise payloads.WrongAnswer(f"{sample.failures} batches of cold customers failed")
            for answer in sample.answers:
                batches[0].verify(answer)
            time.sleep(_SETTLE_SECONDS)
            return (sidecar.server.resident_bytes() - before) / len(names)

    def start_seconds(self, *, snapshot: bool) -> float:
        """From starting the process to its first answered check, the median of a few starts.

        Each in an empty folder, or in one that has the snapshot of the process before.
        """
        check = payloads.check([CUSTOMER])
        if snapshot:
            self._first_answer("start", check)
        names = ["start" if snapshot else f"start-{number}" for number in range(self.plan.starts)]
        return median(self._first_answer(name, check) for name in names)

    def _first_answer(self, name: str, check: payloads.Scenario) -> float:
        with self._begun(name, "process_crash") as sidecar:
            sidecar.server.wait_until(lambda: _answers(sidecar.port, check), poll_seconds=0.005)
            return time.perf_counter() - sidecar.server.started_at

    @contextmanager
    def sidecar(self, name: str, durability: str) -> Iterator[Sidecar]:
        """One that is ready. `name` is that of its data folder."""
        with self._begun(name, durability) as sidecar:
            sidecar.wait_until_ready()
            yield sidecar

    @contextmanager
    def _begun(self, name: str, durability: str) -> Iterator[Sidecar]:
        folder = self.folder / name
        sidecar = Sidecar.start(self.plane, folder, core=self.server_core, durability=durability)
        with sidecar.server:
            yield sidecar


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Report:
    """Everything. Servers run on one core, this process and the control plane on another.

    `say` is told what is going on.
    """
    server_core, load_core = cores()
    report = Report(describe(server_core, load_core), plan)
    at_start = CoreTimes.read(server_core)
    with pinned(load_core), _started(folder, plan, say, server_core, load_core) as bench:
        report.results += bench.standard_pool()
        bench.durability(report, "process_crash", checks=True)
        bench.durability(report, "power_loss", checks=False)
        report.bytes_per_customer = bench.bytes_per_customer()
        say("start-up")
        report.start_seconds["with a snapshot"] = bench.start_seconds(snapshot=True)
        report.start_seconds["without"] = bench.start_seconds(snapshot=False)
    at_end = CoreTimes.read(server_core)
    report.core_stolen = (at_end.stolen - at_start.stolen) / max(1, at_end.total - at_start.total)
    return report


@contextmanager
def _started(
    folder: Path, plan: Plan, say: Callable[[str], None], server_core: int, load_core: int
) -> Iterator[Bench]:
    with ExitStack() as stack:
        say("starting")
        plane = ControlPlane.start(folder, core=load_core)
        stack.callback(plane.server.stop)
        neighbour = _neighbour(stack, folder, load_core)
        yardstick = _echo(stack, folder, plan, server_core, pool="sidecar", name="bare grpc.server")
        yield Bench(folder, plan, say, server_core, load_core, plane, neighbour, yardstick)


def _neighbour(stack: ExitStack, folder: Path, core: int) -> Server:
    """Started, and frozen until it is wanted."""
    file = folder / "neighbour.sqlite3"
    server = Server(
        "tests.benchmarks.neighbour", str(file), core=core, log=folder / "neighbour.log", yields=True
    )
    stack.callback(server.stop)
    server.wait_until(file.exists)
    server.freeze()
    return server


def _echo(stack: ExitStack, folder: Path, plan: Plan, core: int, *, pool: str, name: str) -> Target:
    options = (f"--threads={plan.threads}", f"--pool={pool}")
    server = Server("tests.benchmarks.echo", *options, core=core, log=folder / f"echo-{pool}.log")
    stack.callback(server.stop)
    server.wait_until(lambda: bool(server.announced()))
    return Target(server, server.announced()["grpc"], payloads.echo(name))


def _answers(port: int, check: payloads.Scenario) -> bool:
    try:
        sample = Load(port, in_flight=1).run(check.method, check.bodies(), seconds=5, limit=1)
        check.verify(sample.answers[0])
    except (OSError, LoadFailed, IndexError, payloads.WrongAnswer):
        return False
    return True
