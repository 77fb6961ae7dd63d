"""A control plane's database, empty but for its tables, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from control_plane.db.engine import create_engine
from control_plane.db.metadata import all_tables
from control_plane.db.tables import revisions
from control_plane.db.unit_of_work import Database


class SteppedClock:
    """A clock that stands still until it is told to go on. Call it for the time."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **spans: float) -> None:
        """Goes on by a timedelta in its keywords: `advance(seconds=5)`."""
        self.at += timedelta(**spans)


@pytest.fixture
def clock() -> SteppedClock:
    """The clock of `database`, at noon of the first of January 2030."""
    return SteppedClock(datetime(2030, 1, 1, 12, tzinfo=UTC))


@pytest.fixture
async def database(database_url: str, clock: SteppedClock) -> AsyncIterator[Database]:
    """Runs the test on both databases, with all tables, revision 0, and `clock` for its time."""
    async with _made(database_url, clock) as made:
        yield made


@pytest.fixture
async def postgres_database(postgres_url: str, clock: SteppedClock) -> AsyncIterator[Database]:
    """As `database`, on PostgreSQL alone: for what happens only where transactions run side by side."""
    async with _made(postgres_url, clock) as made:
        yield made


async def empty_database(url: str, clock: SteppedClock) -> Database:
    """With all tables, and revision 0."""
    database = Database(create_engine(url), clock=clock)
    async with database.engine.begin() as connection:
        await connection.run_sync(all_tables().create_all)
        await connection.execute(insert(revisions).values(id=1, generation=1, revision=0))
    return database


@asynccontextmanager
async def _made(url: str, clock: SteppedClock) -> AsyncIterator[Database]:
    database = await empty_database(url, clock)
    try:
        yield database
    finally:
        await database.close()
