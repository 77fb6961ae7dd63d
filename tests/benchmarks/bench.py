"""What is running while things are measured: a control plane, the yardstick, and sidecars as they are asked for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import payloads
from tests.benchmarks.installation import CUSTOMER, CUSTOMERS, ControlPlane, Sidecar
from tests.benchmarks.measure import compare
from tests.benchmarks.processes import Server
from tests.benchmarks.raw import Calls
from tests.benchmarks.stage import Pace, Stage, Target


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does, and how much of it."""

    pace: Pace
    in_flight: tuple[int, ...] = (1, 8, 32, 128)
    ceiling_rounds: int = 5
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95)
    step_seconds: float = 2.0
    step_rounds: int = 2
    half_rounds: int = 15
    customers_in_group: int = 1_000
    populations: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    starts: int = 5
    book_seconds: float = 2.0
    sidecars: int = 100
    publishes: int = 30


WHOLE = Plan(Pace(rounds=11, seconds=0.7))
QUICK = Plan(
    Pace(rounds=1, seconds=0.2, in_flight=4),
    in_flight=(1, 8),
    ceiling_rounds=1,
    fractions=(0.25, 0.5),
    step_seconds=0.3,
    step_rounds=1,
    half_rounds=1,
    customers_in_group=20,
    populations=(1_000, 10_000),
    starts=1,
    book_seconds=0.3,
    sidecars=6,
    publishes=4,
)


@dataclass(frozen=True, slots=True)
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

    @contextmanager
    def sidecar(
        self, name: str, durability: str, *, plane: ControlPlane | None = None, options: tuple[str, ...] = ()
    ) -> Iterator[Sidecar]:
        """One that is ready, and answers rightly. `name` is that of its data folder."""
        with self.begun(name, durability, plane=plane, options=options) as sidecar:
            sidecar.wait_until_ready()
            sidecar.verify()
            sidecar.meet(CUSTOMERS)
            yield sidecar

    @contextmanager
    def begun(
        self, name: str, durability: str, *, plane: ControlPlane | None = None, options: tuple[str, ...] = ()
    ) -> Iterator[Sidecar]:
        """One that has just been started."""
        folder = self.folder / name
        sidecar = Sidecar.start(
            plane or self.plane, folder, core=self.server_core, durability=durability, options=options
        )
        with sidecar.server:
            yield sidecar

    def stage(self, sidecar: Sidecar, *, uploading: bool) -> Stage:
        """Around rounds of this sidecar."""
        filler = payloads.consume(CUSTOMER, "what is uploaded")
        return Stage(sidecar.server, self.plane.server, self.neighbour, uploading, sidecar, filler)

    def compared(self, server: Server, targets: list[Target], stage: Stage | None = None) -> list[Calls]:
        """The yardstick and these, in turn."""
        stage = stage or Stage(server, self.plane.server, self.neighbour, None)
        return compare(self.yardstick, targets, self.plan.pace, stage)

    @contextmanager
    def echo(self, pool: str, name: str, *, threads: int = 0, durable: bool = False) -> Iterator[Target]:
        """Another bare server, on this pool, with as many threads as the yardstick or so many; `durable`: it keeps what
        it was asked.
        """
        options = (f"--durable={self.folder / 'kept.sqlite3'}",) if durable else ()
        threads = threads or self.plan.pace.threads
        with ExitStack() as stack:
            yield start_echo(stack, self.folder, threads, self.server_core, *options, pool=pool, name=name)


@contextmanager
def started(
    folder: Path, plan: Plan, say: Callable[[str], None], server_core: int, load_core: int
) -> Iterator[Bench]:
    """Everything that all rows share. Servers run on one core, this process and the control plane on another."""
    with ExitStack() as stack:
        say("starting")
        plane = ControlPlane.start(folder / "plane", core=load_core)
        stack.callback(plane.stop)
        neighbour = _neighbour(stack, folder, load_core)
        yardstick = start_echo(
            stack, folder, plan.pace.threads, server_core, pool="sidecar", name="bare grpc.server"
        )
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


def start_echo(
    stack: ExitStack, folder: Path, threads: int, core: int, *more: str, pool: str, name: str
) -> Target:
    """A bare server, stopped with the stack."""
    options = (f"--threads={threads}", f"--pool={pool}", *more)
    server = Server("tests.benchmarks.echo", *options, core=core, log=folder / f"echo-{pool}.log")
    stack.callback(server.stop)
    server.wait_until(lambda: bool(server.announced()))
    return Target(server, server.announced()["grpc"], payloads.echo(name))
