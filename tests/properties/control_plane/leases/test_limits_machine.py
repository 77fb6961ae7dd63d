"""Subscriptions that begin and end by the clock and by hand, leases, and facts that come late, against a limit that is
computed anew each time.
"""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import func, select

from control_plane.ledger.audit import audit, oversold
from control_plane.ledger.rows import GrantRow
from control_plane.ledger.tables import facts, grants
from control_plane.subscriptions.records import change_subscription
from control_plane.usage.sweep import sweep
from tests.integration.control_plane.conftest import SteppedClock, empty_database
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, ref
from tests.integration.control_plane.setting import make_customer, publish_text, subscribe
from tests.properties.control_plane.leases import holders_machine

LIMITS: Final = {"small": 5, "middle": 20, "big": 100}
TEXT: Final = """\
purser: catalog/v1
meters:
  calls: {event: call, aggregate: count}
features:
  api: {type: metered, meter: calls}
plans:
""" + "".join(
    f"  {plan}: {{entitlements: {{api: {{limit: {limit}, every: P1M, anchor: calendar}}}}}}\n"
    for plan, limit in LIMITS.items()
)
API: Final = ref("acme", "allowance:api")
BEGIN: Final = datetime(2030, 1, 20, 12, tzinfo=UTC)
NEVER: Final = datetime(9000, 1, 1, tzinfo=UTC)
Answer = TypeVar("Answer")


@dataclass
class Plan:
    """A subscription as somebody made it."""

    name: str
    limit: int
    starts_at: datetime
    ends_at: datetime


class LimitsMachine(RuleBasedStateMachine):
    """One customer, one allowance, one holder."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = SteppedClock(BEGIN)
        self.plans: list[Plan] = []
        self.leases: dict[str, int] = {}

    def run(self, work: Awaitable[Answer]) -> Answer:
        """To its end, on the machine's loop."""

        async def awaited() -> Answer:
            return await work

        return self.runner.run(awaited())

    @property
    def limit(self) -> int | None:
        """In force now. None: no subscription is, and limits stay as they are."""
        running = [one.limit for one in self.plans if one.starts_at <= self.clock() < one.ends_at]
        return sum(running) if running else None

    @initialize(at_first=st.sampled_from(sorted(LIMITS)))
    def begin(self, at_first: str) -> None:
        """A customer with a plan that has no end yet."""
        self.run(self._begin())
        self.subscribe(at_first, 0, None)

    async def _begin(self) -> None:
        url = f"sqlite+aiosqlite:///{Path(self.folder.name)}/books.sqlite3"
        self.database = await empty_database(url, self.clock)
        await publish_text(self.database, TEXT)
        await make_customer(self.database, "acme")
        self.holder = Holder(self.database)
        await self.holder.open()

    @rule(
        plan=st.sampled_from(sorted(LIMITS)),
        ahead=st.sampled_from([0, 0, 1, 4]),
        days=st.sampled_from([None, 1, 3, 9]),
    )
    def subscribe(self, plan: str, ahead: int, days: int | None) -> None:
        """One more, which begins now or later, and may end."""
        starts_at = self.clock() + timedelta(days=ahead)
        ends_at = None if days is None else starts_at + timedelta(days=days)
        made = Plan(f"sub-{len(self.plans)}", LIMITS[plan], starts_at, ends_at or NEVER)
        self.plans.append(made)
        subscribed = subscribe(
            self.database, "acme", plan, subscription_id=made.name, starts_at=starts_at, ends_at=ends_at
        )
        self.run(subscribed)

    @rule(pick=st.integers(0, 9))
    def cancel(self, pick: int) -> None:
        """Somebody ends one now, whether it has begun or not."""
        able = [one for one in self.plans if self.clock() < one.ends_at]
        if able:
            plan = able[pick % len(able)]
            plan.ends_at = self.clock()
            self.run(self._cancel(plan))

    async def _cancel(self, plan: Plan) -> None:
        values = {"state": "canceled", "ends_at": max(plan.starts_at, plan.ends_at)}
        async with self.database.begin() as uow:
            await change_subscription(uow, plan.name, values)

    @rule(need=st.one_of(st.integers(1, 12), st.integers(1, 130)))
    def acquire(self, need: int) -> None:
        """The holder gets what it needs if the limit in force leaves so much, and nothing otherwise."""
        taken = self.run(self._taken())
        free = 0 if self.limit is None else max(0, self.limit - taken)
        answer = self.run(self.holder.acquire(API, need))
        for lease in answer.leases:
            self.leases[lease.lease_id] = sum(piece.amount for piece in lease.slices)
        got = sum(self.leases[lease.lease_id] for lease in answer.leases)
        assert got == (need if need <= free else 0), (self.limit, taken)

    async def _taken(self) -> int:
        """Used, leased and open in the present period."""
        month = self.clock().replace(day=1, hour=0)
        rows = [row for row in await self._grants() if row.window_start == month]
        async with self.database.read() as uow:
            query = select(func.sum(facts.c.amount - facts.c.covered)).where(facts.c.window_start == month)
            overage = (await uow.connection.execute(query)).scalar_one() or 0
        return sum(row.amount - row.available - row.ended for row in rows) + int(overage)

    async def _grants(self) -> list[GrantRow]:
        async with self.database.read() as uow:
            rows = (await uow.connection.execute(select(grants))).mappings()
            return [GrantRow(**row) for row in rows]

    @rule(pick=st.integers(0, 9), amount=st.integers(1, 130))
    def give_back(self, pick: int, amount: int) -> None:
        """A part of a lease returns."""
        able = sorted(name for name, left in self.leases.items() if left)
        if able:
            name = able[pick % len(able)]
            part = min(amount, self.leases[name])
            self.leases[name] -= part
            self.holder.give_back(name, part)
            assert not self.run(self.holder.upload()).dead_letters

    @rule(pick=st.integers(0, 9), amount=st.integers(1, 130))
    def spend(self, pick: int, amount: int) -> None:
        """A part of a lease is used."""
        able = sorted(name for name, left in self.leases.items() if left)
        if able:
            name = able[pick % len(able)]
            part = min(amount, self.leases[name])
            self.leases[name] -= part
            self.holder.consume(API, (name, part), at=self.clock())
            assert not self.run(self.holder.upload()).dead_letters

    @rule(hours=st.sampled_from([0, 1, 30, 80, 200]), times=st.integers(1, 8))
    def fact(self, hours: int, times: int) -> None:
        """Something has happened, now or some days ago, perhaps when another limit was in force."""
        at = max(BEGIN, self.clock() - timedelta(hours=hours))
        for _ in range(times):
            self.holder.report_fact("acme", at=at)
        assert not self.run(self.holder.upload()).dead_letters

    @rule(hours=st.sampled_from([1, 20, 30, 100]), swept=st.booleans())
    def time_passes(self, hours: int, swept: bool) -> None:
        """And the sweep does what is due, or does not come to it."""
        self.clock.advance(hours=hours)
        if swept:
            self.run(sweep(self.database, SETTINGS))
            self.run(self._compare())

    async def _compare(self) -> None:
        """Nobody asked, and the running occurrence has the limit in force."""
        for row in await self._grants():
            if self.limit is not None and row.active(self.clock()):
                assert row.target == self.limit

    @invariant()
    def the_books_balance(self) -> None:
        """Every equation holds, and nothing that was decided is beyond what there was."""
        if hasattr(self, "holder"):
            self.run(self._check())

    async def _check(self) -> None:
        async with self.database.read() as uow:
            assert await audit(uow) == []
            assert await oversold(uow) == 0

    def teardown(self) -> None:
        """Leaves nothing behind."""
        if hasattr(self, "database"):
            self.run(self.database.close())
        self.runner.close()
        self.folder.cleanup()


TestLimits = LimitsMachine.TestCase
TestLimits.__doc__ = (
    "Whatever begins, ends or comes late: what is leased is never more than the limit in force leaves."
)
TestLimits.settings = holders_machine.SETTINGS
