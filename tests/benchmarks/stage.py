"""What happens around a round: who stands still, who works beside, and what was done before.

The server under test and the yardstick share one core and never run at the same time. What is compared has the same
beside it: a sidecar that uploads has the control plane on the other core, so the yardstick has the neighbour there.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from tests.benchmarks.installation import Sidecar
from tests.benchmarks.load import Load, Sample
from tests.benchmarks.payloads import Scenario, WrongAnswer
from tests.benchmarks.processes import Server

Found = TypeVar("Found")

PENDING_AT_LEAST = 4_000  # records that wait for their upload, before a round “with upload running”
_VERIFIED_PER_ROUND = 500
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """How long, how often, how many calls at a time, and with how many threads the bare server answers."""

    rounds: int
    seconds: float
    in_flight: int = 32
    threads: int = 4

    @property
    def warm_seconds(self) -> float:
        return min(0.5, self.seconds / 2)

    @property
    def filling_seconds(self) -> float:
        """How long to consume before a round.

        A lease is ten seconds of a rate that is averaged over five, and is renewed when half is spent.
        """
        return 0.2 + 2 * self.seconds

    def with_in_flight(self, in_flight: int) -> "Pace":
        return replace(self, in_flight=in_flight)


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and what it is asked."""

    server: Server
    port: int
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Stage:
    """One sidecar, and what is beside it. `uploading` None: a server that has nothing to upload."""

    under_test: Server
    plane: Server
    neighbour: Server
    uploading: bool | None
    sidecar: Sidecar | None = None
    filler: Scenario | None = None
    """What leaves usage to upload; with `sidecar`, for rounds with upload."""

    def yardstick(self, round_: Callable[[], Found]) -> Found:
        """A round of the bare server."""
        with self.under_test.frozen(), contextlib.ExitStack() as stack:
            if self.uploading:
                self.neighbour.thaw()
                stack.callback(self.neighbour.freeze)
            return round_()

    def tested(self, target: Target, pace: Pace, round_: Callable[[], Found]) -> Found:
        """A round of the server under test, after a short run that warmed it and filled its leases.

        Without upload the control plane stands still meanwhile. Where the leases did not last, or the sidecar had not
        yet heard that the control plane is back, there is another attempt with a longer run before it.
        """
        if self.uploading is not False:
            self._leave_usage(pace)
            one_round(target, seconds=run_up(target, pace), in_flight=pace.in_flight)
            return round_()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                one_round(target, seconds=run_up(target, pace) * attempt, in_flight=pace.in_flight)
                with self.plane.frozen():
                    return round_()
            except WrongAnswer:
                if not target.scenario.spends or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _leave_usage(self, pace: Pace) -> None:
        """As much that it is not all sent before the round ends."""
        if self.sidecar is None or self.filler is None or not self.uploading:
            return
        target = Target(self.sidecar.server, self.sidecar.port, self.filler)
        for _ in range(_ATTEMPTS):
            if self.sidecar.pending() >= PENDING_AT_LEAST * max(1.0, pace.seconds):
                return
            one_round(target, seconds=max(0.5, pace.seconds), in_flight=max(32, pace.in_flight))


def run_up(target: Target, pace: Pace) -> float:
    """Seconds before a round. What spends starts from a rest of half a minute, in which its leases went back."""
    return pace.filling_seconds if target.scenario.spends else pace.warm_seconds


def one_round(target: Target, *, seconds: float, in_flight: int) -> tuple[Sample, float]:
    """A round in a closed loop, and the CPU seconds that the server used in it.

    Raises:
        WrongAnswer: a call failed, or an answer is not the one that was asked for.
    """
    scenario = target.scenario
    before = target.server.cpu_seconds()
    sample = Load(target.port, in_flight=in_flight).run(scenario.method, scenario.bodies(), seconds=seconds)
    used = target.server.cpu_seconds() - before
    if sample.failures:
        raise WrongAnswer(f"{scenario.name}: {sample.failures} of {sample.calls} calls failed")
    verify(scenario, sample)
    return sample, used


def verify(scenario: Scenario, sample: Sample) -> None:
    """Looks at some answers of a round. Raises WrongAnswer."""
    step = max(1, len(sample.answers) // _VERIFIED_PER_ROUND)
    for answer in sample.answers[::step]:
        scenario.verify(answer)


@contextlib.contextmanager
def uploads_counted(sidecar: Sidecar, into: list[float]) -> Iterator[None]:
    """Appends how many records a second were booked meanwhile."""
    before, began = sidecar.uploaded()
    yield
    after, ended = sidecar.uploaded()
    into.append((after - before) / (ended - began))
