"""Grants, facts in any order, voids and time, on a real database, against a list that is replayed from zero."""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from control_plane.db.unit_of_work import Database
from control_plane.leases.settings import LeaseSettings
from control_plane.ledger.audit import audit
from control_plane.ledger.grants import NewGrant, create_grant, void_grant
from control_plane.ledger.tables import balances, grants
from control_plane.usage.sweep import sweep
from tests.integration.control_plane.conftest import SteppedClock, empty_database
from tests.integration.control_plane.leases.holder import Holder
from tests.integration.control_plane.setting import make_subscriber, publish_text

BEGIN = datetime(2030, 1, 1, 12, tzinfo=UTC)
NEVER = datetime(9000, 1, 1, tzinfo=UTC)
Answer = TypeVar("Answer")


@dataclass
class Grant:
    """As somebody gave it."""

    name: str
    amount: int
    begins_at: datetime
    ends_at: datetime
    priority: int
    left: int = 0

    @property
    def order(self) -> tuple[int, datetime, datetime, str]:
        """Which burns first."""
        return (self.priority, self.ends_at, self.begins_at, self.name)


@dataclass
class Fact:
    """As somebody reported it."""

    at: datetime
    key: str
    amount: int
    open: int = 0


def replayed(given: list[Grant], facts: list[Fact], now: datetime) -> tuple[dict[str, int], int]:
    """From the beginning, one thing after the other: what each grant has burned, and what nothing covered."""
    known = [one for one in given if one.begins_at <= now]
    for grant in known:
        grant.left = grant.amount
    begun: list[Grant] = []
    happened: list[Fact] = []
    instants = sorted({grant.begins_at for grant in known} | {fact.at for fact in facts})
    for at in instants:
        for grant in sorted((one for one in known if one.begins_at == at), key=lambda one: one.order):
            begun.append(grant)
            for fact in happened:
                paid = min(grant.left, fact.open) if grant.ends_at > at else 0
                grant.left, fact.open = grant.left - paid, fact.open - paid
        for fact in sorted((one for one in facts if one.at == at), key=lambda one: one.key):
            fact.open = fact.amount
            for grant in sorted((one for one in begun if one.ends_at > at), key=lambda one: one.order):
                paid = min(grant.left, fact.open)
                grant.left, fact.open = grant.left - paid, fact.open - paid
            happened.append(fact)
    return {one.name: one.amount - one.left for one in known}, sum(fact.open for fact in happened)


class LedgerMachine(RuleBasedStateMachine):
    """One wallet."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = SteppedClock(BEGIN)
        self.given: list[Grant] = []
        self.facts: list[Fact] = []
        self.names = 0

    def run(self, work: Awaitable[Answer]) -> Answer:
        """To its end, on the machine's loop."""

        async def awaited() -> Answer:
            return await work

        return self.runner.run(awaited())

    @initialize(amount=st.integers(1, 100))
    def begin(self, amount: int) -> None:
        """A customer whose wallet has three grants, which burn in another order than they came in."""
        self.run(self._begin())
        for hours, priority in ((None, 1), (3, 1), (None, 0)):
            self.grant(amount, 0, hours, priority)

    async def _begin(self) -> None:
        url = f"sqlite+aiosqlite:///{Path(self.folder.name)}/books.sqlite3"
        self.database: Database = await empty_database(url, self.clock)
        await publish_text(self.database)
        await make_subscriber(self.database, "acme", "paid")
        self.holder = Holder(self.database)
        await self.holder.open()

    @rule(
        amount=st.integers(1, 100),
        ahead=st.sampled_from([0, 0, 0, 2]),
        hours=st.sampled_from([None, 1, 3]),
        priority=st.integers(0, 2),
    )
    def grant(self, amount: int, ahead: int, hours: int | None, priority: int) -> None:
        """One more, which begins now or later, and may end."""
        self.clock.advance(seconds=1)
        self.names += 1
        begins_at = self.clock() + timedelta(hours=ahead)
        ends_at = NEVER if hours is None else begins_at + timedelta(hours=hours)
        made = Grant(f"g{self.names:03}", amount, begins_at, ends_at, priority)
        self.given.append(made)
        self.run(self._grant(made))

    async def _grant(self, made: Grant) -> None:
        new = NewGrant(
            grant_id=made.name,
            customer_id="acme",
            unit="credit",
            scale=3,
            amount=made.amount,
            priority=made.priority,
            effective_at=made.begins_at,
            expires_at=None if made.ends_at == NEVER else made.ends_at,
        )
        async with self.database.begin() as uow:
            await create_grant(uow, new)

    @rule(minutes=st.integers(0, 300), amount=st.one_of(st.integers(1, 20), st.integers(1, 120)))
    def fact(self, minutes: int, amount: int) -> None:
        """Something that has happened, now or some hours ago: facts arrive in any order."""
        self.clock.advance(seconds=1)
        self.names += 1
        at = max(BEGIN, self.clock() - timedelta(minutes=minutes))
        made = Fact(at, f"f{self.names:03}", amount)
        self.facts.append(made)
        # A size of 1 costs half a credit, which is 500 at its scale.
        self.holder.report_fact("acme", at=at, key=made.key, measures={"size": f"{amount * 2 / 1000:.3f}"})
        assert not self.run(self.holder.upload()).dead_letters

    @rule(pick=st.integers(0, 9))
    def void(self, pick: int) -> None:
        """Somebody takes a grant back: it ends now, unless it has ended."""
        self.clock.advance(seconds=1)
        running = [one for one in self.given if one.begins_at <= self.clock() < one.ends_at]
        if running:
            grant = running[pick % len(running)]
            grant.ends_at = self.clock()
            self.run(self._void(grant.name))

    async def _void(self, name: str) -> None:
        async with self.database.begin() as uow:
            await void_grant(uow, name)

    @rule(minutes=st.sampled_from([1, 30, 61, 200]))
    def time_passes(self, minutes: int) -> None:
        """Grants begin and end, and the sweep books it."""
        self.clock.advance(minutes=minutes)
        self.run(sweep(self.database, LeaseSettings()))

    @invariant()
    def the_books_are_what_the_list_says(self) -> None:
        """Grant by grant, and every equation holds."""
        if self.given:
            self.run(self._compare())

    async def _compare(self) -> None:
        await sweep(self.database, LeaseSettings())
        async with self.database.read() as uow:
            rows = (await uow.connection.execute(select(grants.c.id, grants.c.burned))).all()
            overage = (await uow.connection.execute(select(balances.c.overage))).scalar_one()
            assert await audit(uow) == []
        burned, uncovered = replayed(self.given, self.facts, self.clock())
        assert {row.id: row.burned for row in rows if row.burned} == {k: v for k, v in burned.items() if v}
        assert overage == uncovered

    def teardown(self) -> None:
        """Leaves nothing behind."""
        if hasattr(self, "database"):
            self.run(self.database.close())
        self.runner.close()
        self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=15, deadline=None, derandomize=True
)
TestLedger = LedgerMachine.TestCase
TestLedger.__doc__ = (
    "Whatever arrives in whatever order, each grant has burned what a replay from zero burns of it."
)
