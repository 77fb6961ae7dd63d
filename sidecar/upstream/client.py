"""The control plane as the rooms below see it: their ports over one gRPC channel."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import Message

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from sidecar.leases.ports import Answered
from sidecar.outbox.encoding import EncodedBatch
from sidecar.runtime.clock import Clock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import Unreachable
from sidecar.upstream import sense
from sidecar.upstream.link import Link
from sidecar.upstream.status import is_own_word, meaning
from sidecar.view.port import FeedLost

_Reply = TypeVar("_Reply", bound=Message)

_SERVICE: Final = "/purser.sync.v1.SyncService/"
_WATCHER_SECONDS: Final = 0.5
"""grpc's watcher looks every 0.2 seconds whether anybody still listens."""


class ControlPlane:
    """Satisfies `AcquirePort`, `ReportPort`, `SessionsPort` and the view's `Feed`. Thread-safe."""

    def __init__(self, channel: grpc.Channel, *, link: Link, clock: Clock, metrics: Metrics) -> None:
        """Starts watching the channel, which makes it connect."""
        self._channel = channel
        self._link = link
        self._clock = clock
        self._metrics = metrics
        self._open_session = self._rpc("OpenSession", session.OpenSessionResponse)
        self._close_session = self._rpc("CloseSession", session.CloseSessionResponse)
        self._acquire: Any = self._rpc("AcquireLeases", session.AcquireLeasesResponse)
        self._report_refusals = self._rpc("ReportRefusals", usage.ReportRefusalsResponse)
        # Batches are encoded already: they go out as they are.
        self._report_batch: Any = self._rpc("ReportBatch", usage.ReportBatchResponse, is_encoded=True)
        self._upload: Any = None
        """The last one, which may be under way."""
        self._follow: Any = channel.stream_stream(
            f"{_SERVICE}Follow",
            request_serializer=feed.FollowRequest.SerializeToString,
            response_deserializer=sense.reader(feed.FollowResponse),
        )
        self._is_closing = threading.Event()
        channel.subscribe(self._watch, try_to_connect=True)

    def _rpc(
        self, name: str, reply: type[_Reply], *, is_encoded: bool = False
    ) -> Callable[..., _Reply | sense.Unreadable]:
        call: Callable[..., _Reply | sense.Unreadable] = self._channel.unary_unary(
            f"{_SERVICE}{name}",
            request_serializer=None if is_encoded else methodcaller("SerializeToString"),
            response_deserializer=sense.reader(reply),
        )
        return call

    def _watch(self, state: grpc.ChannelConnectivity) -> None:
        self._link.channel_is(state)
        if state is grpc.ChannelConnectivity.IDLE and not self._is_closing.is_set():
            # A lost connection would stay so until the next call; whether it can be had again is to be known
            # before that.
            self._channel.subscribe(self._nudge, try_to_connect=True)
            self._channel.unsubscribe(self._nudge)

    @staticmethod
    def _nudge(_state: grpc.ChannelConnectivity) -> None:
        """Only its subscribing matters."""

    @property
    def is_down(self) -> bool:
        """Is the control plane known to be away? Answers at once, from memory."""
        return self._link.is_down

    def close(self) -> None:
        """Ends the channel; what is under way fails. Takes half a second: grpc's watcher would die noisily on
        a closed channel.
        """
        self._is_closing.set()
        self._channel.unsubscribe(self._watch)
        time.sleep(_WATCHER_SECONDS)
        self._channel.close()

    def open_session(
        self, request: session.OpenSessionRequest, timeout_seconds: float
    ) -> session.OpenSessionResponse:
        """See `SessionsPort`."""
        return self._call(
            "OpenSession",
            lambda: self._open_session(request, timeout=timeout_seconds),
            lambda reply: sense.look_at_opened(request, reply),
        )

    def close_session(
        self, request: session.CloseSessionRequest, timeout_seconds: float
    ) -> session.CloseSessionResponse:
        """See `SessionsPort`."""
        return self._call("CloseSession", lambda: self._close_session(request, timeout=timeout_seconds))

    def report_batch(self, batch: EncodedBatch, timeout_seconds: float) -> usage.ReportBatchResponse:
        """See `ReportPort`."""

        def call() -> usage.ReportBatchResponse | sense.Unreadable:
            self._upload = future = self._report_batch.future(batch.payload, timeout=timeout_seconds)
            return cast("usage.ReportBatchResponse | sense.Unreadable", future.result())

        return self._call("ReportBatch", call, lambda reply: sense.look_at_reported(batch, reply))

    def give_up_upload(self) -> None:
        """Whoever waits for the answer to a batch waits no more: it went to a database that is no more, and no
        session is opened with the one that took its place before it has ended.
        """
        upload = self._upload
        if upload is not None:
            upload.cancel()

    def report_refusals(
        self,
        holder: session.Holder,
        counts: Sequence[bytes],
        samples: Sequence[bytes],
        timeout_seconds: float,
    ) -> None:
        """See `ReportPort`."""
        request = usage.ReportRefusalsRequest(
            holder=holder,
            counts=[usage.RefusalCount.FromString(body) for body in counts],
            samples=[usage.RefusalSample.FromString(body) for body in samples],
        )
        self._call("ReportRefusals", lambda: self._report_refusals(request, timeout=timeout_seconds))

    def _call(
        self,
        rpc: str,
        call: Callable[[], _Reply | sense.Unreadable],
        look: Callable[[_Reply], None] = lambda _reply: None,
    ) -> _Reply:
        started = self._clock.monotonic()
        try:
            reply = call()
        except grpc.RpcError as error:
            note(self._link, error)
            raise meaning(error) from error
        except grpc.FutureCancelledError as error:
            raise Unreachable("CANCELLED", "given up here") from error
        except ValueError as error:  # how grpc says that the channel is closed
            raise Unreachable("CANCELLED", str(error)) from error
        finally:
            self._metrics.upstream_calls.labels(rpc).observe(self._clock.monotonic() - started)
        self._link.worked()
        return _with_sense(reply, look)

    def acquire(
        self, request: session.AcquireLeasesRequest, timeout_seconds: float, answered: Answered
    ) -> None:
        """See `AcquirePort`."""
        started = self._clock.monotonic()
        try:
            future = self._acquire.future(request, timeout=timeout_seconds)
        except ValueError as error:  # the channel is closed
            answered(Unreachable("CANCELLED", str(error)))
            return

        def done(call: Any) -> None:
            self._metrics.upstream_calls.labels("AcquireLeases").observe(self._clock.monotonic() - started)
            try:
                reply = call.result()
            except grpc.FutureCancelledError:
                answered(Unreachable("CANCELLED"))
            except grpc.RpcError as error:
                note(self._link, error)
                answered(meaning(error))
            else:
                self._link.worked()
                answered(_answer_to(request, reply))

        future.add_done_callback(done)

    def follow(self, outgoing: Iterator[feed.FollowRequest]) -> "FeedStream":
        """See the view's `Feed`. Has no deadline: keepalive ends it when the network does."""
        try:
            return FeedStream(self._follow(outgoing), self._link)
        except (grpc.RpcError, ValueError) as error:
            raise FeedLost(str(error)) from error


def _with_sense(reply: _Reply | sense.Unreadable, look: Callable[[_Reply], None]) -> _Reply:
    """Raises Unreachable: whether it has happened nobody can tell from such an answer."""
    if isinstance(reply, sense.Unreadable):
        raise Unreachable("INTERNAL", f"an answer without sense: {reply.why}")
    try:
        look(reply)
    except sense.Senseless as error:
        raise Unreachable("INTERNAL", f"an answer without sense: {error}") from error
    return reply


def _answer_to(
    request: session.AcquireLeasesRequest, reply: session.AcquireLeasesResponse | sense.Unreadable
) -> session.AcquireLeasesResponse | Unreachable:
    try:
        return _with_sense(reply, lambda read: sense.look_at_acquired(request, read))
    except Unreachable as senseless:
        return senseless


def note(link: Link, error: grpc.RpcError) -> None:
    """What a failed call says of the link."""
    code = error.code()
    if code is grpc.StatusCode.CANCELLED:
        return
    if is_own_word(error) or code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        link.worked()
    else:
        link.failed(code)


class FeedStream:
    """One open feed. Iterating blocks until a message comes and raises FeedLost when the stream ends."""

    def __init__(self, call: Any, link: Link) -> None:
        """`call` is grpc's; every message shows that the control plane is there."""
        self._call = call
        self._link = link

    def __iter__(self) -> Iterator[feed.FollowResponse]:
        """Itself."""
        return self

    def __next__(self) -> feed.FollowResponse:
        """The next message. Raises FeedLost."""
        try:
            message = next(self._call)
        except StopIteration:
            raise FeedLost("the control plane ended the feed") from None
        except grpc.RpcError as error:
            note(self._link, error)
            raise FeedLost(str(meaning(error))) from error
        self._link.worked()
        if isinstance(message, sense.Unreadable):
            raise FeedLost(f"a message without sense: {message.why}")
        return cast("feed.FollowResponse", message)

    def cancel(self) -> None:
        """Ends it from another thread."""
        self._call.cancel()
