"""What a seed says: a whole history, drawn before it happens. And what is sold in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final

from control_plane.config import Settings as PlaneSettings
from sidecar.outbox.port import Durability
from tests.simulation.network import Weather

TROUBLE_SECONDS: Final = 15.0
"""How long things happen; then everything is mended."""

MAX_STALENESS: Final = 6
"""Seconds that a sidecar which hears nothing may finish its leases."""

PLANE: Final = PlaneSettings(
    lease_ttl="PT4S",  # type: ignore[arg-type]
    rate_ttl="PT4S",  # type: ignore[arg-type]
    grace="PT1S",  # type: ignore[arg-type]
    quarantine_timeout="PT30S",  # type: ignore[arg-type]
    max_staleness=f"PT{MAX_STALENESS}S",  # type: ignore[arg-type]
)


IMPATIENT: Final = PLANE.model_copy(update={"quarantine_timeout": timedelta(seconds=MAX_STALENESS + 1)})
"""As soon as may be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the catalog bounds, and who publishes it may change."""

    calls: int = 60
    pages: int = 40
    seats: int = 3


SOFT_CAP: Final = 10
"""So many pages go beyond their limit."""
BUDGET: Final = 60
"""Of credits per hour, beside a wallet."""
RATE: Final = 15
RATE_SECONDS: Final = 5
HOUR: Final = timedelta(hours=1)


def catalog(limits: Limits) -> str:
    """Everything that is sold."""
    return f"""
purser: catalog/v1
units:
  credit: {{name: credit, kind: credit, scale: 0}}
meters:
  calls: {{event: call, aggregate: count}}
  pages: {{event: page, aggregate: sum, of: [points]}}
  pings: {{event: ping, aggregate: count}}
rate_cards:
  jobs: {{event: job, unit: credit, prices: [{{dimension: points, per: 1, price: "1"}}]}}
  tasks: {{event: task, unit: credit, prices: [{{dimension: points, per: 1, price: "1"}}]}}
features:
  jobs: {{type: metered, event: job, rate_card: jobs, trouble: {{max_staleness: PT{MAX_STALENESS}S}}}}
  calls: {{type: metered, meter: calls, trouble: {{on_unreachable: deny, max_staleness: PT{MAX_STALENESS}S}}}}
  pages: {{type: metered, meter: pages, trouble: {{max_staleness: PT{MAX_STALENESS}S}}}}
  pings: {{type: metered, meter: pings, trouble: {{on_unreachable: deny, max_staleness: PT{MAX_STALENESS}S}}}}
  tasks: {{type: metered, event: task, rate_card: tasks, trouble: {{max_staleness: PT{MAX_STALENESS}S}}}}
  seats: {{type: gauge, trouble: {{max_staleness: PT{MAX_STALENESS}S}}}}
plans:
  prepaid: {{entitlements: {{jobs: {{spends: credit}}}}}}
  metered: {{entitlements: {{calls: {{limit: {limits.calls}, every: P1M}}}}}}
  hourly:
    entitlements:
      pages: {{limit: {limits.pages}, every: PT1H, anchor: calendar, overage: {{allow_up_to: {SOFT_CAP}}}}}
  paced: {{entitlements: {{pings: {{limit: 100000, rate: [{{limit: {RATE}, per: PT{RATE_SECONDS}S}}]}}}}}}
  capped:
    entitlements: {{tasks: {{spends: credit}}}}
    budgets: [{{name: cap, scope: customer, unit: credit, limit: "{BUDGET}", every: PT1H, anchor: calendar}}]
  team: {{entitlements: {{seats: {{limit: {limits.seats}}}}}}}
"""


@dataclass(frozen=True, slots=True)
class Sold:
    """What a customer is on, and uses."""

    plan: str
    feature: str
    event: str = ""
    """Empty: a gauge has holders, and no events."""
    counts: bool = False
    """Each event is one, whatever it measures; else it is as many as its points."""
    finishes: bool = True
    """Whoever is cut off may finish its leases."""


CUSTOMERS: Final = {
    "acme": Sold("prepaid", "jobs", "job"),
    "ring": Sold("metered", "calls", "call", counts=True, finishes=False),
    "page": Sold("hourly", "pages", "page"),
    "pace": Sold("paced", "pings", "ping", counts=True, finishes=False),
    "task": Sold("capped", "tasks", "task"),
    "team": Sold("team", "seats", counts=True),
}


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant of credits. Seconds count from the beginning; None: at once, for good."""

    customer_id: str
    amount: int
    begins: float | None = None
    ends: float | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """Something that happens at an instant. `what` names a method of `Callers`, `Faults` or `Offers`; a part of a
    history that fails can be left out, and the rest stays as it was.
    """

    at: float
    what: str
    node: int = 0
    number: int = 0
    amount: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Story:
    """A whole history, before it happens."""

    seed: int
    durabilities: tuple[Durability, ...]
    """Of each sidecar."""
    replicas: int
    weather: Weather
    grants: tuple[Granted, ...]
    acts: tuple[Act, ...]
    commit_seconds: float = 0.0
    """The longest that the control plane's database takes for a transaction: meanwhile the next ones wait."""
    customers_max: int = len(CUSTOMERS)
    """How many a sidecar has room for; those that it owes nothing make room for others."""
    is_impatient: bool = False
    """Is what expired leases may have spent presumed to be spent before many come back and say it?"""

    @property
    def is_calm(self) -> bool:
        """Does nothing go wrong, and does nobody change what is offered? Then nobody has a reason to wait for long."""
        is_fair = (
            not self.weather.loss and self.weather.longest_delay <= CALM_DELAY and not self.commit_seconds
        )
        return is_fair and all(act.what in VERBS for act in self.acts)

    @property
    def loses(self) -> bool:
        """May a disk forget what its sidecar knew?"""
        return any(act.what in _LOSING for act in self.acts)

    @property
    def hurts_sidecars(self) -> bool:
        """Or only the control plane?"""
        return any(act.what in _OF_SIDECARS for act in self.acts)


_OF_SIDECARS: Final = {
    "kill", "crash_soon", "stop", "pause", "refuse", "silence", "disk_full", "disk_fails", "put_back", "vanish",
    "reboot", "rot",
}  # fmt: skip

CALM_DELAY: Final = 0.05
_LOSING: Final = {"put_back", "vanish", "reboot", "rot"}

FAULTS: Final = (
    "kill", "crash_soon", "stop", "pause", "refuse", "silence", "set_wall",
    "disk_full", "disk_fails", "disk_slow", "put_back", "vanish", "reboot", "rot",
    "kill_replica", "restore",
)  # fmt: skip
_BEFORE: Final = {"put_back": "keep_disk", "restore": "back_up"}
"""What must have happened a while before."""

OFFERS: Final = ("limits", "grant", "suspend", "resume")
"""What staff does meanwhile."""

VERBS: Final = {
    "consume_job": 6,
    "consume_call": 3,
    "consume_page": 3,
    "consume_ping": 3,
    "consume_task": 3,
    "add_seat": 2,
    "remove_seat": 1,
    "report_job": 2,
    "report_page": 1,
    "reserve_job": 3,
    "reserve_task": 1,
    "check": 2,
}
"""What callers ask, and how often."""


def story(seed: int, kinds: Sequence[str] = ()) -> Story:
    """What this seed says. `kinds`: of faults, or of offers; none: a few faults, by the seed."""
    random = Random(seed)
    sidecars, replicas = random.choice([1, 2, 2, 3, 4]), random.choice([1, 1, 2])
    usual = random.choice(list(Durability))
    durabilities = tuple(
        usual if random.random() < 0.7 else random.choice(list(Durability)) for _ in range(sidecars)
    )
    weather = Weather(
        longest_delay=random.choice([0.005, 0.05, 0.5, 3.0]),
        loss=random.choice([0.0, 0.0, 0.02, 0.2]),
        repeat=random.choice([0.0, 0.05, 0.3]),
    )
    acts = [*_uses(random, sidecars), *_offers(random)]
    if seed % 20 == 19 and not kinds:
        return _calm(seed, durabilities, replicas, acts, random)
    # Few kinds of faults at a time find more than all of them always: swarm testing, Groce et al. 2012.
    chosen = random.sample(FAULTS, random.choice([1, 2, 3, len(FAULTS)]))
    for _ in range(random.choice([0, 2, 4, 8])):
        at = random.uniform(1.0, TROUBLE_SECONDS)
        what = random.choice(kinds or chosen)
        node = random.randrange(sidecars)
        acts.append(Act(at, what, node, random.randrange(40), 0, random.expovariate(0.5)))
        if what in _BEFORE:
            acts.append(Act(max(0.7, at - random.uniform(0.2, 6.0)), _BEFORE[what], node))
    acts.sort(key=lambda act: act.at)
    commit_seconds = Random(f"{seed} commits").choice([0.02, 0.1, 0.4]) if seed % 4 == 0 else 0.0
    customers_max = Random(f"{seed} room").choice([1, 2, 3]) if seed % 4 == 1 else len(CUSTOMERS)
    return Story(
        seed,
        durabilities,
        replicas,
        weather,
        _grants(random),
        tuple(acts),
        commit_seconds,
        customers_max,
        is_impatient=seed % 4 == 2,
    )


def _calm(
    seed: int, durabilities: tuple[Durability, ...], replicas: int, acts: Sequence[Act], random: Random
) -> Story:
    """Nothing goes wrong, and nobody changes what is offered: what is refused or kept then is so for no reason."""
    weather = Weather(longest_delay=random.choice([0.005, CALM_DELAY]), loss=0.0, repeat=0.0)
    used = tuple(act for act in acts if act.what in VERBS)
    return Story(seed, durabilities, replicas, weather, _grants(random), used)


def _uses(random: Random, sidecars: int) -> list[Act]:
    # So with what is asked: all callers after one balance, or each after another.
    verbs = random.sample(list(VERBS), random.choice([2, 4, len(VERBS)]))
    weights = [VERBS[verb] for verb in verbs]
    pace = random.choice([1.0, 5.0, 20.0])
    acts: list[Act] = []
    at = 0.5
    while at < TROUBLE_SECONDS:
        verb = random.choices(verbs, weights)[0]
        amount = random.choice([1, 1, 2, 5, 10, 40])
        acts.append(Act(at, verb, random.randrange(sidecars), len(acts) + 1, amount, random.expovariate(0.3)))
        at += random.expovariate(pace)
    return acts


def _offers(random: Random) -> list[Act]:
    chosen = random.sample(OFFERS, random.choice([1, 2, len(OFFERS)]))
    return [
        Act(
            random.uniform(1.0, TROUBLE_SECONDS),
            random.choice(chosen),
            number=random.randrange(1000),
            amount=random.choice([0, 5, 20, 80]),
            seconds=random.expovariate(0.3),
        )
        for _ in range(random.choice([0, 1, 3]))
    ]


def _grants(random: Random) -> tuple[Granted, ...]:
    grants = [Granted("acme", random.choice([20, 100, 300])), Granted("task", random.choice([30, 100]))]
    for _ in range(random.randint(0, 2)):
        amount = random.choice([20, 100, 300])
        begins = random.choice([None, random.uniform(2.0, 12.0)])
        ends = random.choice([None, (begins or 0.0) + random.uniform(3.0, 10.0)])
        grants.append(Granted(random.choice(["acme", "acme", "task"]), amount, begins, ends))
    return tuple(grants)
