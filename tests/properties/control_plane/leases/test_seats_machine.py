"""Random interleavings of what sidecars and time do to a gauge, against what callers were told."""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import insert

from control_plane.db.engine import create_engine
from control_plane.db.metadata import all_tables
from control_plane.db.tables import revisions
from control_plane.db.unit_of_work import Database
from control_plane.leases.dead import DeadLeases, declare_dead
from control_plane.leases.gauges import violations
from control_plane.leases.sessions import Superseded
from control_plane.usage.sweep import forget, sweep
from tests.integration.control_plane.conftest import SteppedClock
from tests.integration.control_plane.leases.holder import SETTINGS, Holder
from tests.integration.control_plane.leases.test_gauges import (
    ADD,
    REMOVE,
    SET,
    ask,
    give_up,
    standing,
    used,
    write,
)
from tests.integration.control_plane.leases.test_remote import begun

Answer = TypeVar("Answer")

LIMIT = 2
WHO = ("ann", "bob", "cleo")


class Wish(NamedTuple):
    """What a caller asks for."""

    change: Any
    quantity: int


WISHES = st.sampled_from(
    [Wish(ADD, 1), Wish(ADD, 1), Wish(ADD, 2), Wish(REMOVE, 0), Wish(SET, 1), Wish(SET, 2)]
)


@dataclass
class Sidecar:
    """A holder, what it has to give up, and its earlier incarnations that are not closed."""

    holder: Holder
    came_to_nothing: list[str] = field(default_factory=list)
    earlier: list[Holder] = field(default_factory=list)
    starts: int = 1
    is_dead: bool = False
    """So an operator says. It does not know, and goes on."""


class SeatsMachine(RuleBasedStateMachine):
    """Two sidecars, two seats, three who want them."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = SteppedClock(datetime(2030, 1, 1, 12, tzinfo=UTC))
        self.told: dict[str, int] = dict.fromkeys(WHO, 0)
        """What each holds by what callers were told: nothing but what was acknowledged."""
        self.keys = 0

    def run(self, work: Awaitable[Answer]) -> Answer:
        """Runs it to its end, on the machine's loop."""
        return self.runner.run(_await(work))

    @initialize()
    def begin(self) -> None:
        """Nobody holds anything."""
        self.run(self._begin())

    async def _begin(self) -> None:
        engine = create_engine(f"sqlite+aiosqlite:///{Path(self.folder.name)}/seats.sqlite3")
        async with engine.begin() as connection:
            await connection.run_sync(all_tables().create_all)
            await connection.execute(insert(revisions).values(id=1, generation=1, revision=0))
        self.database = Database(engine, clock=self.clock)
        self.sidecars = [Sidecar(holder) for holder in await begun(self.database, "one", "two")]

    @rule(which=st.integers(0, 1), who=st.sampled_from(WHO), wish=WISHES, works=st.booleans())
    def consume(self, which: int, who: str, wish: Wish, works: bool) -> None:
        """A caller asks; what is allowed is written and acknowledged, or the write fails and nothing is.

        What frees something is always written: others may take it at once, and that is what it costs.
        """
        sidecar = self.sidecars[which]
        self.clock.advance(seconds=1)
        self.keys += 1
        key = f"key-{self.keys}"
        before = self.run(used(self.database))
        asked = ask(
            sidecar.holder,
            who,
            key,
            self.clock(),
            need=wish.quantity,
            adds=wish.change == ADD,
            request_id=key,
        )
        if sidecar.is_dead:
            with pytest.raises(Superseded):
                self.run(asked)
            return
        verdict = self.run(asked)
        if not verdict.allowed:
            return
        if works or verdict.used < before:
            write(sidecar.holder, who, key, self.clock(), wish.change, wish.quantity)
            adds = wish.change == ADD
            self.told[who] = max(self.told[who], wish.quantity) if adds else wish.quantity
        else:
            sidecar.came_to_nothing.append(key)

    @rule(which=st.integers(0, 1))
    def give_up(self, which: int) -> None:
        """What came to nothing is given up at last."""
        sidecar = self.sidecars[which]
        if sidecar.came_to_nothing and not sidecar.is_dead:
            self.run(give_up(sidecar.holder, *sidecar.came_to_nothing))
            sidecar.came_to_nothing = []

    @rule(which=st.integers(0, 1))
    def upload(self, which: int) -> None:
        """The network is there."""
        holder = self.sidecars[which].holder
        if holder.last_seq:
            assert not self.run(holder.upload()).dead_letters

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """The process dies and comes back: it knows what it wrote, and no more."""
        sidecar = self.sidecars[which]
        old = sidecar.holder
        sidecar.starts += 1
        sidecar.earlier.append(old)
        sidecar.came_to_nothing = []
        sidecar.is_dead = False
        new = Holder(self.database, outbox_id=old.outbox_id, incarnation_id=f"inc-{sidecar.starts}")
        sidecar.holder = new
        self.run(new.open(*((earlier.incarnation_id, earlier.last_seq) for earlier in sidecar.earlier)))

    @rule(which=st.integers(0, 1))
    def drain(self, which: int) -> None:
        """Earlier incarnations are uploaded and closed."""
        self.run(self._drain(self.sidecars[which]))

    async def _drain(self, sidecar: Sidecar) -> None:
        for old in sidecar.earlier:
            if old.last_seq:
                await old.upload()
            assert (await sidecar.holder.close(old.incarnation_id, old.last_seq)).ended
        sidecar.earlier = []

    @rule(which=st.integers(0, 1))
    def declare_dead(self, which: int) -> None:
        """An operator takes a sidecar for dead."""
        sidecar = self.sidecars[which]
        sidecar.is_dead = True
        self.run(self._declare_dead(sidecar.holder))

    async def _declare_dead(self, holder: Holder) -> None:
        async with self.database.begin() as uow:
            await declare_dead(uow, holder.name, DeadLeases.QUARANTINE)

    @rule(hours=st.sampled_from([0.1, 1, 25]))
    def time_passes(self, hours: float) -> None:
        """Up to where silence is presumed; the sweep does what is due."""
        self.clock.advance(hours=hours)
        self.run(sweep(self.database, SETTINGS))
        self.run(forget(self.database, SETTINGS))

    @invariant()
    def nothing_is_oversold(self) -> None:
        """Callers were never told of more seats than there are, and the books agree with themselves."""
        if hasattr(self, "sidecars"):
            assert sum(self.told.values()) <= LIMIT, self.told
            self.run(self._check())

    async def _check(self) -> None:
        async with self.database.read() as uow:
            assert await violations(uow) == []
        assert await used(self.database) <= LIMIT

    def teardown(self) -> None:
        """Everything is uploaded and closed: what is held is what callers were told, and nothing is left open."""
        if hasattr(self, "sidecars"):
            self.run(self._settle())
            self.run(self.database.close())
        self.runner.close()
        self.folder.cleanup()

    async def _settle(self) -> None:
        for sidecar in self.sidecars:
            if sidecar.holder.last_seq:
                await sidecar.holder.upload()
            await self._drain(sidecar)
            await sidecar.holder.close(sidecar.holder.incarnation_id, sidecar.holder.last_seq)
        await self._check()
        stands = await standing(self.database)
        assert (stands.spent, stands.presumed) == (sum(self.told.values()), 0)


async def _await(work: Awaitable[Answer]) -> Answer:
    return await work


TestSeats = SeatsMachine.TestCase
TestSeats.__doc__ = (
    "Whatever happens in whatever order, no seat is given twice, and none stays taken for nothing."
)
TestSeats.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
