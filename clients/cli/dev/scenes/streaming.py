"""LLM requests stream and settle under way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from clients.cli.dev.people import PlannedCall
from clients.cli.dev.replay import Replay
from clients.cli.dev.scenes.world import World


@dataclass(frozen=True, slots=True)
class Streamed:
    """A part of the replay."""

    requests: int
    milliseconds: int


def streaming(world: World, calls: Sequence[PlannedCall]) -> Streamed:
    """Replays calls: reserve, stream, settle."""
    began = time.monotonic()
    with Replay(world.callers, calls) as replay:
        replay.finish(lambda done: world.stage.progress(done, len(calls)))
    seconds = time.monotonic() - began
    world.stage.say(
        f"{len(calls):,} requests reserved an estimate, streamed and settled: {len(calls) / seconds:,.0f} requests/s"
    )
    return Streamed(len(calls), round(1000 * seconds))
