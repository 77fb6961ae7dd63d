"""Calls begin when they are due, and latency counts from there."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.benchmarks.open_loop import OpenLoop, schedule

METHOD = "/test.Test/Say"


class Gate:
    """Answers what it got, once it is open; refuses `no`."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.arrived: list[float] = []
        self._server = grpc.server(ThreadPoolExecutor(64))
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self.say)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Test", {"Say": handler}),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.arrived.append(time.perf_counter())
        self.opened.wait(30)
        if request == b"no":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")
        return request

    def stop(self) -> None:
        self.opened.set()
        self._server.stop(None).wait()


@pytest.fixture
def gate() -> Iterator[Gate]:
    server = Gate()
    yield server
    server.stop()


def test_a_schedule_is_the_same_for_the_same_seed() -> None:
    """As many instants as the rate says, in order, within the time; another seed gives others."""
    due = schedule(1_000, 2.0, seed=1)
    assert due == sorted(due) == schedule(1_000, 2.0, seed=1) != schedule(1_000, 2.0, seed=2)
    assert 1_800 < len(due) < 2_200
    assert 0 < due[0] < due[-1] < 2.0


def test_every_call_is_sent_when_it_is_due(gate: Gate) -> None:
    """None before its instant; each is answered once, and timed."""
    gate.opened.set()
    due = schedule(500, 0.5, seed=1)
    began = time.perf_counter()
    paced = OpenLoop(gate.port).run(METHOD, lambda n: b"call %d" % n, due)
    assert sorted(paced.sample.answers) == sorted(b"call %d" % n for n in range(len(due)))
    assert len(paced.sample.latencies_us) == len(paced.late_us) == len(due)
    assert (paced.not_answered, min(paced.late_us) >= 0) == (0, True)
    assert all(at >= began + instant for at, instant in zip(sorted(gate.arrived), due, strict=True))


def test_calls_do_not_wait_for_answers(gate: Gate) -> None:
    """A server that stands still gets the calls all the same, and each latency has the wait since its instant in it."""
    due = [n / 1_000 for n in range(20)]

    def opens_after_all_have_come() -> None:
        while len(gate.arrived) < len(due):
            threading.Event().wait(0.001)
        gate.opened.set()

    opener = threading.Thread(target=opens_after_all_have_come)
    opener.start()
    paced = OpenLoop(gate.port).run(METHOD, lambda _: b"x", due)
    opener.join()
    assert paced.not_answered == 0
    # All were answered after the last one came, so the first has waited for at least so long.
    assert max(paced.sample.latencies_us) >= (max(gate.arrived) - min(gate.arrived)) * 1e6
    assert max(gate.arrived) - min(gate.arrived) > 0


def test_a_late_generator_does_not_hide_it(gate: Gate) -> None:
    """Latency counts from the intended instant, even where the call was sent long after it."""
    gate.opened.set()
    due = [-5.0, -5.0, -5.0]  # overdue when it begins
    paced = OpenLoop(gate.port).run(METHOD, lambda _: b"x", [*due, 0.01])
    assert sum(latency >= 5e6 for latency in paced.sample.latencies_us) == 3
    assert sum(late >= 5e6 for late in paced.late_us) == 3


def test_refusals_are_counted_apart(gate: Gate) -> None:
    """A call that ends without a message was not answered."""
    gate.opened.set()
    paced = OpenLoop(gate.port).run(METHOD, lambda n: b"no" if n % 2 else b"yes", schedule(200, 0.2, seed=3))
    assert paced.not_answered == paced.sample.failures > 0
    assert set(paced.sample.answers) == {b"yes"}
