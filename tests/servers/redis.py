"""A Redis of our own: no persistence, on a free port."""

import shutil
import signal
import tempfile
from pathlib import Path
from typing import Self

import redis

from tests.servers import programs
from tests.servers.process import ServerProcess, free_port

_NOT_PERSISTENT = ("--save", "", "--appendonly", "no")


class RedisServer:
    """`with RedisServer() as server: client = redis.Redis.from_url(server.url)`."""

    def __enter__(self) -> Self:
        # Not in a folder of root's: as root we run it as somebody else, like PostgreSQL.
        self._folder = Path(tempfile.mkdtemp(prefix="purser-redis-"))
        self._folder.chmod(0o755)
        try:
            self._program = programs.find(programs.REDIS)
            if self._program.is_relative_to(programs.TOOLS):
                self._program = Path(shutil.copy(self._program, self._folder))
            self.port = free_port()
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it, also again after `stop` or `kill`, on the same port; it comes back empty."""
        self._process = ServerProcess(
            [self._program, "--bind", "127.0.0.1", "--port", str(self.port), *_NOT_PERSISTENT],
            folder=self._folder,
            stop_signal=signal.SIGTERM,
        )
        self._process.wait_until(self._answers)

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def flush(self) -> None:
        """Empties it."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, retry=None) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False
