"""The generator counts what the server saw, and does not take an error for an answer."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from purser.v1 import entitlement_service_pb2 as s
from tests.benchmarks import payloads
from tests.benchmarks.load import Load, LoadFailed, header_block, percentile

LARGE = b"x" * 100_000


class Recorder:
    """Answers `Say` with what it got, `Fail` with an error, `Large` with more than a frame holds."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(4))
        methods = {"Say": self.say, "Fail": self.fail, "Large": self.large}
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.seen.append(request)
        return request

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        raise AssertionError("abort raises")

    def large(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return LARGE

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.stop()


@pytest.mark.parametrize(("in_flight", "connections"), [(1, 1), (32, 1), (32, 4), (3, 8)])
def test_every_call_arrives_once(recorder: Recorder, in_flight: int, connections: int) -> None:
    """As many calls as asked for, each with a body of its own, each answered and timed."""
    load = Load(recorder.port, in_flight=in_flight, connections=connections)
    sample = load.run("/test.Test/Say", lambda n: b"call %d" % n, seconds=30, limit=500)
    expected = sorted(b"call %d" % n for n in range(500))
    assert sorted(recorder.seen) == expected
    assert sorted(sample.answers) == expected
    assert (sample.calls, sample.failures, len(sample.latencies_us)) == (500, 0, 500)


def test_it_stops_after_its_time(recorder: Recorder) -> None:
    """A round lasts as long as it was told, and waits for the last answers."""
    sample = Load(recorder.port).run("/test.Test/Say", lambda _: b"", seconds=0.2)
    assert 0.2 <= sample.seconds < 5
    assert sample.calls == len(recorder.seen) > 32


def test_errors_are_failures(recorder: Recorder) -> None:
    """A call that ends with a status and no message is counted apart."""
    sample = Load(recorder.port, in_flight=2).run("/test.Test/Fail", lambda _: b"", seconds=30, limit=10)
    assert (sample.failures, sample.answers) == (10, [])


def test_unknown_methods_are_failures(recorder: Recorder) -> None:
    """What h2load would count as a success is none."""
    sample = Load(recorder.port, in_flight=2).run("/test.Test/None", lambda _: b"", seconds=30, limit=10)
    assert sample.failures == 10


def test_answers_larger_than_a_frame(recorder: Recorder) -> None:
    """Answers are put together from several frames."""
    sample = Load(recorder.port, in_flight=2).run("/test.Test/Large", lambda _: b"", seconds=30, limit=20)
    assert sample.answers == [LARGE] * 20


def test_a_server_that_goes_away_is_an_error(recorder: Recorder) -> None:
    """A broken connection ends the round instead of shortening it."""
    timer = threading.Timer(0.3, recorder.stop)
    timer.start()
    with pytest.raises(LoadFailed):
        Load(recorder.port).run("/test.Test/Say", lambda _: b"", seconds=30)
    timer.join()


def test_headers_that_are_too_long_are_refused() -> None:
    """The block writer does not write what it can not."""
    with pytest.raises(ValueError, match="longer"):
        header_block("/" + "x" * 200, "localhost")


def test_percentiles() -> None:
    """The value that so many percent do not exceed."""
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 50) == 51
    assert percentile(values, 99) == 100
    assert percentile([7.0], 99) == 7


def test_keys_never_repeat() -> None:
    """Each consume is an event of its own, in a round and across rounds; all else is the same."""
    scenario = payloads.consume("cus", "any")
    bodies = [body(n) for body in (scenario.bodies(), scenario.bodies()) for n in range(100)]
    requests = [s.ConsumeUsageRequest.FromString(body) for body in bodies]
    assert len({request.event.idempotency_key for request in requests}) == 200
    for request in requests:
        request.event.idempotency_key = "k"
        assert request == payloads.consume_request("cus", "k")
    new = payloads.new_consumes("cus", "any").bodies()
    requests = [s.ConsumeUsageRequest.FromString(new(n)) for n in range(100)]
    assert (
        len({(each.event.idempotency_key, each.event.measures["input_tokens"]) for each in requests}) == 100
    )
    for request in requests:
        request.event.idempotency_key, request.event.measures["input_tokens"] = "k", "1"
        assert request == payloads.consume_request("cus", "k", "1")


def test_new_questions_are_new() -> None:
    """No two are alike, in batches neither, and each is a question that can be asked."""
    unary = payloads.new_checks(["a", "b"]).bodies()
    batches = payloads.new_batches(["a", "b"]).bodies()
    alone = [s.CheckAccessRequest.FromString(unary(n)) for n in range(100)]
    together = [item for n in range(3) for item in s.BatchCheckAccessRequest.FromString(batches(n)).requests]
    assert len(together) == 3 * payloads.BATCH
    for asked in (alone, together):
        assert len({request.event.measures["input_tokens"] for request in asked}) == len(asked)
        for request in asked:
            assert request.customer_id in {"a", "b"}
            request.event.measures["input_tokens"] = "1"
            assert request == payloads.check_request(request.customer_id, "1")


def test_the_yardstick_answers_what_is_asked_of_the_sidecar() -> None:
    """The prebuilt decision passes the check that a sidecar's answers must pass; a thinner one does not."""
    decision = payloads.full_decision()
    payloads.echo().verify(s.CheckAccessResponse(decision=decision).SerializeToString())
    del decision.balances[1:]
    with pytest.raises(payloads.WrongAnswer):
        payloads.echo().verify(s.CheckAccessResponse(decision=decision).SerializeToString())
