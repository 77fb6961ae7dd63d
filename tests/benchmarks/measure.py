"""Short rounds in turn: the yardstick, one scenario, the yardstick, the next.

Noise of a shared machine comes and goes in seconds, so each round of a scenario is compared with the yardstick's rounds
right before and right after it, and the ratio reported is the median of those.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.benchmarks.payloads import Scenario
from tests.benchmarks.raw import Calls, Latencies, Pairs
from tests.benchmarks.stage import Pace, Stage, Target, one_round


@dataclass(slots=True)
class Result:
    """All rounds of one scenario."""

    scenario: Scenario
    uploading: bool | None = None  # None: a server that has nothing to upload
    in_flight: int = 0
    calls_per_second: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # to the yardstick; empty for the yardstick itself
    latencies_us: list[float] = field(default_factory=list)
    alone_us: list[float] = field(default_factory=list)  # one call at a time
    server_us_per_call: list[float] = field(default_factory=list)  # CPU time of all its threads
    generator_busy: list[float] = field(default_factory=list)

    def raw(self) -> Calls:
        return Calls(
            name=self.scenario.name,
            uploading=self.uploading,
            in_flight=self.in_flight,
            checks_per_call=self.scenario.checks_per_call,
            calls_per_second=tuple(self.calls_per_second),
            ratios=tuple(self.ratios),
            latencies=Latencies.of(self.latencies_us),
            alone=Latencies.of(self.alone_us),
            server_us_per_call=tuple(self.server_us_per_call),
            generator_busy=tuple(self.generator_busy),
        )


def compare(
    yardstick: Target, targets: Sequence[Target], pace: Pace, stage: Stage, *, alone: bool = True
) -> list[Calls]:
    """The yardstick's rounds, then those of each target, in their order; the targets are all of one sidecar.

    `alone`: each is also measured with one call at a time.
    """
    results = [
        Result(yardstick.scenario, in_flight=pace.in_flight),
        *(Result(target.scenario, stage.uploading, pace.in_flight) for target in targets),
    ]
    for target in (yardstick, *targets):  # warm: connections, caches, leases
        one_round(target, seconds=pace.warm_seconds, in_flight=pace.in_flight)
    for _ in range(pace.rounds):
        before = stage.yardstick(lambda: _measure(yardstick, results[0], pace))
        for target, result in zip(targets, results[1:], strict=True):
            rate = stage.tested(target, pace, partial(_measure, target, result, pace))
            after = stage.yardstick(lambda: _measure(yardstick, results[0], pace))
            result.ratios.append(rate / ((before + after) / 2))
            before = after
    if alone:
        for target, result in zip((yardstick, *targets), results, strict=True):
            sample, _ = one_round(target, seconds=pace.warm_seconds, in_flight=1)
            result.alone_us.extend(sample.latencies_us)
    return [result.raw() for result in results]


def in_turn(
    name: str, unit: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> Pairs:
    """Theirs, ours, theirs and so on."""
    other, mine = [theirs()], list[float]()
    for _ in range(rounds):
        mine.append(ours())
        other.append(theirs())
    return Pairs(name=name, unit=unit, ours=tuple(mine), theirs=tuple(other))


def _measure(target: Target, result: Result, pace: Pace) -> float:
    sample, used = one_round(target, seconds=pace.seconds, in_flight=pace.in_flight)
    result.calls_per_second.append(sample.calls_per_second)
    result.latencies_us.extend(sample.latencies_us)
    result.server_us_per_call.append(used / sample.calls * 1e6)
    result.generator_busy.append(sample.generator_busy)
    return sample.calls_per_second
