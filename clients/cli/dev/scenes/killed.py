"""A sidecar is killed in mid-stream, and comes back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clients.cli.dev.people import PlannedCall, chunks
from clients.cli.dev.replay import Replay
from clients.cli.dev.scenes.world import WINDOW, TookAnotherTurn, World, drained, eventually

STREAM_OUTPUT: Final = 480
STREAM_INPUT: Final = 2000


@dataclass(frozen=True, slots=True)
class Killed:
    """A sidecar was killed in mid-stream."""

    state: str
    chunks_before: int
    chunks: int
    events: int
    repeated: int
    seconds_away: float


def killed(world: World, calls: Sequence[PlannedCall]) -> Killed:
    """Replays calls, and in the middle of them kills the last sidecar, which has a long stream of its own under way."""
    customer, sidecar = world.actor("stream"), len(world.callers) - 1
    server, reservation = world.cluster.sidecars[sidecar], f"stream-{world.seed}"
    repeated = world.callers.heard.repeated
    totals = [
        {"input_tokens": str(STREAM_INPUT), "output_tokens": str(tokens), "context_window": WINDOW}
        for tokens in chunks(STREAM_OUTPUT)
    ]
    half = len(totals) // 2

    def progress(done: int) -> None:
        world.stage.progress(done, len(calls))

    with Replay(world.callers, calls) as replay:
        held = world.callers.reserve(sidecar, customer, reservation, totals[-1])
        if not held:
            raise TookAnotherTurn(f"{customer} was refused: {held.decision.reason} {held.decision.message}")
        for measures in totals[:half]:
            world.callers.settle(sidecar, customer, reservation, measures, final=False)
        replay.wait(lambda: replay.done >= len(calls) // 3, progress)
        server.kill()
        began = time.monotonic()
        world.stage.say(
            f"kill -9 of {server.name} after {half} of {len(totals)} chunks, with others under way"
        )
        server.start()
        server.wait_ready()
        away = time.monotonic() - began
        world.stage.say(f"it came back {away:.1f} s later with its outbox and its reservations")
        for measures in totals[half:-1]:
            world.callers.settle(sidecar, customer, reservation, measures, final=False)
        settled = world.callers.settle(sidecar, customer, reservation, totals[-1], final=True)
        replay.finish(progress)
    eventually(lambda: drained(world, customer), f"{customer}'s event is in the books")
    events = len(world.books.events(customer))
    again = world.callers.heard.repeated - repeated
    world.stage.say(
        f"the stream went on and was settled: {settled.reservation.state}, {events} event in the books"
    )
    world.stage.say(f"{again} calls without an answer were repeated with the same key")
    return Killed(settled.reservation.state, half, len(totals), events, again, away)
