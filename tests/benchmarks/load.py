"""The load: gRPC calls over plain HTTP/2, with the frames made by hand.

A client of grpcio costs as much per call as the server under test, and h2load repeats one body, so neither can drive
`ConsumeUsage`, where each call needs a key of its own. This one writes constant header blocks and ready bodies, and
reads no more of an answer than its frames: a quarter of the bare server's work per call, with the same calls/s as
h2load. Every answer is kept and looked at after the clock has stopped. `Sample.generator_busy` says when the generator
was the bottleneck all the same.
"""

import gc
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK = 1, 1
_INITIAL_WINDOW = 65_535
_LARGE_WINDOW = 2**31 - 1
_TOP_UP_AFTER_BYTES = 1 << 28

BodyMaker = Callable[[int], bytes]  # the number of the call in the round → its message, serialized


class LoadFailed(RuntimeError):
    """The server broke the connection, or took too long."""


@dataclass(slots=True)
class Sample:
    """What one round brought."""

    seconds: float
    latencies_us: list[float]
    answers: list[bytes]  # serialized messages, in the order in which they came
    failures: int  # calls that ended without a message: errors
    generator_busy: float  # share of its core that the generator used, 0 to 1

    @property
    def calls(self) -> int:
        return len(self.answers) + self.failures

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds


@dataclass(slots=True)
class Connection:
    """One HTTP/2 connection, and the calls that are under way on it."""

    socket: socket.socket
    headers: bytes
    credit: int = _INITIAL_WINDOW
    next_stream: int = 1
    unread: bytes = b""
    received: int = 0
    started: dict[int, float] = field(default_factory=dict)
    parts: dict[int, bytes] = field(default_factory=dict)

    def call(self, message: bytes, began: float | None = None) -> bytes:
        """The bytes that start one call; notes when it began: now, unless told otherwise."""
        stream, length = self.next_stream, len(message) + 5
        self.next_stream += 2
        self.credit -= length
        if self.credit < 0:
            raise LoadFailed("The server's window is full: fewer calls in flight, or smaller ones.")
        self.started[stream] = time.perf_counter() if began is None else began
        return b"".join(
            (
                struct.pack(">BHBBI", 0, len(self.headers), _HEADERS, 4, stream),
                self.headers,
                struct.pack(">BHBBI", length >> 16, length & 0xFFFF, _DATA, _END_STREAM, stream),
                struct.pack(">BI", 0, len(message)),
                message,
            )
        )

    def receive(self, sample: Sample) -> tuple[int, bytes]:
        """Reads what is there: how many calls have ended, and what must be sent back."""
        chunk = self.socket.recv(1 << 18)
        if not chunk:
            raise LoadFailed("The server closed the connection.")
        data = self.unread + chunk if self.unread else chunk
        at, ended, end, replies = 0, 0, len(data), b""
        while end - at >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">BHBBI", data, at)
            length = high << 16 | low
            if end - at < 9 + length:
                break
            at += 9
            if kind == _DATA:
                part = data[at : at + length]
                self.received += length
                self.parts[stream] = self.parts[stream] + part if stream in self.parts else part
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    ended += self._end(stream, sample)
            elif kind == _WINDOW_UPDATE:
                if stream == 0:
                    self.credit += struct.unpack_from(">I", data, at)[0]
            elif kind == _SETTINGS and not flags & _ACK:
                replies += struct.pack(">BHBBI", 0, 0, _SETTINGS, _ACK, 0)
            elif kind == _PING and not flags & _ACK:
                replies += struct.pack(">BHBBI", 0, 8, _PING, _ACK, 0) + data[at : at + 8]
            elif kind == _RST_STREAM:
                self.parts.pop(stream, None)
                ended += self._end(stream, sample)
            elif kind == _GOAWAY:
                raise LoadFailed(f"The server says good-bye: {data[at + 8 : at + length]!r}")
            at += length
        self.unread = data[at:]
        if self.received > _TOP_UP_AFTER_BYTES:
            replies += struct.pack(">BHBBII", 0, 4, _WINDOW_UPDATE, 0, 0, self.received)
            self.received = 0
        return ended, replies

    def _end(self, stream: int, sample: Sample) -> int:
        started = self.started.pop(stream, None)
        if started is None:
            return 0  # reset after it had ended
        sample.latencies_us.append((time.perf_counter() - started) * 1e6)
        message = self.parts.pop(stream, b"")
        if len(message) >= 5:
            sample.answers.append(message[5:])
        else:
            sample.failures += 1
        return 1


class Load:
    """`in_flight` calls at a time, spread over `connections` to the server at 127.0.0.1:`port`."""

    def __init__(self, port: int, *, in_flight: int = 32, connections: int = 4) -> None:
        self._port = port
        self._in_flight = in_flight
        self._connections = min(connections, in_flight)

    def run(self, method: str, body: BodyMaker, *, seconds: float, limit: int | None = None) -> Sample:
        """Calls `method` (`/package.Service/Name`) for `seconds`, or `limit` times, and waits for the last answer.

        Raises:
            LoadFailed: the server broke off, or an answer took more than 10 seconds.
        """
        sample = Sample(0.0, [], [], 0, 0.0)
        selector = selectors.DefaultSelector()
        connections = [connect(self._port, method) for _ in range(self._connections)]
        collecting = gc.isenabled()
        gc.disable()  # a collection over a hundred thousand answers is a pause that the server did not make
        try:
            for connection in connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            began, busy_before = time.perf_counter(), _cpu_seconds()
            self._drive(selector, connections, body, sample, until=began + seconds, limit=limit)
            sample.seconds = time.perf_counter() - began
            sample.generator_busy = (_cpu_seconds() - busy_before) / sample.seconds
        finally:
            if collecting:
                gc.enable()
            selector.close()
            for connection in connections:
                connection.socket.close()
        return sample

    def _drive(
        self,
        selector: selectors.BaseSelector,
        connections: list[Connection],
        body: BodyMaker,
        sample: Sample,
        *,
        until: float,
        limit: int | None,
    ) -> None:
        begun, open_calls = 0, 0
        for number in range(self._in_flight):
            if limit is None or begun < limit:
                connection = connections[number % len(connections)]
                connection.socket.sendall(connection.call(body(begun)))
                begun, open_calls = begun + 1, open_calls + 1
        while open_calls:
            ready = selector.select(timeout=10)
            if not ready:
                raise LoadFailed("No answer for 10 seconds.")
            for key, _ in ready:
                connection = key.data
                ended, out = connection.receive(sample)
                open_calls -= ended
                if time.perf_counter() < until:
                    for _ in range(ended if limit is None else min(ended, limit - begun)):
                        out += connection.call(body(begun))
                        begun, open_calls = begun + 1, open_calls + 1
                if out:
                    connection.socket.sendall(out)


def connect(port: int, method: str) -> Connection:
    """A connection to 127.0.0.1:`port` for calls of `method`."""
    made = socket.create_connection(("127.0.0.1", port), timeout=10)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    settings = struct.pack(">HI", 4, _LARGE_WINDOW)  # SETTINGS_INITIAL_WINDOW_SIZE
    made.sendall(
        _PREFACE
        + struct.pack(">BHBBI", 0, len(settings), _SETTINGS, 0, 0)
        + settings
        + struct.pack(">BHBBII", 0, 4, _WINDOW_UPDATE, 0, 0, _LARGE_WINDOW - _INITIAL_WINDOW)
    )
    return Connection(made, header_block(method, f"127.0.0.1:{port}"))


def header_block(path: str, authority: str) -> bytes:
    """A request's headers in HPACK, all without indexing, so that the block is the same for every call."""

    def literal(text: str) -> bytes:
        if len(text) > 126:
            raise ValueError(f"{text!r} is longer than this HPACK writer knows how to say.")
        return bytes([len(text)]) + text.encode()

    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http, of the static table
            b"\x04" + literal(path),
            b"\x01" + literal(authority),
            b"\x0f\x10" + literal("application/grpc"),  # content-type
            b"\x00" + literal("te") + literal("trailers"),
        )
    )


def percentile(latencies_us: list[float], percent: float) -> float:
    """The latency that `percent` of the calls do not exceed, in µs."""
    ordered = sorted(latencies_us)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system
