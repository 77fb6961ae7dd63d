"""What time alone brings about: expiry, other limits, quarantine, and forgetting what is old enough."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final, NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError

from control_plane.config import Settings
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.feed.history import forget_history
from control_plane.leases import letting_go, quarantine
from control_plane.leases.letting_go import forget_lapsed, sweep_verdicts
from control_plane.leases.quarantine import LeaseSweep, forget_replies
from control_plane.ledger import expiry, limits
from control_plane.ledger.expiry import sweep_grants
from control_plane.ledger.limits import sweep_limits
from control_plane.metrics import Metrics
from control_plane.rest.changes import forget_answers
from control_plane.usage.dead_letters import count_dead_letters
from control_plane.usage.keys import forget_keys
from control_plane.usage.statuses import EventStatus, count_events

CLEAN_UP_EVERY = timedelta(minutes=1)
PORTIONS_MAX: Final = 20
"""Of a step's backlog so many portions are worked off in a round, in turn with the other steps'."""

Work = Callable[[UnitOfWork], Awaitable[int]]


class Step(NamedTuple):
    """Something that is due from time to time."""

    portion: Callable[[bool], Awaitable[int]]
    """Does some of it, in a transaction; answers how much. Is told whether it is the round's first."""
    at_once: int = 0
    """A portion of this size is followed by another. 0: there is only one."""


class Sweeper:
    """Every replica may run one: each portion of a step is a transaction of its own and locks what it touches."""

    def __init__(self, database: Database, settings: Settings, metrics: Metrics) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics
        leases = LeaseSweep(database, settings.leases)
        self._steps: Mapping[str, Step] = {
            "grants": self._step(sweep_grants, expiry.SWEPT_AT_ONCE),
            "limits": self._step(lambda uow: sweep_limits(uow, settings.leases), limits.SWEPT_AT_ONCE),
            "leases": Step(lambda is_first: leases.portion(waits=is_first), quarantine.SWEPT_AT_ONCE),
            "verdicts": self._step(
                lambda uow: sweep_verdicts(uow, settings.leases), letting_go.SWEPT_AT_ONCE
            ),
        }
        self._cleaning: Mapping[str, Step] = {
            "feed": self._step(lambda uow: forget_history(uow, before=uow.now - settings.feed_kept)),
            "answers": self._step(lambda uow: forget_answers(uow, before=uow.now - settings.keys_kept)),
            "keys": self._step(self._forget_keys),
            "replies": self._step(self._forget_replies),
            "dead_letters": self._step(self._count_dead_letters),
            "unrated": self._step(self._count_unrated),
        }

    def _step(self, work: Work, at_once: int = 0) -> Step:
        return Step(lambda is_first: self._database.transact(work), at_once)

    async def run(self) -> None:
        """Goes on until it is cancelled; a step that fails is tried again the next time."""
        every = self._settings.sweep_every.total_seconds()
        rounds = max(1, round(CLEAN_UP_EVERY.total_seconds() / every))
        number = 0
        while True:
            await self.sweep(clean_up=number % rounds == 0)
            number += 1
            await asyncio.sleep(every)

    async def sweep(self, *, clean_up: bool) -> None:
        """One round: a portion of each step, and more of those that come back full."""
        steps = {**self._steps, **self._cleaning} if clean_up else self._steps
        for number in range(PORTIONS_MAX):
            steps = {
                name: step
                for name, step in steps.items()
                if await self._has_more(name, step, is_first=number == 0)
            }
            if not steps:
                return

    async def _has_more(self, name: str, step: Step, *, is_first: bool) -> bool:
        try:
            rows = await step.portion(is_first)
        except (SQLAlchemyError, OSError) as error:
            self._metrics.sweeps.labels(name, "failed").inc()
            log = structlog.get_logger("control_plane.sweeper")
            log.warning("sweep_failed", step=name, error=str(error))
            return False
        except Exception:  # noqa: BLE001 - a bug in one step must not stop the others, nor the next round
            self._metrics.sweeps.labels(name, "failed").inc()
            structlog.get_logger("control_plane.sweeper").exception("sweep_failed", step=name)
            return False
        self._metrics.sweeps.labels(name, "done").inc()
        self._metrics.swept.labels(name).inc(rows)
        return bool(step.at_once) and rows >= step.at_once

    async def _forget_keys(self, uow: UnitOfWork) -> int:
        await forget_keys(uow, days=self._settings.keys_kept.days)
        return 0

    async def _forget_replies(self, uow: UnitOfWork) -> int:
        await forget_replies(uow, self._settings.leases)
        await forget_lapsed(uow)
        return 0

    async def _count_dead_letters(self, uow: UnitOfWork) -> int:
        self._metrics.dead_letters.set(await count_dead_letters(uow))
        return 0

    async def _count_unrated(self, uow: UnitOfWork) -> int:
        self._metrics.unrated_events.set(await count_events(uow, EventStatus.UNRATED))
        return 0
