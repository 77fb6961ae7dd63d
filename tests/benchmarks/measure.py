"""Short rounds in turn: the yardstick, one scenario, the yardstick, the next.

Noise of a shared machine comes and goes in seconds, so each round of a scenario is compared with the yardstick's rounds
right before and right after it, and the ratio reported is the median of those.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.benchmarks.load import Load, Sample, percentile
from tests.benchmarks.payloads import Scenario, WrongAnswer
from tests.benchmarks.processes import Server

_VERIFIED_PER_ROUND = 500
_ATTEMPTS = 4
_GENERATOR_IS_THE_LIMIT = 0.85


@dataclass(frozen=True, slots=True)
class Pace:
    """How long, how often, and how many calls at a time."""

    rounds: int
    seconds: float
    in_flight: int = 32

    @property
    def warm_seconds(self) -> float:
        return min(0.5, self.seconds / 2)

    @property
    def filling_seconds(self) -> float:
        """How long to consume before a round.

        A lease is ten seconds of a rate that is averaged over five, and is renewed when half is spent.
        """
        return 0.2 + 2 * self.seconds


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and what it is asked."""

    server: Server
    port: int
    scenario: Scenario


@dataclass(slots=True)
class Result:
    """All rounds of one scenario."""

    scenario: Scenario
    uploading: bool | None = None  # None: a server that has nothing to upload
    calls_per_second: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # to the yardstick; empty for the yardstick itself
    latencies_us: list[float] = field(default_factory=list)
    alone_us: list[float] = field(default_factory=list)  # one call at a time
    server_us_per_call: list[float] = field(default_factory=list)  # CPU time of all its threads
    generator_busy: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.calls_per_second)

    @property
    def ratio(self) -> float | None:
        return median(self.ratios) if self.ratios else None

    def generator_was_the_limit(self) -> bool:
        return median(self.generator_busy) > _GENERATOR_IS_THE_LIMIT

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.scenario.name,
            "uploading": self.uploading,
            "checks_per_call": self.scenario.checks_per_call,
            "calls_per_second": self.rate,
            "ratio": self.ratio,
            "p50_us": percentile(self.latencies_us, 50),
            "p99_us": percentile(self.latencies_us, 99),
            "alone_p50_us": percentile(self.alone_us, 50) if self.alone_us else None,
            "server_cpu_us_per_call": median(self.server_us_per_call),
            "generator_busy": median(self.generator_busy),
            "generator_was_the_limit": self.generator_was_the_limit(),
            "rounds": {"calls_per_second": self.calls_per_second, "ratios": self.ratios},
        }


def one_round(target: Target, *, seconds: float, in_flight: int) -> tuple[Sample, float]:
    """A round, and the CPU seconds that the server used in it.

    Raises:
        WrongAnswer: a call failed, or an answer is not the one that was asked for.
    """
    scenario = target.scenario
    before = target.server.cpu_seconds()
    sample = Load(target.port, in_flight=in_flight).run(scenario.method, scenario.bodies(), seconds=seconds)
    used = target.server.cpu_seconds() - before
    if sample.failures:
        raise WrongAnswer(f"{scenario.name}: {sample.failures} of {sample.calls} calls failed")
    step = max(1, len(sample.answers) // _VERIFIED_PER_ROUND)
    for answer in sample.answers[::step]:
        scenario.verify(answer)
    return sample, used


def compare(
    yardstick: Target,
    targets: Sequence[Target],
    pace: Pace,
    *,
    plane: Server,
    neighbour: Server,
    uploading: bool | None,
) -> list[Result]:
    """The yardstick's result, then one per target, in their order; the targets are all of one sidecar.

    The sidecar stands still while the yardstick runs, since they share a core. Without `uploading` the control plane
    stands still while the sidecar is measured, right after a short run that filled its leases; with it, what was
    consumed is uploaded meanwhile, and the yardstick has the neighbour beside it instead of the control plane.
    """
    results = [Result(yardstick.scenario), *(Result(target.scenario, uploading) for target in targets)]
    sidecar = targets[0].server

    def yardstick_round() -> float:
        with sidecar.frozen(), contextlib.ExitStack() as stack:
            if uploading:
                neighbour.thaw()
                stack.callback(neighbour.freeze)
            return _measure(yardstick, results[0], pace)

    for target in (yardstick, *targets):  # warm: connections, caches, leases
        one_round(target, seconds=pace.warm_seconds, in_flight=pace.in_flight)
    for _ in range(pace.rounds):
        before = yardstick_round()
        for target, result in zip(targets, results[1:], strict=True):
            if uploading is False:
                rate = _measure_apart(target, result, pace, plane)
            else:
                one_round(target, seconds=_run_up(target, pace), in_flight=pace.in_flight)
                rate = _measure(target, result, pace)
            after = yardstick_round()
            result.ratios.append(rate / ((before + after) / 2))
            before = after
    for target, result in zip((yardstick, *targets), results, strict=True):
        sample, _ = one_round(target, seconds=pace.warm_seconds, in_flight=1)
        result.alone_us.extend(sample.latencies_us)
    return results


def _measure_apart(target: Target, result: Result, pace: Pace, plane: Server) -> float:
    """A round while the control plane stands still; again, with a longer run-up, where the leases did not last, or
    the sidecar had not yet heard that the control plane is back.
    """
    seconds = _run_up(target, pace)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            one_round(target, seconds=seconds * attempt, in_flight=pace.in_flight)
            with plane.frozen():
                return _measure(target, result, pace)
        except WrongAnswer:
            if not target.scenario.spends or attempt == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _run_up(target: Target, pace: Pace) -> float:
    """Seconds before a round. What spends starts from a rest of half a minute, in which its leases went back."""
    return pace.filling_seconds if target.scenario.spends else pace.warm_seconds


def _measure(target: Target, result: Result, pace: Pace) -> float:
    sample, used = one_round(target, seconds=pace.seconds, in_flight=pace.in_flight)
    result.calls_per_second.append(sample.calls_per_second)
    result.latencies_us.extend(sample.latencies_us)
    result.server_us_per_call.append(used / sample.calls * 1e6)
    result.generator_busy.append(sample.generator_busy)
    return sample.calls_per_second
