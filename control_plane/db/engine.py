"""Async engines for the two databases, set up so that a transaction means the same on both."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

READ_ONLY = "purser_read_only"
"""Execution option of a connection whose transaction only reads."""

SQLITE_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # an acknowledged batch survives a power cut
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=10000",  # another process writes: wait, milliseconds
)


class UnsupportedDatabase(ValueError):
    """The URL names a database that is neither SQLite nor PostgreSQL."""


def system_now() -> datetime:
    """The clock of this process, in UTC."""
    return datetime.now(UTC)


def create_engine(url: str, *, pool_size: int = 20) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///file` or `postgresql+psycopg://…`; the driver's name may be left out.

    Raises UnsupportedDatabase.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            engine = create_async_engine(parsed.set(drivername="sqlite+aiosqlite"), pool_size=pool_size)
            _prepare_sqlite(engine)
            return engine
        case "postgresql":
            return create_async_engine(
                parsed.set(drivername="postgresql+psycopg"),
                isolation_level="READ COMMITTED",
                pool_size=pool_size,
                max_overflow=pool_size,
                pool_pre_ping=True,
            )
        case other:
            raise UnsupportedDatabase(f"{other}: use sqlite or postgresql")


def _prepare_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        # The driver would begin transactions by itself, deferred: the first write could then fail half-way.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        reads_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
