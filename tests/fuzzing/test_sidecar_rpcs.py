"""Whatever an app sends, or whoever takes itself for one: a sidecar in its fleet answers with a status of its table,
and the books get what it acknowledged, once.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from control_plane.db.unit_of_work import UnitOfWork
from control_plane.ledger.audit import audit, oversold
from control_plane.usage.dead_letters import DeadReason
from control_plane.usage.tables import dead_letters
from control_plane.usage.tables import events as booked
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import entitlement_service_pb2 as api
from sidecar.rpc.server import SERVICE
from tests.contracts.test_any_request import CATALOG, REQUESTS, requests
from tests.fuzzing.calm import within_process_memory, without_traceback
from tests.fuzzing.effort import NowAndThen, cases
from tests.fuzzing.servers import DEADLINE_SECONDS, ask_books, reason_of
from tests.fuzzing.wire import Damage, damages, mangled
from tests.integration.whole.installation import Aboard, Installation, installed

EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}
"""What a healthy sidecar answers: no disk is full, nothing is overloaded, the control plane is there."""
GROWTH_MIB = 200
"""So much more memory may thousands of odd requests ever need. No message is larger than 4 MiB."""
GOOD = {"customer_id": "good", "event_name": "call", "attributes": {"user": "m1"}}


class Fleet:
    """A sidecar with its control plane, and a count of what it acknowledged."""

    def __init__(self, installation: Installation) -> None:
        """Publishes and subscribes."""
        self.office = installation.office
        self.office.publish(CATALOG)
        for customer_id in ("acme", "good"):
            self.office.customer(customer_id, "payg")
            self.office.post("/grants", id=customer_id, customer_id=customer_id, unit="credit", amount="1000")
        self.office.post("/customers/acme/subjects", id="ann")
        self.aboard: Aboard = installation.sidecar()
        self._channel = grpc.insecure_channel(self.aboard.sidecar.grpc_address)
        self.acknowledged: Counter[str] = Counter()
        self.good = 0

    def close(self) -> None:
        """Lets the channel go."""
        self._channel.close()

    def call(self, rpc: str, raw: bytes) -> tuple[grpc.StatusCode, bytes, status_pb2.Status | None]:
        """What these bytes are answered with; of a watch the first answer."""
        path = f"/{SERVICE}/{rpc}"
        try:
            if rpc == "WatchEntitlements":
                watch: Callable[..., Any] = self._channel.unary_stream(path)
                watching = watch(raw, timeout=DEADLINE_SECONDS)
                first = cast("bytes", next(watching))
                watching.cancel()
                return grpc.StatusCode.OK, first, None
            unary: Callable[..., bytes] = self._channel.unary_unary(path)
            return grpc.StatusCode.OK, unary(raw, timeout=DEADLINE_SECONDS), None
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)
            return failed.code(), b"", cast("status_pb2.Status | None", rpc_status.from_call(failed))

    def is_foreseen(self, rpc: str, raw: bytes) -> None:
        """It is answered in time, as the table says, with a message that can be read."""
        code, answer, status = self.call(rpc, raw)
        assert code in EXPECTED, (code, status)
        if code is not grpc.StatusCode.OK:
            assert reason_of(status)
            return
        read: Message = getattr(api, f"{rpc}Response").FromString(answer)
        if isinstance(read, api.ConsumeUsageResponse) and read.status == api.USAGE_STATUS_ACCEPTED:
            self.acknowledged[api.ConsumeUsageRequest.FromString(raw).event.idempotency_key] += 1
        elif isinstance(read, api.ReportUsageResponse):
            for result in read.results:
                self.acknowledged[result.idempotency_key] += result.status == api.USAGE_STATUS_ACCEPTED

    def is_well(self) -> None:
        """A good caller is answered as ever, the second time with the first answer."""
        self.good += 1
        assert self.aboard.client.check(customer_id="good", feature="sso")
        call: dict[str, Any] = {**GOOD, "idempotency_key": f"good-{self.good}"}
        first, second = self.aboard.client.consume(**call), self.aboard.client.consume(**call)
        assert (first.allowed, first.status) == (True, "ACCEPTED")
        assert (second.allowed, second.status, second.decision_id) == (True, "DUPLICATE", first.decision_id)

    def hold_good(self) -> None:
        """Everything acknowledged is in the books, once; every equation holds, and nothing is oversold."""
        self.aboard.has_uploaded()
        assert ask_books(self.office, audit) == []
        assert ask_books(self.office, oversold) == 0
        keys = ask_books(self.office, _keys_in_books)
        assert max(keys.values()) == 1
        acknowledged = {key for key, count in self.acknowledged.items() if count}
        kept = {key for _, key in keys} | ask_books(self.office, _keys_of_unknown_customers)
        assert acknowledged <= kept, acknowledged - kept
        assert len([key for customer, key in keys if customer == "good"]) == self.good


async def _keys_in_books(uow: UnitOfWork) -> Counter[tuple[str, str]]:
    rows = await uow.connection.execute(select(booked.c.customer_id, booked.c.idempotency_key))
    return Counter((row[0], row[1]) for row in rows)


async def _keys_of_unknown_customers(uow: UnitOfWork) -> set[str]:
    """Facts that nobody can pay (yet)."""
    rows = (await uow.connection.execute(select(dead_letters.c.reason, dead_letters.c.record))).all()
    assert {row.reason for row in rows} <= {DeadReason.UNKNOWN_CUSTOMER}
    return {sync.Record.FromString(row.record).usage.event.idempotency_key for row in rows}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One fleet for all requests of a test: what one leaves behind is what the next one meets."""
    with within_process_memory(mib=GROWTH_MIB), without_traceback(), installed(tmp_path) as installation:
        made = Fleet(installation)
        try:
            yield made
        finally:
            made.close()


def method_of(request: Message) -> str:
    """Which rpc takes it."""
    return type(request).__name__.removesuffix("Request")


def test_any_request_is_foreseen(fleet: Fleet) -> None:
    """Ids, numbers, times and spans of every size, in every field of every rpc, while leases come and go."""
    looks = NowAndThen(20, fleet.is_well)

    @cases(500)
    @given(requests)
    def send(request: Message) -> None:
        fleet.is_foreseen(method_of(request), request.SerializeToString())
        looks.tried()

    send()
    fleet.is_well()
    fleet.hold_good()


def test_any_damage_is_foreseen(fleet: Fleet) -> None:
    """Messages with flipped bits, false lengths, fields of others, groups in groups, numbers beyond 64 bits."""
    looks = NowAndThen(20, fleet.is_well)

    @cases(500)
    @given(requests, requests, st.lists(damages, min_size=1, max_size=4))
    def send(request: Message, donor: Message, all_damage: list[Damage]) -> None:
        raw = mangled(request.SerializeToString(), all_damage, donor.SerializeToString())
        fleet.is_foreseen(method_of(request), raw)
        looks.tried()

    send()
    fleet.is_well()
    fleet.hold_good()


def test_any_bytes_are_foreseen(fleet: Fleet) -> None:
    """What is no message at all, or one of something else."""

    @cases(400)
    @given(st.sampled_from(sorted(REQUESTS)), st.binary(max_size=200))
    def send(rpc: str, raw: bytes) -> None:
        fleet.is_foreseen(rpc, raw)

    send()
    fleet.is_well()
    fleet.hold_good()
