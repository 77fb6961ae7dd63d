"""A TCP proxy in front of one address, or of several that stand for one, which can be as bad as a network is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, Final, Self

from tests.servers.wire import Wire

CHUNK: Final = 65536
Address = tuple[str, int]


class Way(Enum):
    """What becomes of what is sent."""

    OPEN = "open"
    REFUSED = "refused"
    """Nobody listens, and who was connected is not any more."""
    SILENT = "silent"
    """Connections stay and can be made, and nothing comes through; who waits long enough gets it all later."""
    SILENT_OUT = "silent there"
    """Only what the client sends does not arrive."""
    SILENT_BACK = "silent back"
    """Only what is answered does not arrive."""


_SENDS_OUT: Final = frozenset({Way.OPEN, Way.SILENT_BACK})
_SENDS_BACK: Final = frozenset({Way.OPEN, Way.SILENT_OUT})


@dataclass(slots=True)
class _Gate:
    """What passes in one direction."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, *, is_open: bool) -> None:
        if is_open:
            self.opened.set()
        else:
            self.opened.clear()


class Proxies:
    """The loop, in a thread of its own, that all proxies of an installation run on."""

    def __init__(self) -> None:
        self._proxies: list[Proxy] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies:
            proxy.become(Way.REFUSED)
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it there, and waits for it."""
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(30)

    def before(self, targets: Callable[[], Sequence[Address]], port: int, wire: Wire | None = None) -> Proxy:
        """A proxy on this port; with a wire, at its far end."""
        proxy = Proxy(self, targets, port, wire)
        self._proxies.append(proxy)
        self.run(proxy.listen())
        return proxy


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """Each new connection goes to the next of the targets that takes it."""

    def __init__(
        self, proxies: Proxies, targets: Callable[[], Sequence[Address]], port: int, wire: Wire | None
    ) -> None:
        self.port = port
        self._host = wire.host if wire else "127.0.0.1"
        self._bind = wire.bind if wire else socket.create_server
        self.delay_seconds = 0.0
        """What every piece is late, in both directions."""
        self.ended, self.held, self.late = 0, 0, 0
        """What it did so far: ends of connections that it cut, pieces that it kept waiting, pieces that came late."""
        self._proxies = proxies
        self._targets = targets
        self._turns = count()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._out, self._back = _Gate(), _Gate()

    @property
    def address(self) -> str:
        """Where clients go."""
        return f"{self._host}:{self.port}"

    def become(self, way: Way) -> None:
        """From now on."""
        self._proxies.run(self._become(way))

    def cut(self) -> None:
        """Ends every connection, at once and without a farewell."""
        self._proxies.run(self._cut())

    async def listen(self) -> None:
        """Open, from now on."""
        await self._become(Way.OPEN)

    async def _become(self, way: Way) -> None:
        self._out.set(is_open=way in _SENDS_OUT)
        self._back.set(is_open=way in _SENDS_BACK)
        if way is Way.REFUSED:
            if self._server is not None:
                self._server.close()
                self._server = None
            await self._cut()
        elif self._server is None:
            listening = self._bind((self._host, self.port))
            self._server = await asyncio.start_server(self._serve, sock=listening)

    async def _cut(self) -> None:
        for writer in self._open:
            self.ended += 1
            # With what is unsent, and a reset instead of an end: as when a machine is unplugged.
            connection: socket.socket | None = writer.get_extra_info("socket")
            if connection is not None and connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            # What is said to a silent way is heard by nobody yet: not even the connection.
            await self._passes(self._out)
            upstream = await self._connect()
            if upstream is None:
                return
            its_reader, its_writer = upstream
            self._open.add(its_writer)
            try:
                await asyncio.gather(
                    self._pump(reader, its_writer, self._out), self._pump(its_reader, writer, self._back)
                )
            finally:
                self._open.discard(its_writer)
                its_writer.close()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _passes(self, gate: _Gate) -> None:
        if not gate.opened.is_set():
            self.held += 1
            await gate.opened.wait()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        targets = self._targets()
        turn = next(self._turns)
        for number in range(len(targets)):
            host, port = targets[(turn + number) % len(targets)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(host, port)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: _Gate) -> None:
        try:
            while data := await reader.read(CHUNK):
                if self.delay_seconds:
                    self.late += 1
                    await asyncio.sleep(self.delay_seconds)
                await self._passes(gate)
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            writer.transport.abort()
            return
        writer.close()
