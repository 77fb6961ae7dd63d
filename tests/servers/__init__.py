"""Real PostgreSQL and Redis for the tests, started from whatever this machine has."""

from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

__all__ = ["PostgresServer", "RedisServer"]
