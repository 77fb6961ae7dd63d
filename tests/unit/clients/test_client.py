"""The Python client: what it sends, what it makes of answers, and that repeats are safe; for both clients."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

import purser
import purser.aio
from purser.v1 import decision_pb2, usage_pb2
from purser.v1 import entitlement_service_pb2 as rpc_pb2
from tests.unit.clients.fake_sidecar import FakeSidecar, bad_request, status

ALLOWED = decision_pb2.Decision(decision_id="d1", allowed=True, reason=decision_pb2.REASON_OK)
REFUSED = decision_pb2.Decision(decision_id="d2", reason=decision_pb2.REASON_LIMIT_REACHED, message="used up")


class Awaited:
    """The async client, driven call by call, so that one test speaks to both."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._open(address))

    @staticmethod
    async def _open(address: str) -> purser.aio.Client:
        return purser.aio.Client(address)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            async def awaited() -> Any:
                return await method(*args, **kwargs)

            return self._runner.run(awaited())

        return call

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    """A sidecar on a real port."""
    fake = FakeSidecar()
    yield fake
    fake.close()


@pytest.fixture(params=["threads", "asyncio"])
def client(request: pytest.FixtureRequest, sidecar: FakeSidecar) -> Iterator[Any]:
    """Runs the test with each of the clients."""
    made: Any = purser.Client(sidecar.address) if request.param == "threads" else Awaited(sidecar.address)
    yield made
    made.close()


def test_a_check_by_quantity(client: Any, sidecar: FakeSidecar) -> None:
    """A quantity goes as a decimal string, and the decision comes back as exact values."""
    answer = decision_pb2.Decision(
        allowed=True,
        reason=decision_pb2.REASON_OK_OVERAGE,
        cost=usage_pb2.Amount(unit="usd", value="0.014232"),
        freshness=decision_pb2.Freshness(
            revision=7, age=Duration(nanos=5_000_000), source=decision_pb2.VIEW_SOURCE_LIVE
        ),
        balances=[
            decision_pb2.BalanceState(
                balance="allowance:chat",
                kind=decision_pb2.BALANCE_KIND_ALLOWANCE,
                limit="10",
                used="4",
                remaining="6",
            )
        ],
    )
    sidecar.answers.append(rpc_pb2.CheckAccessResponse(decision=answer))
    decision = client.check(customer_id="acme", feature="calls", quantity=Decimal("1E+2"), min_revision=3)
    assert sidecar.asked == [
        rpc_pb2.CheckAccessRequest(customer_id="acme", feature="calls", quantity="100", min_revision=3)
    ]
    assert decision
    assert decision.reason == purser.Reason.OK_OVERAGE
    assert decision.cost == purser.Amount("usd", Decimal("0.014232"))
    assert decision.freshness.age == timedelta(milliseconds=5)
    (balance,) = decision.balances
    assert (balance.kind, balance.remaining, balance.resets_at) == ("ALLOWANCE", Decimal(6), None)


def test_a_refusal_is_falsy_and_require_raises_it(client: Any, sidecar: FakeSidecar) -> None:
    """A refusal is an answer; only `require` makes an exception of it."""
    sidecar.answers.extend([rpc_pb2.CheckAccessResponse(decision=REFUSED)] * 2)
    assert not client.check(customer_id="acme", feature="calls")
    with pytest.raises(purser.AccessDenied, match="LIMIT_REACHED: used up") as denied:
        client.require(customer_id="acme", feature="calls")
    assert denied.value.decision.decision_id == "d2"


def test_a_key_is_made_once_for_all_tries(client: Any, sidecar: FakeSidecar) -> None:
    """Where the first try ends UNAVAILABLE, the second carries the same key."""
    sidecar.answers.append(status(grpc.StatusCode.UNAVAILABLE, "outcome unknown"))
    sidecar.answers.append(
        rpc_pb2.ConsumeUsageResponse(decision=ALLOWED, status=rpc_pb2.USAGE_STATUS_DUPLICATE)
    )
    decision = client.consume(customer_id="acme", event_name="job", measures={"points": 1})
    assert decision.status == "DUPLICATE"
    first, second = sidecar.asked
    assert first.event.idempotency_key
    assert first == second


def test_each_call_has_a_key_of_its_own(client: Any, sidecar: FakeSidecar) -> None:
    """Two calls without a key are two events; a given key is kept."""
    accepted = rpc_pb2.ReportUsageResponse(
        results=[rpc_pb2.ReportResult(status=rpc_pb2.USAGE_STATUS_ACCEPTED)]
    )
    sidecar.answers.extend([accepted] * 3)
    for fields in ({}, {}, {"idempotency_key": "mine"}):
        assert client.report(customer_id="acme", event_name="job", **fields)
    keys = [request.events[0].idempotency_key for request in sidecar.asked]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_an_event_carries_everything(client: Any, sidecar: FakeSidecar) -> None:
    """Every keyword reaches its field."""
    sidecar.answers.append(rpc_pb2.ConsumeUsageResponse(decision=ALLOWED))
    client.consume(
        feature="seats",
        idempotency_key="k",
        customer_id="c",
        subject_id="s",
        app_id="a",
        event_name="e",
        measures={"quantity": "2"},
        attributes={"model": "m"},
        occurred_at=datetime(2026, 1, 2, tzinfo=UTC),
        correlation_id="x",
        holder_id="h",
        gauge_change="SET",
    )
    (request,) = sidecar.asked
    event = usage_pb2.UsageEvent(
        idempotency_key="k",
        customer_id="c",
        subject_id="s",
        app_id="a",
        event_name="e",
        measures={"quantity": "2"},
        attributes={"model": "m"},
        correlation_id="x",
        holder_id="h",
        gauge_change=usage_pb2.GAUGE_CHANGE_SET,
    )
    event.occurred_at.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    assert request == rpc_pb2.ConsumeUsageRequest(event=event, feature="seats")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, purser.InvalidRequest),
        (grpc.StatusCode.ALREADY_EXISTS, purser.KeyConflict),
        (grpc.StatusCode.FAILED_PRECONDITION, purser.ReservationClosed),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, purser.Overloaded),
        (grpc.StatusCode.INTERNAL, purser.PurserError),
    ],
)
def test_errors_keep_their_details(
    client: Any, sidecar: FakeSidecar, code: grpc.StatusCode, error: type[purser.PurserError]
) -> None:
    """Each status is its own exception, with fields, reason and the time to wait."""
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
    info = error_details_pb2.ErrorInfo(reason="WHY", domain="purser.dev", metadata={"a": "b"})
    sidecar.answers.append(
        status(code, "no", info, retry, bad_request("event.measures[a]", "is not a number"))
    )
    with pytest.raises(error) as raised:
        client.consume(customer_id="acme", event_name="job")
    assert type(raised.value) is error
    assert raised.value.info.reason == "WHY"
    assert raised.value.info.metadata == {"a": "b"}
    assert raised.value.info.fields == {"event.measures[a]": "is not a number"}
    assert raised.value.info.retry_after == timedelta(seconds=2)


def _said_without_a_sidecar(kind: str, address: str) -> purser.PurserError:
    made: Any = purser.Client(address) if kind == "threads" else Awaited(address)
    with pytest.raises(purser.PurserError) as raised:
        made.check(customer_id="acme", feature="calls")
    made.close()
    return raised.value


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_nobody_there_is_said_with_the_mend(kind: str) -> None:
    """The address, and how to start one; nothing of gRPC's stands above it, and its code is at hand."""
    error = _said_without_a_sidecar(kind, "127.0.0.1:9")
    assert type(error) is purser.Unavailable
    assert str(error) == "no sidecar answers at 127.0.0.1:9; is one running? (`purser dev` starts one)"
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.__cause__ is None
    assert len(traceback.format_exception(error)) < 20
    error = _said_without_a_sidecar(kind, "unix:/nowhere/at/all")
    assert "No such file or directory" in str(error), "what is not plain refusal is passed on"


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_another_server_is_no_sidecar(kind: str) -> None:
    """The control plane's port, for instance, which speaks gRPC too."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    error = _said_without_a_sidecar(kind, address)
    server.stop(0).wait()
    assert str(error) == (
        f"{address} is no sidecar (the control plane, perhaps); a sidecar listens on 7070 by default"
    )
    assert (type(error), error.code) == (purser.PurserError, grpc.StatusCode.UNIMPLEMENTED)
    assert error.__cause__ is None


def test_what_is_not_foreseen_keeps_its_cause(client: Any, sidecar: FakeSidecar) -> None:
    """The library's own error says more then."""
    sidecar.answers.append(status(grpc.StatusCode.INTERNAL, "no"))
    with pytest.raises(purser.PurserError, match="no") as raised:
        client.check(customer_id="acme", feature="calls")
    assert isinstance(raised.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize(
    "target", ["localhost", "http://localhost:7070", "localhost:http", "a:0", ":7070", "unix:", ""]
)
@pytest.mark.parametrize("kind", [purser.Client, purser.aio.Client])
def test_a_target_that_is_none_is_told_at_once(kind: type[purser.Client], target: str) -> None:
    """Else port 443 would be dialled, or a host of that name looked for."""
    with pytest.raises(
        ValueError, match=f"target {target}: write HOST:PORT or unix:PATH, for instance localhost:7070"
    ):
        kind(target)


@pytest.mark.parametrize("target", ["sidecar:7070", "[::1]:7070", "unix:purser.sock", "dns:///sidecar:7070"])
def test_targets(target: str) -> None:
    """A host or an address with a port, a path, and what gRPC resolves by a scheme of its own."""
    purser.Client(target).close()


def test_the_version_is_that_of_the_distribution() -> None:
    """It is looked up when it is asked for: importing the client does not wait for that."""
    assert purser.__version__ == version("purser-entitlements")
    assert not hasattr(purser, "__colour__")
    code = "import sys, purser; print('importlib.metadata' in sys.modules, hasattr(purser, '__version__'))"
    without = "import sys, grpc, google.protobuf; print('importlib.metadata' in sys.modules)"
    ran = [
        subprocess.run(
            [sys.executable, "-c", each], capture_output=True, text=True, check=True
        ).stdout.split()
        for each in (without, code)
    ]
    assert ran == [ran[0], [*ran[0], "True"]]


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"measures": {"points": 0.1}}, TypeError, "a float is not exact"),
        ({"occurred_at": datetime(2026, 1, 2)}, ValueError, "has no time zone"),  # noqa: DTZ001 — the wrong input
        ({"measures": {"points": "abc"}}, ValueError, "measures.points: 'abc' is not a number; write digits"),
        ({"measures": {"points": None}}, TypeError, "measures.points: pass an int, a Decimal or a str"),
        ({"gauge_change": "TAKE"}, ValueError, "gauge_change: 'TAKE' is unknown; write ADD, REMOVE, SET"),
        ({"colour": "red"}, TypeError, "unknown field 'colour'"),
    ],
)
def test_wrong_keywords_are_told_before_anything_is_sent(
    client: Any, sidecar: FakeSidecar, fields: dict[str, Any], error: type[Exception], says: str
) -> None:
    """What can not be meant is refused on the spot."""
    with pytest.raises(error, match=says):
        client.consume(customer_id="acme", event_name="job", **fields)
    assert sidecar.asked == []


@pytest.mark.parametrize("number", ["NaN", "1e999999999"])
def test_numbers_beyond_all_bounds_are_the_sidecars_to_refuse(
    client: Any, sidecar: FakeSidecar, number: str
) -> None:
    """They are sent as they are, not written out to a billion digits."""
    sidecar.answers.append(rpc_pb2.ConsumeUsageResponse())
    client.consume(customer_id="acme", event_name="job", measures={"points": number})
    assert len(sidecar.asked[0].event.measures["points"]) < 20


def test_a_newer_reason_is_other(client: Any, sidecar: FakeSidecar) -> None:
    """A sidecar that knows more reasons than this client is still understood."""
    sidecar.answers.append(rpc_pb2.CheckAccessResponse(decision=decision_pb2.Decision(reason=999)))  # type: ignore[arg-type]
    assert client.check(customer_id="acme", feature="x").reason == purser.Reason.OTHER


def _reserved(sidecar: FakeSidecar, settles: int) -> None:
    open_ = rpc_pb2.Reservation(reservation_id="r", state=rpc_pb2.RESERVATION_STATE_OPEN)
    sidecar.answers.append(rpc_pb2.ReserveUsageResponse(decision=ALLOWED, reservation=open_))
    sidecar.answers.extend([rpc_pb2.SettleReservationResponse(reservation=open_)] * settles)
    sidecar.answers.append(rpc_pb2.ReleaseReservationResponse(reservation=open_))


def test_a_reservation_ends_with_its_last_measures(sidecar: FakeSidecar) -> None:
    """Leaving the block settles for good with what was settled last."""
    _reserved(sidecar, settles=3)
    with (
        purser.Client(sidecar.address) as client,
        client.reserve(customer_id="acme", event_name="job") as held,
    ):
        held.settle({"points": 1})
        held.settle({"points": 2})
    finals = [(request.event.measures["points"], request.final) for request in sidecar.asked[1:]]
    assert finals == [("1", False), ("2", False), ("2", True)]


def test_a_reservation_is_released_when_the_block_fails(sidecar: FakeSidecar) -> None:
    """An exception gives the hold back: what was settled until then is charged by the release."""
    _reserved(sidecar, settles=0)
    with (
        purser.Client(sidecar.address) as client,
        pytest.raises(ZeroDivisionError),
        client.reserve(customer_id="acme", event_name="job"),
    ):
        raise ZeroDivisionError
    assert isinstance(sidecar.asked[-1], rpc_pb2.ReleaseReservationRequest)


def test_a_reservation_awaited(sidecar: FakeSidecar) -> None:
    """`async with client.reserve(…)` is the same."""
    _reserved(sidecar, settles=2)

    async def program() -> None:
        async with (
            purser.aio.Client(sidecar.address) as client,
            client.reserve(customer_id="acme", event_name="job", reservation_id="r9") as held,
        ):
            assert held
            await held.settle({"points": 5})

    asyncio.run(program())
    assert [request.reservation_id for request in sidecar.asked] == ["r9"] * 3
    assert sidecar.asked[-1].final


def test_a_refused_reservation_needs_no_ending(sidecar: FakeSidecar) -> None:
    """Nothing is held, so nothing is released."""
    sidecar.answers.append(rpc_pb2.ReserveUsageResponse(decision=REFUSED))
    with (
        purser.Client(sidecar.address) as client,
        client.reserve(customer_id="acme", event_name="job") as held,
    ):
        assert not held
    assert len(sidecar.asked) == 1


def test_watch(sidecar: FakeSidecar) -> None:
    """Each state comes as it is sent."""
    for revision in (1, 2):
        sidecar.answers.append(
            rpc_pb2.WatchEntitlementsResponse(
                freshness=decision_pb2.Freshness(revision=revision), reason=decision_pb2.REASON_OK
            )
        )

    async def program() -> list[int]:
        async with purser.aio.Client(sidecar.address) as client:
            return [state.freshness.revision async for state in client.watch(customer_id="acme")]

    with purser.Client(sidecar.address) as client:
        assert [state.freshness.revision for state in client.watch(customer_id="acme")] == [1, 2]
    assert asyncio.run(program()) == [1, 2]
