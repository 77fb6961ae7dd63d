"""One simulated history: what happens is drawn from a seed before it begins, and then befalls the real code."""

import asyncio
import logging
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog

from control_plane.ledger.audit import audit, oversold
from tests.simulation.books import check_books, check_kept, presumed, stranded
from tests.simulation.callers import Callers
from tests.simulation.disk import Disk
from tests.simulation.faults import Faults
from tests.simulation.network import Weather
from tests.simulation.node import Node
from tests.simulation.offers import Offers
from tests.simulation.oracle import Oracle
from tests.simulation.plane import Plane, ids_of
from tests.simulation.stage import Stage
from tests.simulation.story import IMPATIENT, PLANE, TROUBLE_SECONDS, Act, Story
from tests.simulation.threads import Hub, VirtualLoop, as_threads
from tests.simulation.watching import Watch

LAST_NUMBER: Final = 100_000
"""From here on are keys of calls that are made when everything was mended."""
NEWS_SECONDS: Final = 5.0
"""By then all have heard that there is enough: who had a refusal keeps it until the balance changes."""
ANSWER_SECONDS: Final = 30.0
HEAL_SECONDS: Final = 60.0
"""By then everything must have drained."""
AUDIT_SECONDS: Final = 2.0
AUDITED_ONE_IN: Final = 20


@dataclass(slots=True)
class Result:
    """How a history ended."""

    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)


class World:
    """Everything of one history."""

    def __init__(self, told: Story, folder: Path, template: Path, *, log: bool = False) -> None:
        self.loop = VirtualLoop()
        self.hub = Hub(self.loop, Random(f"{told.seed} threads"))
        self.oracle = Oracle()
        settings = IMPATIENT if told.is_impatient else PLANE
        self.plane = Plane(self.hub, folder, template, settings, told.commit_seconds)
        weather = Weather(told.weather.longest_delay, told.weather.loss, told.weather.repeat)
        self.stage = Stage(told, self.hub, self.oracle, self.plane, weather, log)
        self.stage.nodes += [self._node(number, folder) for number in range(len(told.durabilities))]
        self.offers, self.faults, self.callers = Offers(self.stage), Faults(self.stage), Callers(self.stage)
        self.watch = Watch(self.hub, self.oracle)
        self._audit_at = 0.0

    def _node(self, number: int, folder: Path) -> Node:
        told, name = self.stage.story, f"sidecar-{number}"
        disk = Disk(self.hub, folder / name, Random(f"{told.seed} disk {number}"))
        random = Random(f"{told.seed} node {number}")
        servers = lambda: self.plane.alive  # noqa: E731 read each time
        return Node(
            self.hub,
            random,
            name,
            disk,
            servers,
            self.stage.weather,
            durability=told.durabilities[number],
            customers_max=told.customers_max,
        )

    # The history

    def run(self) -> Result:
        """From the beginning to the end, when everything was mended."""
        asyncio.set_event_loop(self.loop)
        try:
            with as_threads(self.hub), self.watch.on():
                self.loop.run_until_complete(self._run())
        finally:
            self._close()
        return Result(self.oracle.violations, dict(self.oracle.counts), self.stage.log)

    def _close(self) -> None:
        self.hub.close([process for node in self.stage.nodes for process in node.processes])
        for node in self.stage.nodes:
            node.disk.pull()
        self.loop.run_until_complete(self.plane.close())
        self.loop.close()
        asyncio.set_event_loop(None)

    async def _run(self) -> None:
        for _ in range(self.stage.story.replicas):
            await self.plane.start_replica()
        await self.offers.found()
        for node in self.stage.nodes:
            node.start()
        for act in self.stage.story.acts:
            await self._until(act.at)
            self.stage.say(f"{act}")
            found = self._method(act)(act)
            if asyncio.iscoroutine(found):
                await found
        await self._until(TROUBLE_SECONDS)
        await self._heal()
        await self._serve()
        await self._heal()
        await self._check_all()

    def _method(self, act: Act) -> Callable[[Act], Any]:
        """What happens."""
        who = next(one for one in (self.callers, self.faults, self.offers) if hasattr(one, act.what))
        method: Callable[[Act], Any] = getattr(who, act.what)
        return method

    async def _until(self, at: float) -> None:
        while self.hub.time() < at:
            await asyncio.sleep(min(at - self.hub.time(), AUDIT_SECONDS))
            await self._audit()
            if self.hub.failures:
                self.oracle.violations += self.hub.failures
                self.hub.failures = []

    async def _heal(self) -> None:
        await self.faults.mend()
        ends_at = self.hub.time() + HEAL_SECONDS
        while self.hub.time() < ends_at:
            await self._until(self.hub.time() + 2.0)
            for node in self.stage.nodes:
                node.start()
            if await self._is_at_rest():
                return

    async def _serve(self) -> None:
        """Every sidecar does again what it is there for: there are credits for all, and it records and decides."""
        await self.offers.give_enough()
        await self._until(self.hub.time() + NEWS_SECONDS)
        numbers = list(range(LAST_NUMBER, LAST_NUMBER + 2 * len(self.stage.nodes)))
        for number in numbers:
            verb = self.callers.report_job if number % 2 else self.callers.consume_job
            verb(Act(self.hub.time(), verb.__name__, (number - LAST_NUMBER) // 2, number, amount=1))
        ends_at = self.hub.time() + ANSWER_SECONDS
        while any(not self.oracle.uses[f"k{number}"].was_accepted for number in numbers):
            if self.hub.time() > ends_at:
                break
            await self._until(self.hub.time() + 1.0)
        for number in numbers:
            if not (use := self.oracle.uses[f"k{number}"]).was_accepted:
                self.oracle.violations.append(f"unserved: {use.key} was not accepted: {use.told}")

    async def _is_at_rest(self) -> bool:
        generation = self.plane.generation()
        return all(node.knows(generation) and not node.unsent for node in self.stage.nodes) and not (
            await stranded(self.plane, self.oracle, self.hub.time())
        )

    # Checking

    async def _audit(self) -> None:
        if self.plane.alive and self.hub.time() >= self._audit_at:
            # Each step of some histories, and now and then in all of them: it takes time.
            seconds = 0.0 if self.stage.story.seed % AUDITED_ONE_IN == 0 else AUDIT_SECONDS
            self._audit_at = self.hub.time() + seconds
            await self._look_at_the_books()
            if self.stage.story.is_calm:
                at = self.hub.time()
                long_ago = at - (PLANE.lease_ttl + PLANE.grace).total_seconds()
                self.oracle.violations += await stranded(self.plane, self.oracle, at, ended_before=long_ago)

    async def _look_at_the_books(self) -> None:
        async with self.plane.alive[0].database.read() as uow:
            self.oracle.violations += await audit(uow)
            if not self.plane.restores and (amount := await oversold(uow)):
                self.oracle.violations.append(f"the books are oversold by {amount}")
            if not self.plane.restores:
                await check_kept(uow, self.oracle, self.hub.time())

    async def _check_all(self) -> None:
        generation = self.plane.generation()
        for node in self.stage.nodes:
            if node.running is None:
                self.oracle.violations.append(f"{node.name} does not run")
            elif not node.knows(generation):
                self.oracle.violations.append(f"{node.name} has not opened a session of {generation}")
            elif node.unsent:
                self.oracle.violations.append(f"{node.name} has {node.unsent} records that were not sent")
        self.oracle.violations += await stranded(self.plane, self.oracle, self.hub.time())
        if not self.plane.restores and not self.stage.story.loses:
            self.oracle.violations += await presumed(self.plane, self.oracle, self.hub.time())
        await self._look_at_the_books()
        told = self.stage.story
        await check_books(self.plane, self.oracle, self.watch, self.offers, told, self.hub.time())


def simulate(told: Story, folder: Path, template: Path, *, log: bool = False) -> Result:
    """Runs a history in an empty folder."""
    folder.mkdir(parents=True)
    with ids_of(f"{told.seed} ids"):
        world = World(told, folder, template, log=log)
        listen(world.stage)
        return world.run()


def listen(stage: Stage) -> None:
    """Logs go into the history's own log. One of an error that nobody foresaw breaks a promise, whoever caught it."""

    def sink(_logger: Any, name: str, fields: MutableMapping[str, Any]) -> Any:
        what = " ".join(f"{key}={value}" for key, value in fields.items() if key != "event")
        stage.say(f"    [{name}] {fields.get('event')} {what}"[:400])
        if error := fields.get("exc_info"):
            cause = error if isinstance(error, BaseException) else sys.exception()
            stage.oracle.violations.append(f"unforeseen: {fields.get('event')}: {cause!r}")
        raise structlog.DropEvent

    structlog.configure(
        processors=[sink], logger_factory=structlog.stdlib.LoggerFactory(), cache_logger_on_first_use=False
    )
    logging.disable(logging.CRITICAL)
