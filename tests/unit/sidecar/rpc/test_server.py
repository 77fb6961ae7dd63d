"""Many calls at once, over a real socket: each is served, or turned away in words."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import entitlement_service_pb2_grpc as stubs
from sidecar.rpc.pools import Pools
from sidecar.rpc.server import ApiServer, Handlers
from tests.unit.sidecar.rpc.fakes import FakeVerbs, Verb, handlers, small_pools

REQUEST = api.CheckAccessRequest(customer_id="acme", feature="sso")
HERD = 4_000


class Held(Handlers):
    """Looks at no call before it is let go."""

    gate = threading.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """As always, once it is let go."""
        self.gate.wait(30)
        return super().service(handler_call_details)


@contextmanager
def serving(verbs: FakeVerbs, pools: Pools, kind: type[Handlers] = Handlers) -> Iterator[Any]:
    """A stub of a server above these verbs."""
    server = ApiServer(handlers(verbs, pools, kind), pools, address="127.0.0.1:0", tls=None)
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield stubs.EntitlementServiceStub(channel)
    finally:
        server.stop(0)


def heard(call: Any) -> str:
    """How a call ended: `OK`, or the reason of its ErrorInfo; without one, the bare status."""
    try:
        call.result(timeout=60)
    except grpc.RpcError as error:
        status = rpc_status.from_call(cast("grpc.Call", error))
        for packed in () if status is None else status.details:
            if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                packed.Unpack(info)
                return str(info.reason)
        return f"{call.code()} without ErrorInfo"
    return "OK"


def test_a_herd_is_served_or_turned_away_in_words() -> None:
    """Thousands of calls that come before the server looks at the first one: none is cancelled without a word."""
    verbs = FakeVerbs()
    verbs.check.answer = b""
    Held.gate.clear()
    with serving(verbs, small_pools(calls_max=5_000), Held) as stub:
        ended = threading.Event()
        calls = [stub.CheckAccess.future(REQUEST, timeout=60) for _ in range(HERD)]
        for call in calls:
            call.add_done_callback(lambda _call: ended.set())
        assert not ended.wait(1), "a call ended before anybody had looked at it"
        Held.gate.set()
        found = Counter(heard(call) for call in calls)
    assert found.keys() <= {"OK", "OVERLOADED"}
    assert found["OK"] > 0


def test_no_more_calls_are_in_flight_than_are_taken_on() -> None:
    """Over all kinds of calls together: what is above is RESOURCE_EXHAUSTED with ErrorInfo, and nothing else is."""
    verbs = FakeVerbs()
    gate = threading.Event()

    class Waits(Verb):
        def __call__(self, *_args: Any, **_kwargs: Any) -> bytes:
            gate.wait(30)
            return b""

    verbs.check = Waits()
    with serving(verbs, small_pools(calls_max=3)) as stub:
        ended: SimpleQueue[Any] = SimpleQueue()
        calls = [stub.CheckAccess.future(REQUEST, timeout=60) for _ in range(10)]
        for call in calls:
            call.add_done_callback(ended.put)
        assert Counter(heard(ended.get(timeout=30)) for _ in range(7)) == {"OVERLOADED": 7}
        gate.set()
        assert Counter(heard(call) for call in calls) == {"OVERLOADED": 7, "OK": 3}
