"""Migrations: bring a database up, down, and say where it stands."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from control_plane.db.engine import create_engine

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECTION = "connection"


class NotMigrated(RuntimeError):
    """The database is not at this version of the program. Run `purser migrate`."""


async def upgrade(url: str, revision: str = "head") -> str:
    """Brings the database to this version; returns where it stands then. Again changes nothing."""
    engine = create_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, revision)
            return await connection.run_sync(_standing) or ""
    finally:
        await engine.dispose()


async def downgrade(url: str, revision: str) -> str:
    """Takes the database back to a version, `base` for an empty one; what later versions added is lost."""
    engine = create_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_downgrade, revision)
            return await connection.run_sync(_standing) or ""
    finally:
        await engine.dispose()


async def make_ready(engine: AsyncEngine) -> None:
    """Brings a SQLite file up by itself. Raises NotMigrated for a PostgreSQL database that is not at this version."""
    async with engine.begin() as connection:
        standing = await connection.run_sync(_standing)
        newest = head()
        if standing == newest:
            return
        if engine.dialect.name != "sqlite":
            url = make_url(str(engine.url)).render_as_string(hide_password=True)
            raise NotMigrated(
                f"{url} is at version {standing or 'none'}, this program needs {newest}: run `purser migrate`"
            )
        await connection.run_sync(_upgrade, "head")


def head() -> str:
    """The newest version that this program knows."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None, "there is a baseline"
    return newest


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes[CONNECTION] = connection
    return config


def _upgrade(connection: Connection, revision: str) -> None:
    command.upgrade(_config(connection), revision)


def _downgrade(connection: Connection, revision: str) -> None:
    command.downgrade(_config(connection), revision)


def _standing(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
