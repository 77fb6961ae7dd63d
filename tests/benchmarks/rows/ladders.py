"""Open loops: what a call takes at each rate, up to what the server can do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from tests.benchmarks import payloads
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import CUSTOMER, CUSTOMERS, Sidecar
from tests.benchmarks.measure import in_turn
from tests.benchmarks.open_loop import OpenLoop, Paced, schedule
from tests.benchmarks.raw import Half, Ladder, Latencies, Step
from tests.benchmarks.stage import Stage, Target, one_round, uploads_counted, verify

_CEILING_ROUNDS = 3
_HALF = 0.5


def measure(bench: Bench) -> dict[str, object]:
    """A ladder for the yardstick, checks and consumes, without and with upload."""
    found: list[Ladder] = []
    scenarios = [payloads.check(CUSTOMERS), payloads.consume(CUSTOMER, "power_loss")]
    with bench.sidecar("ladders", "power_loss") as sidecar:
        targets = [Target(sidecar.server, sidecar.port, scenario) for scenario in scenarios]
        for uploading in (False, True):
            for target in (bench.yardstick, *targets):
                kind = "running" if uploading else "stopped"
                bench.say(f"ladder: {target.scenario.name}, upload {kind}")
                found.append(_ladder(bench, sidecar, target, uploading=uploading))
    return {"ladders": tuple(found)}


def measure_half(bench: Bench) -> dict[str, object]:
    """Checks at half their ceiling, and the yardstick at that rate and at the same instants; upload running."""
    bench.say("latency at half the ceiling")
    with bench.sidecar("half", "power_loss") as sidecar:
        check = Target(sidecar.server, sidecar.port, payloads.check(CUSTOMERS))
        stage = bench.stage(sidecar, uploading=True)
        rate = _HALF * _ceiling(bench, stage, check, is_yardstick=False)
        middle: dict[str, list[float]] = {"ours": [], "theirs": []}
        uploaded: list[float] = []
        seeds = {"ours": 0, "theirs": 0}

        def p99(whose: str, target: Target) -> float:
            due = schedule(rate, bench.plan.step_seconds, seeds[whose])
            seeds[whose] += 1
            histogram = Latencies.of(_paced(target, due).sample.latencies_us)
            middle[whose].append(histogram.percentile(50))
            return histogram.percentile(99)

        def ours() -> float:
            def round_() -> float:
                with uploads_counted(sidecar, uploaded):
                    return p99("ours", check)

            return stage.tested(check, bench.plan.pace, round_)

        def theirs() -> float:
            return stage.yardstick(lambda: p99("theirs", bench.yardstick))

        name = "CheckAccess at half its ceiling, upload running"
        pairs = in_turn(f"{name}: p99", "µs", ours, theirs, bench.plan.half_rounds)
    half = Half(
        offered_per_second=rate,
        p99_us=pairs,
        p50_us=pairs.model_copy(
            update={
                "name": f"{name}: p50",
                "ours": tuple(round(one, 1) for one in middle["ours"]),
                "theirs": tuple(round(one, 1) for one in middle["theirs"]),
            }
        ),
        uploaded_per_second=tuple(uploaded),
    )
    return {"half": half}


@dataclass(slots=True)
class _Climbing:
    """The rounds of one step."""

    answered: list[float] = field(default_factory=list)
    latencies_us: list[float] = field(default_factory=list)
    late_us: list[float] = field(default_factory=list)
    uploaded: list[float] = field(default_factory=list)
    not_answered: int = 0

    def take(self, paced: Paced, target: Target) -> None:
        verify(target.scenario, paced.sample)
        self.answered.append(len(paced.sample.answers) / paced.sample.seconds)
        self.latencies_us += paced.sample.latencies_us
        self.late_us += paced.late_us
        self.not_answered += paced.not_answered


def _ladder(bench: Bench, sidecar: Sidecar, target: Target, *, uploading: bool) -> Ladder:
    stage = bench.stage(sidecar, uploading=uploading)
    is_yardstick = target is bench.yardstick
    ceiling = _ceiling(bench, stage, target, is_yardstick=is_yardstick)
    steps = []
    for fraction in bench.plan.fractions:
        rate, climbing = fraction * ceiling, _Climbing()
        for number in range(bench.plan.step_rounds):
            due = schedule(rate, bench.plan.step_seconds, number)
            round_ = partial(_paced, target, due)
            if is_yardstick:
                paced = stage.yardstick(round_)
            elif uploading:
                paced = stage.tested(
                    target, bench.plan.pace, partial(_counted, sidecar, climbing.uploaded, round_)
                )
            else:
                paced = stage.tested(target, bench.plan.pace, round_)
            climbing.take(paced, target)
        steps.append(
            Step(
                fraction=fraction,
                offered_per_second=rate,
                answered_per_second=tuple(climbing.answered),
                latencies=Latencies.of(climbing.latencies_us),
                late=Latencies.of(climbing.late_us),
                not_answered=climbing.not_answered,
                uploaded_per_second=tuple(climbing.uploaded),
            )
        )
    return Ladder(
        name=target.scenario.name, uploading=uploading, ceiling_per_second=ceiling, steps=tuple(steps)
    )


def _paced(target: Target, due: list[float]) -> Paced:
    return OpenLoop(target.port).run(target.scenario.method, target.scenario.bodies(), due)


def _counted(sidecar: Sidecar, into: list[float], round_: Callable[[], Paced]) -> Paced:
    with uploads_counted(sidecar, into):
        return round_()


def _ceiling(bench: Bench, stage: Stage, target: Target, *, is_yardstick: bool) -> float:
    pace = bench.plan.pace

    def round_() -> float:
        sample, _ = one_round(target, seconds=pace.seconds, in_flight=pace.in_flight)
        return sample.calls_per_second

    rounds = [
        stage.yardstick(round_) if is_yardstick else stage.tested(target, pace, round_)
        for _ in range(_CEILING_ROUNDS)
    ]
    return median(rounds)
