"""One sidecar of the simulation: the real one, on simulated threads, network and disk; and who calls it."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, NoReturn
from unittest import mock

import grpc

from sidecar.app import Sidecar, Surroundings
from sidecar.config import Settings
from sidecar.edge import Inside, fast
from sidecar.outbox.port import Durability, OutboxUnusable
from sidecar.rpc.pools import make_pools
from sidecar.rpc.server import SERVICE, Handlers
from sidecar.rpc.service import EntitlementService
from tests.servers.crowd import NoEdge
from tests.simulation.disk import Disk
from tests.simulation.network import Condition, RpcError, Weather, Wire
from tests.simulation.plane import BASE
from tests.simulation.threads import Hub, Process

GONE = RpcError(grpc.StatusCode.UNAVAILABLE, "the sidecar is gone")

Done = Callable[[bytes | RpcError], None]


class NodeClock:
    """A machine's clocks: one that drifts and never stops, and one that people set."""

    def __init__(self, hub: Hub, rate: float, started: float) -> None:
        self._hub = hub
        self._rate = rate
        self._started = started
        self.wall_off = timedelta()
        """How wrong the wall clock is."""

    def now(self) -> datetime:
        """What the wall clock says."""
        return BASE + timedelta(seconds=self._hub.time()) + self.wall_off

    def monotonic(self) -> float:
        """Seconds of this machine's own."""
        return self._started + self._hub.time() * self._rate


class CallerContext:
    """What a behavior needs of its call."""

    def __init__(self, clock: NodeClock, timeout: float) -> None:
        self._clock = clock
        self._ends_at = clock.monotonic() + timeout

    def time_remaining(self) -> float:
        """See grpc."""
        return self._ends_at - self._clock.monotonic()

    def is_active(self) -> bool:
        """See grpc."""
        return True

    def add_callback(self, callback: Any) -> bool:
        """See grpc."""
        return True

    def abort_with_status(self, status: Any) -> NoReturn:
        """See grpc."""
        raise RpcError.of(status)


class SimulatedEdge(NoEdge):
    """The real handlers, called by name."""

    def __init__(self, settings: Settings, inside: Inside) -> None:
        self._pools = make_pools(read_threads=1, write_threads=1, stream_threads=1, calls_max=10_000)
        checks, consumes = fast(inside)
        self.handlers = Handlers(EntitlementService(inside.verbs), checks, consumes, self._pools)
        self.in_flight = 0

    @property
    def is_idle(self) -> bool:
        """See `Edge`."""
        return not self.in_flight

    def drain(self) -> None:
        """See `Edge`."""
        self.handlers.drain()


@dataclass(eq=False)
class Running:
    """One process of a sidecar."""

    process: Process
    sidecar: Sidecar
    edge: SimulatedEdge
    wire: Wire
    is_untouched: bool = True
    """Nobody has stopped it, for good or for a while."""


class Node:
    """A sidecar's place: its machine, its disk and its way to the control plane outlive its processes."""

    def __init__(
        self,
        hub: Hub,
        random: Random,
        name: str,
        disk: Disk,
        servers: Callable[[], list[Any]],
        weather: Weather,
        *,
        durability: Durability,
        customers_max: int,
    ) -> None:
        self.name = name
        self.disk = disk
        self.durability = durability
        self._customers_max = customers_max
        self.boots = 0
        """How often its machine was started again."""
        self.processes: list[Process] = []
        self.running: Running | None = None
        self.is_starting = False
        self.rate = 1 + random.uniform(-0.008, 0.008)
        self.clock = NodeClock(hub, self.rate, random.uniform(100, 100_000))
        self._hub = hub
        self._random = random
        self._servers = servers
        self._weather = weather
        self._calls: dict[int, Done] = {}
        self._number = 0
        self._condition = Condition.UP
        self._wires: list[Wire] = []
        """Of all its processes: what a dead one had sent may still be under way."""

    def start(self) -> None:
        """A process starts, unless one runs."""
        if self.running is not None or self.is_starting:
            return
        self.is_starting = True
        process = Process(f"{self.name}.{len(self.processes)}", rate=self.rate)
        process.on_death = self._died
        self.processes.append(process)
        wire = Wire(self._hub, Random(self._random.random()), process, self._servers, self._weather)
        wire.become(self._condition)
        self._wires.append(wire)
        made: list[SimulatedEdge] = []

        def edge(settings: Settings, inside: Inside) -> SimulatedEdge:
            made.append(SimulatedEdge(settings, inside))
            return made[-1]

        around = Surroundings(
            random=Random(self._random.random()),
            boot_id=f"{self.name}-boot-{self.boots}",
            open_channel=lambda: wire,  # type: ignore[arg-type, return-value]
            connect=self.disk.connect,
            edge=edge,
        )
        settings = Settings(
            data=self.disk.folder, name=self.name, durability=self.durability, drain_seconds=3
        ).model_copy(update={"customers_max": self._customers_max})  # less than anybody may set it to

        def run() -> None:
            try:
                with mock.patch("sidecar.outbox.sqlite.take_lock", self.disk.take_lock):
                    sidecar = Sidecar(settings, clock=self.clock, surroundings=around)
                sidecar.start()
            except (sqlite3.Error, OSError, OutboxUnusable):
                # A disk that takes nothing: the process ends, and is started again.
                process.is_dead = True
                self.disk.pull()
                self._hub.loop.call_soon(self._died)
                self._hub.loop.call_later(1.0, self.start)
                return
            self.is_starting = False
            self.running = Running(process, sidecar, made[0], wire)

        self._hub.spawn(process, run)

    def call(self, rpc: str, request: Any, timeout: float, done: Done) -> None:
        """Somebody calls; `done` hears how it ended: what it answered, a status, or that the process is gone."""
        running = self.running
        if running is None:
            done(GONE)
            return
        self._number += 1
        number = self._number
        self._calls[number] = done
        behavior = running.edge.handlers._methods[f"/{SERVICE}/{rpc}"].handler.unary_unary
        assert behavior is not None
        context: Any = CallerContext(self.clock, timeout)

        def run() -> None:
            running.edge.in_flight += 1
            try:
                answer: bytes | RpcError = behavior(request.SerializeToString(), context)
            except RpcError as error:
                answer = error
            finally:
                running.edge.in_flight -= 1
            heard = self._calls.pop(number, None)
            if heard is not None:
                self._hub.loop.call_soon(heard, answer)

        self._hub.spawn(running.process, run)

    def kill(self) -> None:
        """`kill -9`."""
        if self.processes and not self.processes[-1].is_dead:
            self.processes[-1].is_dead = True
            self.disk.pull()
            self._died()

    def crash_soon(self, statements: int) -> None:
        """`kill -9` in the middle of the disk's work."""
        self.disk.dies_in = statements
        self.disk.dies_at_commit = statements % 2 == 0

    def stop(self) -> None:
        """SIGTERM."""
        running = self.running
        if running is None:
            return

        running.is_untouched = False

        def run() -> None:
            running.sidecar.stop()
            if self.running is running:
                running.process.is_dead = True
                self.disk.pull()
                self._died()

        self._hub.spawn(running.process, run)

    def become(self, condition: Condition) -> None:
        """Its way to the control plane changes, for whatever process there is."""
        self._condition = condition
        for wire in self._wires:
            wire.become(condition)

    def pause(self, seconds: float) -> None:
        """It stands still, as in a debugger, and goes on."""
        if self.running is None or self.running.process.is_paused:
            return
        process = self.running.process
        process.is_paused = True
        self.running.is_untouched = False
        self._hub.loop.call_later(seconds, self._hub.go_on, process)

    def _died(self) -> None:
        running, self.running = self.running, None
        self.is_starting = False
        self.disk.dies_in = None
        if running is not None:
            running.wire.abandon()
        calls, self._calls = self._calls, {}
        for done in calls.values():
            done(GONE)

    def knows(self, generation: int) -> bool:
        """Does it run, and has it opened a session since the control plane was restored for the last time? What it
        uploaded before may have to be sent again, and until then it does not know.
        """
        return self.running is not None and self.running.sidecar._outbox.generation == generation

    @property
    def unsent(self) -> int:
        """Records that the books do not have, while it runs."""
        return 0 if self.running is None else self.running.sidecar._unsent()
