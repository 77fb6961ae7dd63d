"""What one run measured, as it is kept in JSON: every round, nothing derived. The page is made of this alone."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

_GROWTH = 1.02  # each bucket of a histogram is so much wider than the one before: a percentile is true to 1 %


def _shortened(value: float) -> float:
    return float(f"{value:.5g}")


Figure = Annotated[float, AfterValidator(_shortened)]  # five digits: noise has fewer
Figures = tuple[Figure, ...]


class Raw(BaseModel):
    """Data, read as strictly as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Latencies(Raw):
    """How often each latency was seen, as (number of a bucket, count)."""

    buckets: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, latencies_us: Iterable[float]) -> Self:
        counts: dict[int, int] = {}
        for latency in latencies_us:
            bucket = math.floor(math.log(max(latency, 1.0)) / math.log(_GROWTH))
            counts[bucket] = counts.get(bucket, 0) + 1
        return cls(buckets=tuple(sorted(counts.items())))

    @property
    def count(self) -> int:
        return sum(count for _, count in self.buckets)

    def percentile(self, percent: float) -> float:
        """The latency that `percent` of the calls do not exceed, in µs: the middle of its bucket."""
        rank, seen = min(self.count - 1, int(self.count * percent / 100)), 0
        for bucket, count in self.buckets:
            seen += count
            if seen > rank:
                return float(_GROWTH ** (bucket + 0.5))
        raise ValueError("no call, no percentile")


class Pairs(Raw):
    """Rounds of ours and of theirs in turn; theirs begin and end, so each of ours stands between two."""

    name: str
    unit: str
    ours: Figures
    theirs: Figures

    @property
    def ratios(self) -> list[float]:
        """Each round of ours over the mean of its neighbours."""
        around = zip(self.theirs, self.theirs[1:], strict=False)
        return [mine / ((a + b) / 2) for mine, (a, b) in zip(self.ours, around, strict=True)]

    @property
    def ratio(self) -> float:
        """The median: a disturbance spoils one round, not the row."""
        return median(self.ratios)


class Calls(Raw):
    """The rounds of one kind of call in a closed loop."""

    name: str
    uploading: bool | None
    in_flight: int
    checks_per_call: int
    calls_per_second: Figures
    ratios: Figures
    latencies: Latencies
    alone: Latencies
    server_us_per_call: Figures
    generator_busy: Figures

    @property
    def rate(self) -> float:
        return median(self.calls_per_second)

    @property
    def ratio(self) -> float | None:
        """To the yardstick; the yardstick itself has none."""
        return median(self.ratios) if self.ratios else None

    @property
    def generator_was_the_limit(self) -> bool:
        return median(self.generator_busy) > 0.85


class Step(Raw):
    """One rate of an open loop."""

    fraction: float
    offered_per_second: Figure
    answered_per_second: Figures
    latencies: Latencies  # from the intended instant of each call
    late: Latencies  # how much later than intended the generator sent
    not_answered: int  # refused, or not even sent when the step was given up
    uploaded_per_second: Figures = ()


class Ladder(Raw):
    """Rates up to what a server can do, each with its latencies."""

    name: str
    uploading: bool | None
    ceiling_per_second: Figure
    steps: tuple[Step, ...]


class Half(Raw):
    """Latencies of checks at half their ceiling, beside the yardstick's at that rate; upload running."""

    offered_per_second: Figure
    p99_us: Pairs
    p50_us: Pairs
    uploaded_per_second: Figures


class Peer(Raw):
    """A server of somebody else, asked as much as ours."""

    version: str = ""
    why_not: str = ""  # it was not measured
    calls_per_second: Pairs | None = None
    cpu_us_per_call: Pairs | None = None


class Engine(Raw):
    """A decision without a server around it: CPU time, beside the CPU time of the bare server's call."""

    decision_us: Pairs
    parts_us: dict[str, Figures]
    """What it is made of, each measured by itself."""


class Population(Raw):
    """A sidecar with a bounded cache, of a control plane that knows so many customers."""

    customers: int
    server_us_per_call: Figures
    calls_per_second: Figures


class Populations(Raw):
    """From few customers to many."""

    customers_max: int
    hot: int
    cold_every: int
    rows: tuple[Population, ...]


class Memory(Raw):
    """What a sidecar grew by, for each customer it came to know."""

    name: str
    customers: int
    bytes_per_customer: Figures
    """Of those that are cached, while as many as there is room for are in use."""
    in_use_max: int = 0
    bytes_in_use: Figures = ()
    """Of those that came to be in use before."""


class Fleet(Raw):
    """From a publish until the last of many sidecars decides by it."""

    sidecars: int
    sent_ms: Figures
    """From the request that publishes."""
    returned_ms: Figures
    """From the answer to it; below nothing where the fleet was faster."""
    middle_ms: Figures
    """From the request, until half of the fleet decides by it."""
    alone_ms: Figures = ()
    """From the answer until the only sidecar of a fleet of one decides by it."""
    cpu_ms: Figures = ()
    """Of one sidecar's process, with the client in it, from being asked to having answered; the fleet's median."""
    bare_ms: Figures = ()
    """From the publish until the last of as many bare processes has answered, on the same core."""


class Pace(Raw):
    """How long, and how often."""

    rounds: int
    seconds: float
    in_flight: int
    threads: int


class Run(Raw):
    """One whole run. What was not asked for is None, or empty."""

    format: Literal[1] = 1
    machine: dict[str, str]
    pace: Pace
    minutes: Figure = 0.0
    core_stolen: Figure = 0.0
    calls: tuple[Calls, ...] = ()
    uploaded_per_second: dict[str, Figure] = {}
    ceilings: tuple[Calls, ...] = ()
    ladders: tuple[Ladder, ...] = ()
    half: Half | None = None
    peer: Peer | None = None
    engine: Engine | None = None
    populations: Populations | None = None
    memory: tuple[Memory, ...] = ()
    start_seconds: dict[str, Figures] = {}
    reports: tuple[Pairs, ...] = ()
    leases: tuple[Pairs, ...] = ()
    fleet: Fleet | None = None
    failed: dict[str, str] = {}
    """Rows that did not come to an end, and why."""


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, the lowest and the highest."""
    return median(values), min(values), max(values)
