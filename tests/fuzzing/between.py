"""Stands between a sidecar and its control plane, and spoils what the control plane says."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import grpc

from purser.sync.v1 import feed_pb2 as feed
from tests.e2e.fleet import eventually
from tests.fuzzing.servers import DEADLINE_SECONDS, SERVICE

UNARY: Final = ("OpenSession", "CloseSession", "AcquireLeases", "ReportBatch", "ReportRefusals")
DETAILS: Final = "grpc-status-details-bin"


class Failure(NamedTuple):
    """An error instead of an answer; `details`: the bytes that should be a `google.rpc.Status`."""

    code: grpc.StatusCode
    details: bytes


Spoil = Callable[[bytes], bytes | Failure]
"""What becomes of an answer."""


class Between:
    """Passes on bytes, as they are unless it was told to spoil them. Everything else is called by the test's thread."""

    def __init__(self, control_plane: str) -> None:
        """Serves from now on."""
        self._channel = grpc.insecure_channel(control_plane)
        self._lock = threading.Condition()
        self._spoil: dict[str, Spoil] = {}
        self._streams: list[SimpleQueue[bytes | None]] = []
        self._starts_anew = False
        self.answers: Counter[str] = Counter()
        """How many of each rpc were spoiled."""
        self.said: dict[str, bytes] = {}
        """The last message of each kind on the feed, as the control plane said it."""
        self.passed_on = 0
        """How many messages on the feed came from the control plane and change what the sidecar knows."""
        self.heard: list[feed.FollowRequest] = []
        """What the sidecar said on the feed since it was last asked to stand."""
        self.acquired: list[tuple[bytes, bytes]] = []
        """Every request for leases, with the answer that the sidecar got."""
        self._server = grpc.server(futures.ThreadPoolExecutor(32))
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name)) for name in UNARY
        }
        handlers["Follow"] = grpc.stream_stream_rpc_method_handler(self._follow)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Ends."""
        self.cut()
        self._server.stop(None).wait()
        self._channel.close()

    def spoil(self, rpc: str, spoil: Spoil) -> None:
        """From now on its answers are spoiled."""
        with self._lock:
            self._spoil[rpc] = spoil

    def be_sound(self) -> None:
        """Nothing is spoiled any more, and the feed begins anew, from nothing."""
        with self._lock:
            self._spoil.clear()
            self._starts_anew = True
        self.cut()

    def cut(self) -> None:
        """The feed breaks."""
        with self._lock:
            for stream in self._streams:
                stream.put(None)
            self._streams.clear()

    def say(self, raw: bytes) -> None:
        """On the feed, once there is one."""
        eventually(lambda: bool(self._streams), seconds=DEADLINE_SECONDS, what="the sidecar follows")
        with self._lock:
            for stream in self._streams:
                stream.put(raw)

    def _unary(self, name: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        rpc: Callable[..., bytes] = self._channel.unary_unary(f"/{SERVICE}/{name}")

        def answer(raw: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                reply = rpc(raw, timeout=context.time_remaining())
            except grpc.RpcError as error:
                call: Any = error
                context.set_trailing_metadata(call.trailing_metadata())
                context.abort(call.code(), call.details())
            with self._lock:
                spoil = self._spoil.get(name)
            spoiled = reply if spoil is None else spoil(reply)
            if isinstance(spoiled, bytes) and name == "AcquireLeases":
                self.acquired.append((raw, spoiled))
            self.answers[name] += spoil is not None
            if isinstance(spoiled, Failure):
                context.set_trailing_metadata(((DETAILS, spoiled.details),))
                context.abort(spoiled.code, "spoiled")
            return spoiled

        return answer

    def _follow(self, said: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        stream: SimpleQueue[bytes | None] = SimpleQueue()
        with self._lock:
            # First: who has heard that the sidecar follows may speak to it.
            self._streams = [stream]
        rpc: Callable[..., Any] = self._channel.stream_stream(f"/{SERVICE}/Follow")
        upstream = rpc(self._listen(said))

        def pump() -> None:
            try:
                for raw in upstream:
                    kind = feed.FollowResponse.FromString(raw).WhichOneof("message")
                    assert kind is not None
                    self.said[kind] = raw
                    self.passed_on += kind in {"reset", "snapshot", "change"}
                    stream.put(raw)
            except grpc.RpcError:
                pass
            stream.put(None)

        def end() -> None:
            stream.put(None)
            upstream.cancel()

        if not context.add_callback(end):
            end()
        pumping = threading.Thread(target=pump, name="between", daemon=True)
        pumping.start()
        while (raw := stream.get()) is not None:
            yield raw
        end()
        pumping.join()

    def _listen(self, said: Iterator[bytes]) -> Iterator[bytes]:
        try:
            for raw in said:
                message = feed.FollowRequest.FromString(raw)
                self.heard.append(message)
                if message.HasField("start") and self._starts_anew:
                    self._starts_anew = False
                    message.start.generation = message.start.revision = 0
                    yield message.SerializeToString()
                else:
                    yield raw
        except grpc.RpcError:
            return
