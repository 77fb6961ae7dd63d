"""The edge above verbs that answer what a test tells them to, called with and without a socket."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import grpc
import grpc_testing
from google.rpc import error_details_pb2, status_pb2

from purser.v1 import entitlement_service_pb2 as api
from sidecar.deciding.entitlements import Entitled
from sidecar.rpc.fast import FastChecks
from sidecar.rpc.fast_consume import FastConsumes
from sidecar.rpc.pools import Pools, make_pools
from sidecar.rpc.server import SERVICE, Handlers
from sidecar.rpc.service import EntitlementService, Verbs
from sidecar.runtime.clock import ManualClock

DESCRIPTOR = api.DESCRIPTOR.services_by_name["EntitlementService"]


class Verb:
    """Answers `answer`, or raises it, and keeps what it was asked."""

    def __init__(self) -> None:
        """Answers nothing yet."""
        self.answer: Any = None
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One call."""
        self.asked.append((args, kwargs))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Watched:
    """A watch that says so much and ends."""

    def __init__(self, states: list[Entitled]) -> None:
        """`states`, in order."""
        self.states = states
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Entitled]:
        return iter(self.states)

    def close(self) -> None:
        """The caller is gone."""
        self.closed.set()


class Lists:
    """Both ways to ask for entitlements."""

    def __init__(self) -> None:
        """Answers nothing yet."""
        self.list = Verb()
        self.watch = Verb()
        self.forget = Verb()


class FakeVerbs:
    """A fake of each verb."""

    def __init__(self) -> None:
        """None answers yet."""
        self.check, self.consume, self.report = Verb(), Verb(), Verb()
        self.reserve, self.settle, self.extend, self.release = Verb(), Verb(), Verb(), Verb()
        self.listing = Lists()
        self.clock = ManualClock()


class NothingKept:
    """Every call goes the slow way."""

    def check(self, slow: Any) -> Any:
        """As it is."""
        return slow

    batch = consume = check


def small_pools(*, calls_max: int = 100) -> Pools:
    """A thread or two for each kind."""
    return make_pools(read_threads=2, write_threads=2, stream_threads=2, calls_max=calls_max)


def handlers(verbs: FakeVerbs, pools: Pools, kind: type[Handlers] = Handlers) -> Handlers:
    """The real edge above these verbs."""
    service = EntitlementService(cast("Verbs", verbs))
    nothing = NothingKept()
    return kind(service, cast("FastChecks", nothing), cast("FastConsumes", nothing), pools)


class _Ended(Exception):
    """The call was ended with a status."""


class _Context:
    """A context of grpc-testing, with the one thing that it lacks: to end a call with details."""

    def __init__(self, inner: grpc.ServicerContext) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call."""
        self._inner.set_trailing_metadata(status.trailing_metadata or ())
        self._inner.set_code(status.code)
        self._inner.set_details(status.details)
        raise _Ended


class _Servicer:
    """What grpc-testing calls: a method for each rpc."""

    def __init__(self, found: Handlers) -> None:
        self._found = found

    def __getattr__(self, rpc: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        handler = cast("Any", self._found._methods[f"/{SERVICE}/{rpc}"].handler)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return handler.unary_unary(request.SerializeToString(), _Context(context))
            except _Ended:
                return None

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with contextlib.suppress(_Ended):
                yield from handler.unary_stream(request.SerializeToString(), _Context(context))

        return stream if handler.response_streaming else unary


@dataclass(frozen=True)
class Told:
    """What a caller hears: the response, or the responses of a stream, and how the call ended."""

    response: Any
    code: grpc.StatusCode
    details: dict[str, Any]
    """What the status carries, by the name of its kind."""


class Caller:
    """Calls each rpc through grpc-testing, without a socket."""

    def __init__(self, verbs: FakeVerbs) -> None:
        """Time stands still."""
        time = grpc_testing.strict_fake_time(0)
        servicer = _Servicer(handlers(verbs, small_pools()))
        self._server = grpc_testing.server_from_dictionary({DESCRIPTOR: servicer}, time)

    def call(self, rpc: str, request: Any, *, timeout: float | None = 5) -> Told:
        """One call of a unary rpc."""
        method = DESCRIPTOR.methods_by_name[rpc]
        call = self._server.invoke_unary_unary(method, (), request, timeout)
        response, metadata, code, _ = call.termination()
        decoded = None if response is None else _decoded(method, response)
        return Told(decoded, code, _details(metadata))

    def stream(self, rpc: str, request: Any, *, takes: int) -> Told:
        """One call of a rpc that answers with a stream, of which so many responses are taken."""
        method = DESCRIPTOR.methods_by_name[rpc]
        call = self._server.invoke_unary_stream(method, (), request, 5)
        responses = [_decoded(method, call.take_response()) for _ in range(takes)]
        metadata, code, _ = call.termination()
        return Told(responses, code, _details(metadata))


def _decoded(method: Any, response: bytes) -> Any:
    return getattr(api, method.output_type.name).FromString(response)


def _details(metadata: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                detail = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
                packed.Unpack(detail)
                found[type(detail).__name__] = detail
    return found
