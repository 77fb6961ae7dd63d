"""A herd: up to a thousand sidecars whose control plane dies and comes back, all at the same instant.

Everything is as in a history (`world.py`), and nothing else goes wrong: what is looked at is how long the return takes,
and whether it does harm. The control plane's database takes a while for each transaction, one after the other, and
everybody hears of the return at once: no jitter of a network helps.
"""

import argparse
import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Final

from sidecar.engine.decision import ViewSource
from sidecar.outbox.port import Durability
from tests.simulation.network import Weather
from tests.simulation.runs import workshop
from tests.simulation.story import Act, Granted, Story
from tests.simulation.world import World, listen

COMMIT_SECONDS: Final = 0.004
"""The longest that a transaction takes: half of it on average, so that five hundred go through in a second."""
CALM_SECONDS: Final = 20.0
AWAY_SECONDS: Final = 10.0
WATCHED_SECONDS: Final = 45.0
"""Longer than any backoff: who comes again comes within this time."""
PAUSE_SECONDS: Final = 40.0
"""Between two calls of one sidecar."""
TOO_LONG_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """How it went; seconds are virtual."""

    sidecars: int
    all_back_seconds: float
    slowest_transaction_seconds: float
    """Of somebody else, from when everybody is told of the return on."""
    streams_again: int
    """How often a stream came, from the control plane's death on."""
    streams_broken_later: int
    """Of those, after all were back."""
    sessions_asked: int
    """How often a session was asked for, from the control plane's death on."""
    accepted: int
    refused: int
    violations: list[str]


class HerdWorld(World):
    """The same control plane, sidecars and callers, and another history."""

    def __init__(self, sidecars: int, folder: Path, template: Path) -> None:
        told = Story(
            seed=sidecars,
            durabilities=(Durability.PROCESS_CRASH,) * sidecars,
            replicas=1,
            weather=Weather(longest_delay=0.02),
            grants=(Granted("acme", 1_000_000), Granted("task", 100)),
            acts=(),
            commit_seconds=COMMIT_SECONDS,
        )
        super().__init__(told, folder, template)
        self._acts = count(1)
        self._is_over = False
        self._slowest = 0.0
        self.returned: Returned | None = None

    async def _run(self) -> None:
        nodes, oracle = self.stage.nodes, self.oracle
        await self.plane.start_replica()
        await self.offers.found()
        for node in nodes:
            node.start()
        callers = self.hub.loop.create_task(self._call())
        await self._when(self._all_live, "all sidecars are connected")
        await asyncio.sleep(CALM_SECONDS)
        before, asked = self._streams(), self._sessions_asked()
        dies = Act(self.hub.time(), "kill_replica", seconds=AWAY_SECONDS)
        self.faults.kill_replica(dies)
        await self._when(lambda: bool(self.plane.alive), "a replica is back")
        came_back = self.hub.time()
        others = self.hub.loop.create_task(self._ask_as_others_do())
        await self._when(self._all_live, "all are back")
        took, back = self.hub.time() - came_back, self._streams()
        await asyncio.sleep(WATCHED_SECONDS)
        self._is_over = True
        await asyncio.gather(callers, others)
        self.returned = Returned(
            sidecars=len(nodes),
            all_back_seconds=round(took, 2),
            slowest_transaction_seconds=round(self._slowest, 2),
            streams_again=back - before,
            streams_broken_later=self._streams() - back,
            sessions_asked=self._sessions_asked() - asked,
            accepted=oracle.counts["accepted"],
            refused=oracle.counts["refused"],
            violations=oracle.violations,
        )
        await self._heal()
        await self._check_all()

    async def _when(self, holds: Callable[[], bool], what: str) -> None:
        ends_at = self.hub.time() + TOO_LONG_SECONDS
        while not holds():
            if self.hub.time() > ends_at:
                raise AssertionError(f"after {TOO_LONG_SECONDS} s it does not hold that {what}")
            await asyncio.sleep(0.1)

    def _all_live(self) -> bool:
        """Every one of them hears the control plane."""
        return all(
            node.running is not None
            and node.running.sidecar._pulse.source(node.clock.monotonic()) is ViewSource.LIVE
            for node in self.stage.nodes
        )

    def _streams(self) -> int:
        return sum(node.running.sidecar._pulse.returns for node in self.stage.nodes if node.running)

    def _sessions_asked(self) -> int:
        return sum(wire.calls["OpenSession"] for node in self.stage.nodes for wire in node._wires)

    async def _call(self) -> None:
        """One of them after the other is used, for as long as it lasts."""
        while not self._is_over:
            number = next(self._acts)
            node = number % len(self.stage.nodes)
            self.callers.consume_job(Act(self.hub.time(), "consume_job", node, number, amount=1))
            await asyncio.sleep(PAUSE_SECONDS / len(self.stage.nodes))

    async def _ask_as_others_do(self) -> None:
        """How long somebody waits who is not of the herd."""
        while not self._is_over:
            began = self.hub.time()
            async with self.plane.alive[0].database.begin():
                self._slowest = max(self._slowest, self.hub.time() - began)
            await asyncio.sleep(0.1)


def run_herd(sidecars: int) -> Returned:
    """Runs it, in a process of its own; raises AssertionError when they do not come back."""
    with workshop() as (root, template):
        folder = root / "herd"
        folder.mkdir()
        world = HerdWorld(sidecars, folder, template)
        listen(world.stage)
        world.run()
        assert world.returned is not None, "it has come to its end"
        return world.returned


def main() -> None:
    """`python -m tests.simulation.herd 1000`: prints a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sidecars", type=int)
    print(json.dumps(asdict(run_herd(parser.parse_args().sidecars))))


if __name__ == "__main__":
    main()
