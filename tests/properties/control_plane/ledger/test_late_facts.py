"""What covers a fact does not depend on when it arrives, whatever becomes of its customer's limit before and after; and
what is open is billed.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from control_plane.db.unit_of_work import Database
from control_plane.ledger.tables import facts, postings
from control_plane.subscriptions.records import change_subscription
from control_plane.usage.sweep import sweep
from sidecar.engine.customer import SubscriptionState
from tests.integration.control_plane.conftest import SteppedClock, empty_database
from tests.integration.control_plane.leases.holder import SETTINGS, Holder, check_books
from tests.integration.control_plane.setting import make_customer, publish_text, subscribe

SCALE: Final = 10**6
"""Of a balance that counts measures."""
LIMITS: Final = {"small": 5, "middle": 20, "big": 60}
BEGIN: Final = datetime(2030, 1, 22, 12, tzinfo=UTC)
TEXT: Final = """\
purser: catalog/v1
units:
  usd: {name: US dollar, kind: currency, scale: 2}
meters:
  calls: {event: call, aggregate: sum, of: [size]}
rate_cards:
  calls: {event: call, unit: usd, prices: [{dimension: size, per: 1, price: "1"}]}
features:
  api: {type: metered, event: call, rate_card: calls}
plans:
""" + "".join(
    f"  {plan}: {{entitlements: {{api: {{included: {{meter: calls, amount: {limit}, every: EVERY, anchor: calendar}}, "
    f"overage: {{allow: {{charge: calls}}}}}}}}}}\n"
    for plan, limit in LIMITS.items()
)
SWEPT: Final = timedelta(hours=6)


class Change(NamedTuple):
    """Somebody pauses a subscription, or says that it was not paid; again: it goes on. What is not paid is allowed for
    two days more.
    """

    plan: str
    state: SubscriptionState


class Ending(NamedTuple):
    """A subscription is to end by itself."""

    plan: str
    days: int


class Used(NamedTuple):
    """A fact, and after how many more steps of the script its sidecar gets through; 0: at once."""

    size: int
    late: int


class Days(NamedTuple):
    """Time goes by; the control plane sweeps."""

    number: int


Script = Sequence[Change | Ending | Used | Days]
SCRIPTS: Final = st.lists(
    st.one_of(
        st.builds(
            Change,
            st.sampled_from(sorted(LIMITS)),
            st.sampled_from([SubscriptionState.PAUSED, SubscriptionState.PAST_DUE]),
        ),
        st.builds(Ending, st.sampled_from(["middle", "big"]), st.sampled_from([1, 3])),
        st.builds(Used, st.integers(1, 40), st.sampled_from([0, 1, 3, 20])),
        st.builds(Days, st.sampled_from([1, 2, 7])),
    ),
    min_size=3,
    max_size=12,
)


class Books(NamedTuple):
    """What they come to."""

    covered: dict[str, int]
    """By idempotency key."""
    open: int
    """Overage that nothing paid."""
    billed: int
    """For overage, paid later or not, at 1 each."""


async def _played(script: Script, every: str, *, delays: bool) -> Books:
    clock = SteppedClock(BEGIN)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder)}/books.sqlite3"
        database = await empty_database(url, clock)
        try:
            await publish_text(database, TEXT.replace("EVERY", every))
            await _play(database, clock, script, delays)
            await check_books(database)
            return await _books(database)
        finally:
            await database.close()


async def _play(database: Database, clock: SteppedClock, script: Script, delays: bool) -> None:
    await make_customer(database, "acme")
    for plan in LIMITS:
        await subscribe(database, "acme", plan, subscription_id=plan, on_past_due="allow_for:P2D")
    holder = Holder(database)
    await holder.open()
    waiting: list[tuple[int, str, int, datetime]] = []
    changed = set[str]()
    for number, step in enumerate([*script, None]):
        clock.advance(seconds=60)
        match step:
            case Change(plan, state):
                changed ^= {plan}
                state = state if plan in changed else SubscriptionState.ACTIVE
                async with database.begin() as uow:
                    await change_subscription(uow, plan, {"state": state})
            case Ending(plan, days):
                async with database.begin() as uow:
                    await change_subscription(uow, plan, {"ends_at": clock() + timedelta(days=days)})
            case Used(size, late):
                waiting.append((number + (late if delays else 0), f"key-{number}", size, clock()))
            case Days(days):
                for _ in range(timedelta(days=days) // SWEPT):
                    clock.at += SWEPT
                    await sweep(database, SETTINGS)
            case None:
                waiting = [(0, key, size, at) for _, key, size, at in waiting]
        due = [one for one in waiting if one[0] <= number]
        waiting = [one for one in waiting if one[0] > number]
        sent = holder.last_seq
        for _, key, size, at in due:
            holder.report_fact("acme", key=key, at=at, measures={"size": str(size)})
        if due:
            assert not (await holder.upload(sent + 1)).dead_letters


async def _books(database: Database) -> Books:
    async with database.read() as uow:
        rows = (await uow.connection.execute(select(facts))).all()
        covered = {row.event_key: row.covered // SCALE for row in rows}
        query = select(func.sum(postings.c.amount)).where(postings.c.account == "receivable:acme")
        billed = (await uow.connection.execute(query)).scalar_one() or 0
        return Books(covered, sum(row.amount - row.covered for row in rows) // SCALE, int(billed) // 100)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SCRIPTS, st.sampled_from(["P1M", "P1D"]))
def test_lateness_changes_nothing(script: Script, every: str) -> None:
    """The same script, all in time and with delays."""
    in_time = asyncio.run(_played(script, every, delays=False))
    late = asyncio.run(_played(script, every, delays=True))
    assert late.covered == in_time.covered
    assert late.open <= late.billed <= in_time.billed
