"""A network that loses, repeats, delays and reorders, as a `grpc.Channel`: stubs and servicers on both ends are the
real ones, and so is what their errors mean.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from random import Random
from typing import Any

import grpc

from purser.sync.v1 import session_pb2
from tests.simulation.threads import Hub, Process, Token

KEEPALIVE_SECONDS = 15.0
"""After so long in silence a stream is given up, at both ends."""

APART_SECONDS = 1e-6


class Condition(StrEnum):
    """How a sidecar's way to the control plane is."""

    UP = "up"
    REFUSING = "refusing"
    """Connections break, and new ones are refused."""
    SILENT = "silent"
    """Nothing arrives; what was under way comes when it ends."""


@dataclass(slots=True)
class Weather:
    """How bad it is."""

    longest_delay: float = 0.02
    loss: float = 0.0
    """Of requests, and of answers: the caller waits in vain."""
    repeat: float = 0.0
    """Of requests: they are carried out twice."""


class RpcError(grpc.RpcError):
    """A failed call, as grpc raises it."""

    def __init__(self, code: grpc.StatusCode, details: str = "", trailing: tuple[Any, ...] = ()) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details
        self._trailing = trailing

    def code(self) -> grpc.StatusCode:
        """See grpc."""
        return self._code

    def details(self) -> str:
        """See grpc."""
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        """See grpc."""
        return self._trailing

    @classmethod
    def of(cls, status: Any) -> "RpcError":
        """As the caller hears a status that a servicer has ended the call with."""
        return cls(status.code, status.details, tuple(status.trailing_metadata or ()))


class ServerContext:
    """What a servicer is given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline: float | None, write: Any = None) -> None:
        self._loop = loop
        self._deadline = deadline
        self._write = write

    def time_remaining(self) -> float | None:
        """See grpc."""
        return None if self._deadline is None else self._deadline - self._loop.time()

    async def abort_with_status(self, status: Any) -> None:
        """See grpc."""
        raise RpcError.of(status)

    async def write(self, message: Any) -> None:
        """See grpc."""
        self._write(message)


class Call:
    """One unary call, as its caller sees it."""

    def __init__(self, wire: "Wire", timeout: float, decode: Callable[[bytes], Any]) -> None:
        self._wire = wire
        self._decode = decode
        self._answer: Any = None
        self._error: RpcError | None = None
        self._callbacks: list[Callable[[Any], None]] = []
        self._tokens: list[Token] = []
        self.is_over = self.is_cancelled = False
        self._timer = wire.hub.loop.call_later(
            timeout, self.fail, RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        )

    def succeed(self, answer: bytes) -> None:
        """It was answered."""
        if not self.is_over:
            self._answer = self._decode(answer)
            self._end()

    def fail(self, error: RpcError) -> None:
        """It came to nothing, or nobody will ever know."""
        if not self.is_over:
            self._error = error
            self._end()

    def cancel(self) -> None:
        """See grpc. What was sent may arrive all the same."""
        if not self.is_over:
            self.is_cancelled = True
            self._end()

    def _end(self) -> None:
        self.is_over = True
        self._timer.cancel()
        for token in self._tokens:
            self._wire.hub.wake(token)
        for callback in self._callbacks:
            self._wire.hub.spawn(self._wire.process, partial(callback, self))

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See grpc."""
        if self.is_over:
            self._wire.hub.spawn(self._wire.process, lambda: callback(self))
        else:
            self._callbacks.append(callback)

    def result(self) -> Any:
        """The answer, waited for. Raises RpcError."""
        if not self.is_over:
            token = self._wire.hub.token()
            self._tokens.append(token)
            self._wire.hub.park(token)
        if self.is_cancelled:
            raise grpc.FutureCancelledError
        if self._error is not None:
            raise self._error
        return self._answer


class Method:
    """One method of a stub."""

    def __init__(self, wire: "Wire", name: str, encode: Any, decode: Any) -> None:
        self._wire = wire
        self._name = name
        self._encode = encode or (lambda raw: raw)
        self._decode = decode

    def future(self, request: Any, timeout: float) -> Call:
        """See grpc."""
        call = Call(self._wire, timeout, self._decode)
        self._wire.send(self._name, self._encode(request), call, timeout)
        return call

    def __call__(self, request: Any, timeout: float) -> Any:
        """See grpc."""
        return self.future(request, timeout).result()


@dataclass(eq=False)
class Stream:
    """The feed, from both ends."""

    wire: "Wire"
    outgoing: Iterator[Any]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    arrived: list[Any] = field(default_factory=list)
    waiting: list[Token] = field(default_factory=list)
    error: RpcError | None = None
    is_over: bool = False
    requests: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)
    task: "asyncio.Task[Any] | None" = None
    sent_until: float = 0.0
    read_until: float = 0.0

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Any:
        while not self.arrived and not self.is_over:
            token = self.wire.hub.token()
            self.waiting.append(token)
            self.wire.hub.park(token)
        if self.arrived:
            return self.arrived.pop(0)
        if self.error is not None:
            raise self.error
        raise StopIteration

    def cancel(self) -> None:
        """See grpc."""
        self.end(RpcError(grpc.StatusCode.CANCELLED))

    def end(self, error: RpcError | None) -> None:
        """Breaks, or ends, for both."""
        if self.is_over:
            return
        self.is_over = True
        self.error = error
        if error is not None:
            self.arrived.clear()
        self.wire.streams.pop(self, None)
        if self.task is not None:
            self.task.cancel()
        self._wake()

    def came(self, message: Any) -> None:
        """From the control plane."""
        if not self.is_over:
            self.arrived.append(message)
            self._wake()

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, []
        for token in waiting:
            self.wire.hub.wake(token)

    def pump(self) -> None:
        """What the sidecar says, in order; a thread."""
        for message in self.outgoing:
            raw = self.encode(message)
            self.read_until = self.wire.in_order(self.read_until, partial(self.requests.put_nowait, raw))
        self.read_until = self.wire.in_order(self.read_until, partial(self.requests.put_nowait, None))

    async def listen(self, parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """The same as the servicer hears it."""
        while (raw := await self.requests.get()) is not None:
            yield parse(raw)

    def write(self, message: Any) -> None:
        """The servicer speaks."""
        raw = message.SerializeToString()
        self.sent_until = self.wire.in_order(self.sent_until, lambda: self.came(self.decode(raw)))


class Wire:
    """A sidecar's channel, and all that can happen on it."""

    def __init__(
        self, hub: Hub, random: Random, process: Process, servers: Callable[[], list[Any]], weather: Weather
    ) -> None:
        """`servers()`: the replicas that live."""
        self.hub = hub
        self.process = process
        self.streams: dict[Stream, None] = {}
        self._random = random
        self._servers = servers
        self._weather = weather
        self._condition = Condition.UP
        self._held: list[Callable[[], None]] = []
        self._silences = 0
        self._watchers: list[Callable[[grpc.ChannelConnectivity], None]] = []
        self._server: Any = None
        self.calls: Counter[str] = Counter()
        """How often each method was called."""
        self._replies: dict[str, bytes] = {}

    # What a stub asks of a channel

    def unary_unary(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Method:
        """See grpc."""
        return Method(self, path.rpartition("/")[2], request_serializer, response_deserializer)

    def stream_stream(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Callable[[Iterator[Any]], Stream]:
        """See grpc."""
        return lambda outgoing: self._open(outgoing, request_serializer, response_deserializer)

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False
    ) -> None:
        """See grpc."""
        self._watchers.append(callback)
        self._tell(self._connectivity())

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """See grpc."""
        if callback in self._watchers:
            self._watchers.remove(callback)

    def close(self) -> None:
        """See grpc."""
        self.break_all("the channel was closed")

    # What befalls it

    def become(self, condition: Condition) -> None:
        """The way changes."""
        before, self._condition = self._condition, condition
        if condition is Condition.SILENT and before is not Condition.SILENT:
            self._silences += 1
            self.hub.loop.call_later(KEEPALIVE_SECONDS, self._keepalive, self._silences)
        if condition is Condition.REFUSING:
            self._held.clear()
            self.break_all("connection refused")
        if condition is Condition.UP:
            held, self._held = self._held, []
            for deliver in held:
                deliver()
        self._tell(self._connectivity())

    def break_all(self, why: str) -> None:
        """Every stream breaks."""
        for stream in list(self.streams):
            stream.end(RpcError(grpc.StatusCode.UNAVAILABLE, why))

    def abandon(self) -> None:
        """Its process died: nobody listens any more, and what was sent may still come."""
        self._watchers.clear()
        self.break_all("the sidecar died")

    def lost(self, server: Any) -> None:
        """A replica died."""
        if self._server is server:
            self._server = None
            self.break_all("the replica is gone")
            self._tell(self._connectivity())

    def server_came(self) -> None:
        """A replica is there (again)."""
        self._tell(self._connectivity())

    def _keepalive(self, number: int) -> None:
        if self._condition is Condition.SILENT and number == self._silences:
            self.break_all("keepalive")
            self._tell(grpc.ChannelConnectivity.TRANSIENT_FAILURE)

    def _connectivity(self) -> grpc.ChannelConnectivity:
        refuses = self._condition is Condition.REFUSING or not self._servers()
        return grpc.ChannelConnectivity.TRANSIENT_FAILURE if refuses else grpc.ChannelConnectivity.READY

    def _tell(self, state: grpc.ChannelConnectivity) -> None:
        for callback in list(self._watchers):
            self.hub.spawn(self.process, partial(callback, state))

    def _delay(self) -> float:
        return self._random.random() ** 3 * self._weather.longest_delay

    def in_order(self, after: float, deliver: Callable[[], None]) -> float:
        """Delivers behind what was sent before on the same stream: when."""
        # Never at the same instant: of two that are due then the loop takes either first.
        at = max(after + APART_SECONDS, self.hub.time() + self._delay())
        self.hub.loop.call_at(at, self._deliver, deliver)
        return at

    def _deliver(self, deliver: Callable[[], None]) -> None:
        if self._condition is Condition.SILENT:
            self._held.append(deliver)
        elif self._condition is Condition.UP:
            deliver()

    def _pick(self) -> Any:
        """The replica that the connection leads to; a new one when it is gone."""
        alive = self._servers()
        if self._server not in alive:
            self._server = self._random.choice(alive) if alive else None
        return self._server

    def send(self, method: str, raw: bytes, call: Call, timeout: float) -> None:
        """A unary request goes out."""
        self.calls[method] += 1
        server = None if self._condition is Condition.REFUSING else self._pick()
        if server is None:
            error = RpcError(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
            self.hub.loop.call_later(0.001, call.fail, error)
            return
        deadline = self.hub.time() + timeout
        times = 2 if self._random.random() < self._weather.repeat else 1
        for _ in range(times):
            if self._random.random() >= self._weather.loss:
                arrive = partial(self._arrive, server, method, raw, call, deadline)
                self.hub.loop.call_later(self._delay(), self._deliver, arrive)

    def _arrive(self, server: Any, method: str, raw: bytes, call: Call, deadline: float) -> None:
        if server.is_dead:
            call.fail(RpcError(grpc.StatusCode.UNAVAILABLE, "connection reset"))
            return
        server.run(self._serve(server, method, raw, call, deadline))

    async def _serve(self, server: Any, method: str, raw: bytes, call: Call, deadline: float) -> None:
        context = ServerContext(self.hub.loop, deadline)
        try:
            answer = await server.answer(method, raw, context)
            if method == "AcquireLeases":
                self._compare(raw, answer)
        except RpcError as error:
            self._answer(partial(call.fail, error))
        except asyncio.CancelledError:
            # The replica died: its connection breaks, and what it did stays unknown.
            self._answer(lambda: call.fail(RpcError(grpc.StatusCode.UNAVAILABLE, "connection reset")))
            raise
        else:
            self._answer(lambda: call.succeed(answer))

    def _compare(self, raw: bytes, answer: bytes) -> None:
        """A request is answered the same, however often it comes."""
        request_id = session_pb2.AcquireLeasesRequest.FromString(raw).request_id
        if self._replies.setdefault(request_id, answer) != answer:
            self.hub.failures.append(f"request {request_id} was answered in two ways")

    def forget_replies(self) -> None:
        """The control plane was restored: it has not given them."""
        self._replies.clear()

    def _answer(self, deliver: Callable[[], None]) -> None:
        if self._random.random() >= self._weather.loss:
            self.hub.loop.call_later(self._delay(), self._deliver, deliver)

    def _open(self, outgoing: Iterator[Any], encode: Any, decode: Any) -> Stream:
        stream = Stream(self, outgoing, decode, encode)
        server = None if self._condition is Condition.REFUSING else self._pick()
        if server is None:
            stream.end(RpcError(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses"))
            return stream
        self.streams[stream] = None
        self.hub.spawn(self.process, stream.pump)
        stream.task = server.run(self._serve_stream(server, stream))
        return stream

    async def _serve_stream(self, server: Any, stream: Stream) -> None:
        context = ServerContext(self.hub.loop, None, stream.write)
        try:
            await server.follow(stream, context)
        except RpcError as error:
            self.in_order(stream.sent_until, partial(stream.end, error))
        else:
            self.in_order(stream.sent_until, lambda: stream.end(None))
