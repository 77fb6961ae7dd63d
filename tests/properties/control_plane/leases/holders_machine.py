"""What the state machines of leases and seats share: two sidecars, a database, a clock, and what comes over them."""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control_plane.db.unit_of_work import Database
from control_plane.leases.dead import DeadLeases, declare_dead
from tests.integration.control_plane.conftest import SteppedClock, empty_database
from tests.integration.control_plane.leases.holder import Holder

Answer = TypeVar("Answer")

SETTINGS = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
WHICH = st.integers(0, 1)
"""Of the sidecars."""


@dataclass
class Sidecar:
    """A holder, and its earlier incarnations that are not closed."""

    holder: Holder
    earlier: list[Holder] = field(default_factory=list)
    starts: int = 1
    is_dead: bool = False
    """So an operator says. It does not know, and goes on."""

    def forget(self) -> None:
        """The process died: what only it knew is gone."""


Kind = TypeVar("Kind", bound=Sidecar)


class HoldersMachine(RuleBasedStateMachine, Generic[Kind]):
    """Sidecars that die, are taken for dead, and come back."""

    database: Database
    sidecars: list[Kind]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = SteppedClock(datetime(2030, 1, 1, 12, tzinfo=UTC))
        self.keys = 0

    def run(self, work: Awaitable[Answer]) -> Answer:
        """Runs it to its end, on the machine's loop."""
        return self.runner.run(_await(work))

    async def open_database(self) -> None:
        """A new one, with all tables."""
        self.database = await empty_database(
            f"sqlite+aiosqlite:///{Path(self.folder.name)}/books.sqlite3", self.clock
        )

    async def check(self) -> None:
        """What holds at each step."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Everything is uploaded and closed, and looked at."""
        raise NotImplementedError

    @rule(which=WHICH)
    def restart(self, which: int) -> None:
        """The process dies and comes back: it knows what it wrote, and spends nothing of what it leased before."""
        sidecar = self.sidecars[which]
        old = sidecar.holder
        sidecar.starts += 1
        sidecar.earlier.append(old)
        sidecar.forget()
        sidecar.is_dead = False
        sidecar.holder = Holder(
            self.database, outbox_id=old.outbox_id, incarnation_id=f"inc-{sidecar.starts}"
        )
        earlier = ((one.incarnation_id, one.last_seq) for one in sidecar.earlier)
        self.run(sidecar.holder.open(*earlier))

    @rule(which=WHICH)
    def declare_dead(self, which: int) -> None:
        """An operator takes a sidecar for dead that runs, and goes on with what it has."""
        sidecar = self.sidecars[which]
        sidecar.is_dead = True
        self.run(self._declare_dead(sidecar.holder))

    async def _declare_dead(self, holder: Holder) -> None:
        async with self.database.begin() as uow:
            await declare_dead(uow, holder.name, DeadLeases.QUARANTINE)

    @rule(which=WHICH)
    def drain(self, which: int) -> None:
        """Earlier incarnations are uploaded and closed."""
        self.run(self.drained(self.sidecars[which]))

    async def drained(self, sidecar: Kind) -> None:
        """The same, on the loop."""
        for old in sidecar.earlier:
            if old.last_seq:
                await old.upload()
            assert (await sidecar.holder.close(old.incarnation_id, old.last_seq)).ended
        sidecar.earlier = []

    @invariant()
    def it_holds(self) -> None:
        """See `check`."""
        if hasattr(self, "sidecars"):
            self.run(self.check())

    def teardown(self) -> None:
        """See `settle`."""
        if hasattr(self, "sidecars"):
            self.run(self.settle())
            self.run(self.database.close())
        self.runner.close()
        self.folder.cleanup()


async def _await(work: Awaitable[Answer]) -> Answer:
    return await work
