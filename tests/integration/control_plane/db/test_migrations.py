"""Migrations, up and down, on both databases."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from control_plane.db.engine import create_engine, system_now
from control_plane.db.metadata import all_tables
from control_plane.db.migrate import NotMigrated, downgrade, head, make_ready, upgrade
from control_plane.db.tables import revisions
from control_plane.ledger.tables import transactions


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, all_tables()))


def _checks(connection: Connection) -> dict[str, set[str]]:
    inspector = inspect(connection)
    return {
        table: {str(check["name"]) for check in inspector.get_check_constraints(table)}
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


async def test_up_and_down_and_up(database_url: str) -> None:
    """From nothing to this version, back to nothing, and up again; twice up changes nothing."""
    assert await upgrade(database_url) == head()
    assert await upgrade(database_url) == head()
    engine = create_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_tables) == {*all_tables().tables, "alembic_version"}
        assert (await connection.execute(select(revisions))).one() == (1, 1, 0, None, None)
    await engine.dispose()
    assert await downgrade(database_url, "base") == ""
    engine = create_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_tables) == {"alembic_version"}
    await engine.dispose()
    assert await upgrade(database_url) == head()


async def test_migrations_and_tables_agree(database_url: str, tmp_path: object) -> None:
    """What migrations make is what the code declares: columns, types, indexes, keys and checks."""
    await upgrade(database_url)
    engine = create_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
        migrated = await connection.run_sync(_checks)
    await engine.dispose()
    declared = create_engine(f"sqlite:///{tmp_path}/declared.sqlite3")
    async with declared.begin() as connection:
        await connection.run_sync(all_tables().create_all)
        assert await connection.run_sync(_checks) == migrated
    await declared.dispose()


async def test_the_migrated_books_are_append_only(database_url: str) -> None:
    """The database itself refuses to change or delete a transaction."""
    await upgrade(database_url)
    engine = create_engine(database_url)
    row = {
        "id": "t",
        "cause": "usage",
        "customer_id": "c",
        "occurred_at": system_now(),
        "recorded_at": system_now(),
    }
    async with engine.begin() as connection:
        await connection.execute(insert(transactions).values(row))
    for statement in (update(transactions).values(cause="void"), transactions.delete()):
        with pytest.raises(DBAPIError, match="append-only"):
            await _execute(engine, statement)
    await engine.dispose()


async def _execute(engine: AsyncEngine, statement: object) -> None:
    async with engine.begin() as connection:
        await connection.execute(statement)  # type: ignore[call-overload]


async def test_sqlite_comes_up_by_itself(sqlite_url: str) -> None:
    """An empty SQLite file needs no command."""
    engine = create_engine(sqlite_url)
    await make_ready(engine)
    await make_ready(engine)
    async with engine.connect() as connection:
        assert (await connection.execute(select(revisions.c.revision))).scalar_one() == 0
    await engine.dispose()


async def test_postgresql_is_migrated_by_hand(postgres_url: str) -> None:
    """A PostgreSQL database that is not at this version is left alone, and the message names the command."""
    engine = create_engine(postgres_url)
    with pytest.raises(NotMigrated, match="purser migrate"):
        await make_ready(engine)
    async with engine.connect() as connection:
        assert await connection.run_sync(_tables) == set()
    await engine.dispose()
    await upgrade(postgres_url)
    engine = create_engine(postgres_url)
    await make_ready(engine)
    await engine.dispose()
