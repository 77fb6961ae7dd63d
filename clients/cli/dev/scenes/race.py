"""Twenty callers race for six slots."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import purser
from clients.cli.dev.scenes.world import RACE_BALANCE, WINDOW, World, counted

RACERS: Final = 20
RACE_ESTIMATE: Final = Decimal(75)
RACE_MEASURES: Final = {"input_tokens": "25000000", "output_tokens": "0", "context_window": WINDOW}
"""A batch job of 25 million tokens: 75 usd."""


@dataclass(frozen=True, slots=True)
class Race:
    """Twenty reserves at once on a balance with room for six."""

    granted: int
    room: int
    refusals: Counter[str]
    milliseconds: int


def race(world: World) -> Race:
    """All twenty at one instant, spread over the sidecars; those who got a slot then settle all of it."""
    customer, start = world.actor("race"), threading.Barrier(RACERS + 1)

    def one(number: int) -> purser.Reservation:
        start.wait()
        return world.callers.reserve(
            number % len(world.callers), customer, f"race-{world.seed}-{number:02d}", RACE_MEASURES
        )

    with ThreadPoolExecutor(RACERS) as pool:
        running = [pool.submit(one, number) for number in range(RACERS)]
        start.wait()
        began = time.monotonic()
        held = [future.result() for future in running]
        milliseconds = round(1000 * (time.monotonic() - began))
    for number, reservation in enumerate(held):
        if reservation:
            world.callers.settle(
                number % len(world.callers), customer, reservation.reservation_id, RACE_MEASURES, final=True
            )
    refusals = Counter(str(each.decision.reason) for each in held if not each)
    result = Race(sum(map(bool, held)), int(RACE_BALANCE // RACE_ESTIMATE), refusals, milliseconds)
    world.stage.say(
        f"{RACERS} callers × {RACE_ESTIMATE} usd on {RACE_BALANCE} usd, through {len(world.callers)} sidecars at once: "
        f"{result.granted} granted"
    )
    world.stage.say(f"refused: {counted(refusals)}; all answered within {milliseconds} ms")
    return result
