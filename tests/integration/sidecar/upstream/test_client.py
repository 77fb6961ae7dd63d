"""The ports over a real gRPC channel, against a small server in the same process."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from purser.sync.v1 import feed_pb2 as feed
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as usage
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceServicer, add_SyncServiceServicer_to_server
from sidecar.outbox.encoding import encode_batch, usage_body
from sidecar.outbox.port import Identity
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.metrics import Metrics
from sidecar.runtime.trouble import Refused, SequenceGap, Unreachable
from sidecar.upstream.channel import Security, TokenFile, TokenOverPlainChannel, open_channel
from sidecar.upstream.client import ControlPlane
from sidecar.upstream.link import Link
from sidecar.view.port import FeedLost


class Server(SyncServiceServicer):
    """Answers what the test has put in."""

    def __init__(self) -> None:
        """Listens on a free port."""
        self.abort: grpc.StatusCode | None = None
        self.status: grpc.Status | None = None
        self.gap: int | None = None
        self.batches: list[usage.ReportBatchRequest] = []
        self.delay_seconds = 0.0
        self.port = 0
        self.start()

    def start(self) -> None:
        """On the port it had before, if it had one."""
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        add_SyncServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """As a crash."""
        self._server.stop(None).wait()

    def _trouble(self, context: grpc.ServicerContext) -> None:
        time.sleep(self.delay_seconds)
        if self.abort is not None:
            context.abort(self.abort, "because")
        if self.status is not None:
            context.abort_with_status(self.status)

    def OpenSession(
        self, request: session.OpenSessionRequest, context: grpc.ServicerContext
    ) -> session.OpenSessionResponse:
        """Epoch 7."""
        self._trouble(context)
        assert context.time_remaining() is not None
        reply = session.OpenSessionResponse(epoch=7)
        reply.now.GetCurrentTime()
        return reply

    def AcquireLeases(
        self, request: session.AcquireLeasesRequest, context: grpc.ServicerContext
    ) -> session.AcquireLeasesResponse:
        """Revision 5."""
        self._trouble(context)
        return session.AcquireLeasesResponse(revision=5)

    def ReportBatch(
        self, request: usage.ReportBatchRequest, context: grpc.ServicerContext
    ) -> usage.ReportBatchResponse:
        """Keeps it, or sees a gap."""
        self._trouble(context)
        if self.gap is not None:
            status = status_pb2.Status(code=code_pb2.OUT_OF_RANGE, message="a gap")
            info = any_pb2.Any()
            info.Pack(error_details_pb2.ErrorInfo(reason="GAP", metadata={"expected_seq": str(self.gap)}))
            status.details.append(info)
            context.abort_with_status(rpc_status.to_status(status))
        self.batches.append(request)
        return usage.ReportBatchResponse(cursor=request.last_seq)

    def CloseSession(
        self, request: session.CloseSessionRequest, context: grpc.ServicerContext
    ) -> session.CloseSessionResponse:
        """Ended."""
        self._trouble(context)
        return session.CloseSessionResponse(ended=True, cursor=request.final_seq)

    def ReportRefusals(
        self, request: usage.ReportRefusalsRequest, context: grpc.ServicerContext
    ) -> usage.ReportRefusalsResponse:
        """Thanks."""
        self._trouble(context)
        assert request.HasField("holder")
        return usage.ReportRefusalsResponse()

    def Follow(
        self, request_iterator: Iterator[feed.FollowRequest], context: grpc.ServicerContext
    ) -> Iterator[feed.FollowResponse]:
        """Echoes revisions."""
        for request in request_iterator:
            if request.start.revision < 0:
                return
            yield feed.FollowResponse(heartbeat=feed.Heartbeat(revision=request.start.revision))


@pytest.fixture
def server() -> Iterator[Server]:
    """A running one."""
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def link() -> Link:
    """Up."""
    return Link(SystemClock(), Metrics(CollectorRegistry()), silent_seconds=0.25)


@pytest.fixture
def upstream(server: Server, link: Link) -> Iterator[ControlPlane]:
    """Connected to the server, and the link has heard of it: that can come later than a call's answer."""
    channel = open_channel(f"127.0.0.1:{server.port}", Security())
    client = ControlPlane(channel, link=link, clock=SystemClock(), metrics=Metrics(CollectorRegistry()))
    grpc.channel_ready_future(channel).result(timeout=10)
    yield client
    client.close()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def acquire(upstream: ControlPlane, seconds: float = 5.0) -> object:
    """The answer to an empty request."""
    answers: queue.SimpleQueue[object] = queue.SimpleQueue()
    upstream.acquire(session.AcquireLeasesRequest(), seconds, answers.put)
    return answers.get(timeout=seconds + 5)


def test_an_encoded_batch_arrives_as_it_was_meant(upstream: ControlPlane, server: Server) -> None:
    """The bytes that were joined from the rows are a ReportBatchRequest to the other side."""
    bodies = [usage_body(usage.Usage(decision_id="a").SerializeToString()), b""]
    reply = upstream.report_batch(encode_batch(Identity("o", "i"), 300, bodies), 5)
    assert reply.cursor == 301
    assert server.batches == [
        usage.ReportBatchRequest(
            holder=session.Holder(outbox_id="o", incarnation_id="i"),
            first_seq=300,
            last_seq=301,
            records=[usage.Record(seq=300, usage=usage.Usage(decision_id="a")), usage.Record(seq=301)],
        )
    ]


def test_an_upload_that_was_given_up_is_waited_for_no_more(upstream: ControlPlane, server: Server) -> None:
    """Whatever has become of it. The next one is another matter."""
    server.delay_seconds = 1.0
    began = time.monotonic()
    given_up = threading.Timer(0.1, upstream.give_up_upload)
    given_up.start()
    with pytest.raises(Unreachable, match="given up"):
        upstream.report_batch(encode_batch(Identity("o", "i"), 1, [b""]), 10)
    assert time.monotonic() - began < 0.9
    given_up.join()
    server.delay_seconds = 0.0
    assert upstream.report_batch(encode_batch(Identity("o", "i"), 1, [b""]), 10).cursor == 1


def test_a_gap_says_what_was_expected(upstream: ControlPlane, server: Server) -> None:
    """OUT_OF_RANGE carries the number in its details."""
    server.gap = 17
    with pytest.raises(SequenceGap) as caught:
        upstream.report_batch(encode_batch(Identity("o", "i"), 300, [b""]), 5)
    assert caught.value.expected_seq == 17


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, Refused),
        (grpc.StatusCode.INVALID_ARGUMENT, Refused),
        (grpc.StatusCode.INTERNAL, Unreachable),
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Unreachable),
    ],
)
def test_what_may_have_happened_is_told_from_what_has_not(
    upstream: ControlPlane, server: Server, code: grpc.StatusCode, kind: type[Refused | Unreachable]
) -> None:
    """Both for calls that wait and for those that answer later."""
    server.abort = code
    with pytest.raises((Refused, Unreachable)) as caught:
        upstream.open_session(session.OpenSessionRequest(), 5)
    assert isinstance(caught.value, kind)
    assert caught.value.code == code.name
    answer = acquire(upstream)
    assert isinstance(answer, kind)
    assert answer.code == code.name


@pytest.mark.parametrize(("reason", "is_down"), [("DATABASE_UNAVAILABLE", False), ("SHUTTING_DOWN", True)])
def test_a_control_plane_that_says_that_it_can_not_is_there(
    upstream: ControlPlane, server: Server, link: Link, reason: str, is_down: bool
) -> None:
    """Its database is in trouble: whoever asks waits a while, and nobody takes it to have come back with each word."""
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="purser.dev"))
    server.status = rpc_status.to_status(status_pb2.Status(code=code_pb2.UNAVAILABLE, details=[info]))
    answer = acquire(upstream)
    assert isinstance(answer, Unreachable)
    assert answer.code == "UNAVAILABLE"
    with pytest.raises(Unreachable):
        upstream.open_session(session.OpenSessionRequest(), 5)
    assert (link.is_down, link.outage) == (is_down, 0)


def test_a_call_ends_at_its_deadline_and_a_silent_control_plane_is_doubted(
    upstream: ControlPlane, server: Server, link: Link
) -> None:
    """Where nothing is heard at all, a call without an answer means that it is away, until it may be tried."""
    assert upstream.open_session(session.OpenSessionRequest(), 5).epoch == 7
    server.delay_seconds = 1.0
    started = time.monotonic()
    assert isinstance(acquire(upstream, 0.1), Unreachable)
    assert not link.is_down
    assert isinstance(acquire(upstream, 0.2), Unreachable)
    assert time.monotonic() - started < 0.9
    assert upstream.is_down
    server.delay_seconds = 0.0
    until(lambda: not upstream.is_down)
    assert isinstance(acquire(upstream), session.AcquireLeasesResponse)
    assert link.outage == 1


def test_a_stopped_control_plane_is_known_within_moments_and_so_is_its_return(
    upstream: ControlPlane, server: Server, link: Link
) -> None:
    """Nobody has to call to find out; who wants to hear of the return is told."""
    back = threading.Event()
    link.on_back(back.set)
    assert isinstance(acquire(upstream), session.AcquireLeasesResponse)
    server.stop()
    until(lambda: upstream.is_down, 5)
    started = time.monotonic()
    assert upstream.is_down
    assert time.monotonic() - started < 0.5
    server.start()
    until(lambda: not upstream.is_down, 15)
    assert back.wait(5)


def test_the_feed_ends_with_feed_lost_whatever_ended_it(upstream: ControlPlane, server: Server) -> None:
    """By the other side, by us, or by a crash."""
    outgoing: queue.SimpleQueue[feed.FollowRequest] = queue.SimpleQueue()
    call = upstream.follow(iter(outgoing.get, None))
    outgoing.put(feed.FollowRequest(start=feed.Start(revision=3)))
    assert next(call).heartbeat.revision == 3
    call.cancel()
    with pytest.raises(FeedLost):
        next(call)
    outgoing = queue.SimpleQueue()
    call = upstream.follow(iter(outgoing.get, None))
    outgoing.put(feed.FollowRequest(start=feed.Start(revision=-1)))
    with pytest.raises(FeedLost):
        next(call)
    call = upstream.follow(iter([feed.FollowRequest(start=feed.Start(revision=4))]))
    assert next(call).heartbeat.revision == 4
    server.stop()
    with pytest.raises(FeedLost):
        next(call)


def test_a_closed_channel_is_unreachable_and_not_a_crash(server: Server, link: Link) -> None:
    """At shutdown, what is still asked is answered in the ports' own words."""
    channel = open_channel(f"127.0.0.1:{server.port}", Security())
    client = ControlPlane(channel, link=link, clock=SystemClock(), metrics=Metrics(CollectorRegistry()))
    client.close()
    with pytest.raises(Unreachable):
        client.open_session(session.OpenSessionRequest(), 1)
    assert isinstance(acquire(client), Unreachable)
    with pytest.raises(FeedLost):
        next(client.follow(iter([])))


def test_a_token_is_read_again_when_its_file_changes_and_never_travels_in_the_clear(tmp_path: Path) -> None:
    """Rotation without a restart; a plain channel refuses to carry one; a file that vanishes leaves the last
    one in use.
    """
    path = tmp_path / "token"
    path.write_text("first\n")
    token = TokenFile(path)
    assert token.token() == "first"
    replacement = tmp_path / "new"
    replacement.write_text("second\n")
    replacement.rename(path)
    assert token.token() == "second"
    path.unlink()
    assert token.token() == "second"
    with pytest.raises(TokenOverPlainChannel):
        open_channel("127.0.0.1:1", Security(token_file=path))
