"""The databases that the other tests rely on are real, empty, and survive what they should."""

import subprocess
import sys

import redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import PostgresServer
from tests.servers.programs import REPOSITORY

_STARTS_A_SERVER = """
import signal, subprocess
from tests.servers import child
server = ["sh", "-c", "echo started; exec sleep 600"]
subprocess.Popen(child.command(server, death_signal=signal.SIGKILL)).wait()
"""


async def test_each_test_has_an_empty_database_it_can_write_to(database_url: str) -> None:
    """A table made here is there on a second connection, on SQLite and on PostgreSQL."""
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE kept (answer BIGINT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO kept VALUES (42)"))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT answer FROM kept"))).scalar_one() == 42
    await engine.dispose()


def test_redis_is_empty_and_speaks(redis_url: str) -> None:
    """Nothing of another test is left in Redis."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.set("key", "value")


async def test_a_killed_postgresql_comes_back_with_what_it_committed() -> None:
    """`kill` then `start` is a crash of the server process: commits stay, the port stays."""
    with PostgresServer() as server:
        engine = create_async_engine(server.url(server.create_database()))
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE kept (answer BIGINT)"))
        await engine.dispose()
        server.kill()
        server.start()
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM kept"))).scalar_one() == 0
        await engine.dispose()


def test_a_server_dies_with_the_process_that_started_it() -> None:
    """Killed tests leave no server behind: the kernel ends it, and only then has its output an end."""
    command = [sys.executable, "-c", _STARTS_A_SERVER]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        starter.kill()
        assert starter.stdout.read() == b""
