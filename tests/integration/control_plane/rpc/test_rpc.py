"""purser.sync.v1 over real sockets: the door, errors, and recalls between replicas."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from control_plane.app import Running
from purser.sync.v1 import feed_pb2, usage_pb2
from purser.sync.v1.session_pb2 import (
    AcquireLeasesRequest,
    AcquireLeasesResponse,
    BalanceRef,
    Holder,
    IncarnationState,
    OpenSessionRequest,
    Want,
)
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from tests.integration.control_plane.serving import following, serving
from tests.integration.control_plane.setting import make_subscriber, publish_text

ALLOWANCE = BalanceRef(customer_id="acme", balance="allowance:api")


def stub_of(channel: grpc.aio.Channel) -> Any:
    """The generated stub, whose types are those of blocking calls."""
    return SyncServiceStub(channel)


async def open_session(stub: Any, holder: Holder) -> int:
    request = OpenSessionRequest(
        holder=holder, open_incarnations=[IncarnationState(incarnation_id=holder.incarnation_id)]
    )
    return int((await stub.OpenSession(request)).epoch)


async def acquire(
    stub: Any, holder: Holder, epoch: int, request_id: str, amount: int
) -> AcquireLeasesResponse:
    want = Want(ref=ALLOWANCE, need=amount, amount=amount)
    request = AcquireLeasesRequest(holder=holder, epoch=epoch, request_id=request_id, wants=[want])
    response = await stub.AcquireLeases(request)
    assert isinstance(response, AcquireLeasesResponse)
    return response


@pytest.mark.parametrize(
    "rpc", ["OpenSession", "CloseSession", "AcquireLeases", "ReportBatch", "ReportRefusals"]
)
async def test_bytes_that_are_no_request(sqlite_url: str, rpc: str) -> None:
    """INVALID_ARGUMENT, as for every other mistake; the next call is served."""
    async with (
        serving(sqlite_url) as control_plane,
        grpc.aio.insecure_channel(control_plane.grpc_address) as channel,
    ):
        call: Any = channel.unary_unary(f"/purser.sync.v1.SyncService/{rpc}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\x0a\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert info_of(caught.value).reason == "MALFORMED"
        assert await open_session(stub_of(channel), Holder(outbox_id="o", incarnation_id="i")) > 0


async def test_a_reason_of_a_newer_sidecar(sqlite_url: str) -> None:
    """Refusals whose reason has no name here are taken all the same."""
    async with (
        serving(sqlite_url) as control_plane,
        grpc.aio.insecure_channel(control_plane.grpc_address) as channel,
    ):
        holder = Holder(outbox_id="o", incarnation_id="i")
        await open_session(stub_of(channel), holder)
        count: Any = usage_pb2.RefusalCount(customer_id="acme", feature="chat", count=3)
        count.reason = 99
        await stub_of(channel).ReportRefusals(usage_pb2.ReportRefusalsRequest(holder=holder, counts=[count]))


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that every error carries."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "purser.dev"
    return info


async def test_a_recall_crosses_replicas(postgres_url: str) -> None:
    """A sidecar of one replica gives back what the caller at another needs, within the caller's wait."""
    async with serving(postgres_url) as one, serving(postgres_url) as two:
        await publish_text(one.database)
        await make_subscriber(one.database, "acme")
        idle, needy = Holder(outbox_id="o1", incarnation_id="i1"), Holder(outbox_id="o2", incarnation_id="i2")
        async with (
            grpc.aio.insecure_channel(one.grpc_address) as channel_one,
            grpc.aio.insecure_channel(two.grpc_address) as channel_two,
        ):
            stub_one, stub_two = stub_of(channel_one), stub_of(channel_two)
            epoch = await open_session(stub_one, idle)
            (lease,) = (await acquire(stub_one, idle, epoch, "r1", 100)).acquired[0].leases
            assert lease.slices[0].amount == 100
            async with following(one, "acme", incarnation="i1") as follower:

                async def obey() -> None:
                    await follower.until(lambda: bool(follower.recalls))
                    returned = usage_pb2.ReturnedAmount(lease_id=lease.lease_id, amount=100)
                    record = usage_pb2.Record(seq=1, returned=returned)
                    batch = usage_pb2.ReportBatchRequest(
                        holder=idle, first_seq=1, last_seq=1, records=[record]
                    )
                    await stub_one.ReportBatch(batch)
                    recalled = feed_pb2.Recalled(
                        recall_id=follower.recalls[0].recall_id, last_seq=1, lease_ids=[lease.lease_id]
                    )
                    await follower.call.write(feed_pb2.FollowRequest(recalled=recalled))

                obeying = asyncio.create_task(obey())
                epoch = await open_session(stub_two, needy)
                answer = await acquire(stub_two, needy, epoch, "r2", 60)
                await obeying
                recall = follower.recalls[0]
                assert (recall.ref, recall.idle_only) == (ALLOWANCE, True)
            assert sum(part.slices[0].amount for part in answer.acquired[0].leases) == 60


async def test_errors_carry_their_facts(sqlite_url: str) -> None:
    """A gap is OUT_OF_RANGE with the expected number, an old epoch FAILED_PRECONDITION, nonsense INVALID_ARGUMENT."""
    async with (
        serving(sqlite_url) as control_plane,
        grpc.aio.insecure_channel(control_plane.grpc_address) as channel,
    ):
        stub = stub_of(channel)
        holder = Holder(outbox_id="o", incarnation_id="i")
        await open_session(stub, holder)
        gap = usage_pb2.ReportBatchRequest(
            holder=holder, first_seq=5, last_seq=5, records=[usage_pb2.Record(seq=5)]
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ReportBatch(gap)
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
        assert info_of(caught.value).metadata["expected_seq"] == "1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await acquire(stub, holder, 99, "r", 1)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert info_of(caught.value).reason == "SUPERSEDED"


async def test_the_token_is_asked_for(sqlite_url: str, tmp_path: Path) -> None:
    """Without the token every call is UNAUTHENTICATED, unary and streaming; health needs none."""
    file = tmp_path / "token"
    file.write_text("secret")
    async with serving(sqlite_url, sync_token_file=file) as control_plane:
        await _check_door(control_plane)


async def _check_door(control_plane: Running) -> None:
    async with grpc.aio.insecure_channel(control_plane.grpc_address) as channel:
        stub = stub_of(channel)
        request = usage_pb2.ReportRefusalsRequest()
        for metadata in (None, (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ReportRefusals(request, metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Follow().read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.ReportRefusals(request, metadata=(("authorization", "Bearer secret"),))
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="purser.sync.v1.SyncService"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
