"""What time alone brings about: expiry, other limits, quarantine, and forgetting what is old enough."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from control_plane.config import Settings
from control_plane.db.unit_of_work import Database, UnitOfWork
from control_plane.feed.history import forget_history
from control_plane.leases.letting_go import forget_lapsed, sweep_verdicts
from control_plane.leases.quarantine import forget_replies, sweep_leases
from control_plane.ledger.expiry import sweep_grants
from control_plane.ledger.limits import sweep_limits
from control_plane.metrics import Metrics
from control_plane.rest.changes import forget_answers
from control_plane.usage.dead_letters import count_dead_letters
from control_plane.usage.keys import forget_keys
from control_plane.usage.statuses import EventStatus, count_events

CLEAN_UP_EVERY = timedelta(minutes=1)

Step = Callable[[UnitOfWork], Awaitable[int]]


class Sweeper:
    """Every replica may run one: each step is a transaction of its own and locks what it touches."""

    def __init__(self, database: Database, settings: Settings, metrics: Metrics) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics
        self._steps: Mapping[str, Step] = {
            "grants": sweep_grants,
            "limits": lambda uow: sweep_limits(uow, settings.leases),
            "leases": lambda uow: sweep_leases(uow, settings.leases),
            "verdicts": lambda uow: sweep_verdicts(uow, settings.leases),
        }
        self._cleaning: Mapping[str, Step] = {
            "feed": lambda uow: forget_history(uow, before=uow.now - settings.feed_kept),
            "answers": lambda uow: forget_answers(uow, before=uow.now - settings.keys_kept),
            "keys": self._forget_keys,
            "replies": self._forget_replies,
            "dead_letters": self._count_dead_letters,
            "unrated": self._count_unrated,
        }

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
        """One round."""
        steps = {**self._steps, **self._cleaning} if clean_up else self._steps
        for name, step in steps.items():
            try:
                rows = await self._database.transact(step)
            except (SQLAlchemyError, OSError) as error:
                self._metrics.sweeps.labels(name, "failed").inc()
                log = structlog.get_logger("control_plane.sweeper")
                log.warning("sweep_failed", step=name, error=str(error))
            except Exception:  # noqa: BLE001 - a bug in one step must not stop the others, nor the next round
                self._metrics.sweeps.labels(name, "failed").inc()
                structlog.get_logger("control_plane.sweeper").exception("sweep_failed", step=name)
            else:
                self._metrics.sweeps.labels(name, "done").inc()
                self._metrics.swept.labels(name).inc(rows)

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
