"""What a request says by itself has bounds: it is refused in words, whatever the database would make of it."""

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from purser.sync.v1.feed_pb2 import FollowRequest, Start
from purser.sync.v1.session_pb2 import (
    AcquireLeasesRequest,
    CloseSessionRequest,
    Holder,
    IncarnationState,
    OpenSessionRequest,
    PresentedLease,
    Want,
)
from purser.sync.v1.usage_pb2 import (
    Record,
    RefusalCount,
    RefusalSample,
    ReportBatchRequest,
    ReportRefusalsRequest,
)
from tests.integration.control_plane.rpc.test_rpc import info_of, stub_of
from tests.integration.control_plane.serving import serving

ME = Holder(outbox_id="o", incarnation_id="i")
NEVER = Timestamp(seconds=2**63 - 1)
LONG = "x" * 5_000
CASES: dict[str, Message] = {
    "an id of 5,000 bytes": OpenSessionRequest(holder=Holder(outbox_id="o", incarnation_id=LONG)),
    "an incarnation without a name": OpenSessionRequest(holder=ME, open_incarnations=[IncarnationState()]),
    "a label of 5,000 bytes": OpenSessionRequest(holder=ME, label=LONG),
    "a lease that ends after all time": OpenSessionRequest(
        holder=ME, presented_leases=[PresentedLease(lease_id="l", ends_at=NEVER)]
    ),
    "nobody's session": CloseSessionRequest(),
    "an id with NUL": CloseSessionRequest(holder=Holder(outbox_id="o\0", incarnation_id="i")),
    "a request without an id": AcquireLeasesRequest(holder=ME, wants=[Want()]),
    "too many wants": AcquireLeasesRequest(holder=ME, request_id="r", wants=[Want()] * 101),
    "numbers for more records than memory holds": ReportBatchRequest(
        holder=ME, first_seq=1, last_seq=2**63 - 1, records=[Record(seq=1)]
    ),
    "refusals after all time": ReportRefusalsRequest(counts=[RefusalCount(count=1, minute=NEVER)]),
    "a refusal after all time": ReportRefusalsRequest(samples=[RefusalSample(at=NEVER)]),
    "too many refusals": ReportRefusalsRequest(counts=[RefusalCount(count=1)] * 1001),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_can_not_be_is_refused(database_url: str, case: str) -> None:
    """INVALID_ARGUMENT, which names the field, at once."""
    async with (
        serving(database_url) as control_plane,
        grpc.aio.insecure_channel(control_plane.grpc_address) as channel,
    ):
        request = CASES[case]
        rpc: Any = getattr(stub_of(channel), type(request).__name__.removesuffix("Request"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc(request, timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert info_of(caught.value).reason == "INVALID"


async def test_a_follower_from_no_time(sqlite_url: str) -> None:
    """A stream that resumes from an instant that there is not is refused as well."""
    async with (
        serving(sqlite_url) as control_plane,
        grpc.aio.insecure_channel(control_plane.grpc_address) as channel,
    ):
        call = stub_of(channel).Follow()
        await call.write(FollowRequest(start=Start(holder=ME, generation=1, revision=1, as_of=NEVER)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert info_of(caught.value).reason == "INVALID"
