"""The control plane is unplugged, and comes back."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from clients.cli.dev.scenes.world import LOOK_SECONDS, WINDOW, World, counted, drained, eventually

OUTAGE_EACH: Final = Decimal("0.03")
OUTAGE_MEASURES: Final = {"input_tokens": "10000", "output_tokens": "0", "context_window": WINDOW}
OUTAGE_SECONDS: Final = 4.0
WARM_CALLS: Final = 30
WARM_PAUSE_SECONDS: Final = 0.03


@dataclass(frozen=True, slots=True)
class Unplugged:
    """The control plane was away."""

    leased: Decimal
    spent: Decimal
    each: Decimal
    sidecars: int
    refusals: Counter[str]
    oldest_seconds: float
    sources: frozenset[str]
    fact_taken: bool
    stranger_reason: str
    stranger_milliseconds: int
    drained_seconds: float


def unplugged(world: World) -> Unplugged:
    """Kills the control plane, spends what is leased, and plugs it in again."""
    customer, callers = world.actor("outage"), world.callers
    leased = _leased(world, customer)
    world.cluster.control_plane.kill()
    world.stage.say(f"kill -9 of the control plane; {customer}'s leases hold {leased} usd")
    allowed, refusals = _spend(world, customer)
    spent = allowed * OUTAGE_EACH
    world.stage.say(f"{allowed} × {OUTAGE_EACH} usd = {spent} usd of it spent, then: {counted(refusals)}")
    oldest, sources = _watch_age(world, customer)
    world.stage.say(f"answers went on: {', '.join(sorted(sources))}, up to {oldest:.1f} s old, and said so")
    fact = callers.report(0, customer, f"outage-{world.seed}-fact", OUTAGE_MEASURES)
    began = time.monotonic()
    stranger = callers.check(0, "stranger", feature="sso")
    milliseconds = round(1000 * (time.monotonic() - began))
    world.stage.say(f"a fact: {fact.status}; an unknown customer: {stranger.reason} in {milliseconds} ms")
    world.cluster.control_plane.start()
    world.cluster.control_plane.wait_ready()
    drained_seconds = eventually(lambda: drained(world, customer), f"{customer}'s usage is in the books")
    eventually(lambda: _all_live(world, customer), "every sidecar is connected again")
    world.stage.say(f"it is back: everything was in the books {drained_seconds:.1f} s later")
    return Unplugged(
        leased,
        spent,
        OUTAGE_EACH,
        len(callers),
        refusals,
        oldest,
        sources,
        bool(fact),
        str(stranger.reason),
        milliseconds,
        drained_seconds,
    )


def _all_live(world: World, customer: str) -> bool:
    sources = {
        world.callers.check(sidecar, customer, feature="models").freshness.source
        for sidecar in range(len(world.callers))
    }
    return sources == {"LIVE"}


def _leased(world: World, customer: str) -> Decimal:
    """Some demand through each sidecar, so that each holds a lease; then what is leased once it stands still."""
    for number in range(WARM_CALLS):
        world.callers.consume(
            number % len(world.callers), customer, f"warm-{world.seed}-{number:02d}", OUTAGE_MEASURES
        )
        time.sleep(WARM_PAUSE_SECONDS)
    eventually(lambda: drained(world, customer), f"{customer}'s usage is in the books")
    seen: list[Decimal] = []

    def stands_still() -> bool:
        seen.append(world.books.balances(customer)["wallet:usd"].leased)
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    eventually(stands_still, f"{customer}'s leases stand still")
    return seen[-1]


def _watch_age(world: World, customer: str) -> tuple[float, frozenset[str]]:
    began, oldest, sources = time.monotonic(), 0.0, set[str]()
    while (passed := time.monotonic() - began) < OUTAGE_SECONDS:
        for sidecar in range(len(world.callers)):
            fresh = world.callers.check(sidecar, customer, feature="models").freshness
            age = fresh.age.total_seconds() if fresh.age else 0.0
            oldest = max(oldest, age)
            if passed > OUTAGE_SECONDS / 2:  # by then it has noticed
                sources.add(fresh.source)
            world.stage.tick(f"sidecar {sidecar + 1} answers: {fresh.source}, {age:.1f} s old")
        time.sleep(LOOK_SECONDS)
    world.stage.tick("")
    return oldest, frozenset(sources)


def _spend(world: World, customer: str) -> tuple[int, Counter[str]]:
    """Consumes through each sidecar until it refuses."""
    allowed, refusals = 0, Counter[str]()
    for sidecar in range(len(world.callers)):
        while True:
            key = f"outage-{world.seed}-{allowed:04d}-{sidecar}"
            answer = world.callers.consume(sidecar, customer, key, OUTAGE_MEASURES)
            if not answer:
                refusals[str(answer.reason)] += 1
                break
            allowed += 1
            world.stage.tick(f"sidecar {sidecar + 1} spends its slices: {allowed * OUTAGE_EACH} usd")
    world.stage.tick("")
    return allowed, refusals
