"""Sidecars as the control plane sees them: they acquire leases and report usage over gRPC, and decide nothing."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from secrets import token_hex
from typing import TypeVar

import grpc

from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from tests.benchmarks import payloads

BATCH = 500  # as many as a sidecar sends at a time
COST = 14_232_000  # of one event, at the wallet's scale
_WALLET = "wallet:usd"
_TIMEOUT = 30

Caller = TypeVar("Caller")


@dataclass
class Holder:
    """One incarnation with an outbox of its own, and customers that only it serves."""

    stub: SyncServiceStub
    customer_ids: Sequence[str]
    epoch: int = 0
    seq: int = 0
    lease_id: str = ""
    name: session.Holder = field(
        default_factory=lambda: session.Holder(outbox_id=token_hex(16), incarnation_id=token_hex(16))
    )
    _turns: "count[int]" = field(default_factory=count)

    def open(self) -> None:
        """Its session, and a lease that lasts for the run."""
        state = session.IncarnationState(incarnation_id=self.name.incarnation_id, last_seq=0)
        request = session.OpenSessionRequest(holder=self.name, label="bench", open_incarnations=[state])
        self.epoch = self.stub.OpenSession(request, timeout=_TIMEOUT).epoch
        acquired = self._acquired([self.customer_ids[0]], 10**6 * COST)
        self.lease_id = acquired.acquired[0].leases[0].lease_id

    def acquire(self, wants: int) -> int:
        """One call for so many leases, each of another customer."""
        asked = [self.customer_ids[next(self._turns) % len(self.customer_ids)] for _ in range(wants)]
        return len(self._acquired(asked, COST).acquired)

    def _acquired(self, customer_ids: Sequence[str], amount: int) -> session.AcquireLeasesResponse:
        request = session.AcquireLeasesRequest(holder=self.name, epoch=self.epoch, request_id=token_hex(16))
        for customer_id in customer_ids:
            ref = session.BalanceRef(customer_id=customer_id, balance=_WALLET)
            request.wants.add(ref=ref, feature=payloads.FEATURE, need=COST, amount=amount)
        response = self.stub.AcquireLeases(request, timeout=_TIMEOUT)
        for acquired in response.acquired:
            if sum(part.amount for lease in acquired.leases for part in lease.slices) < COST:
                raise payloads.WrongAnswer(f"no lease: {acquired}")
        return response

    def report(self) -> int:
        """A batch of consumes, as a sidecar writes them."""
        now = time.time_ns()
        first = self.seq + 1
        records = [self._record(seq, now) for seq in range(first, first + BATCH)]
        self.seq += BATCH
        request = sync.ReportBatchRequest(
            holder=self.name, first_seq=first, last_seq=self.seq, records=records
        )
        response = self.stub.ReportBatch(request, timeout=_TIMEOUT)
        if response.cursor != self.seq or response.dead_letters or response.duplicate_seqs:
            raise payloads.WrongAnswer(f"not all booked: {response}")
        return BATCH

    def _record(self, seq: int, now: int) -> sync.Record:
        key = f"{self.name.incarnation_id[:13]}-{seq:010}"
        event = payloads.consume_request(self.customer_ids[0], key).event
        event.occurred_at.FromNanoseconds(now)
        usage = sync.Usage(
            event=event,
            content_hash=hashlib.sha256(key.encode()).digest(),
            decided=True,
            decision_id=f"d{seq:020x}",
            view_revision=1,
        )
        usage.decided_at.FromNanoseconds(now)
        ref = session.BalanceRef(customer_id=event.customer_id, balance=_WALLET)
        covered = [session.LeaseAmount(lease_id=self.lease_id, amount=COST)]
        usage.charges.add(ref=ref, covered=covered, exact=payloads.COST, feature=payloads.FEATURE)
        usage.costs.add(
            feature=payloads.FEATURE,
            rate_card="llm",
            catalog_revision=1,
            unit="usd",
            amount=COST,
            exact=payloads.COST,
        )
        return sync.Record(seq=seq, usage=usage)


def holders(channel: grpc.Channel, customer_ids: Sequence[str], many: int) -> list[Holder]:
    """So many, with their sessions open; customers are dealt out."""
    found = [Holder(SyncServiceStub(channel), customer_ids[n::many]) for n in range(many)]
    for holder in found:
        holder.open()
    return found


def per_second(callers: Sequence[Caller], work: Callable[[Caller], int], seconds: float) -> float:
    """What all of them get done at the same time, from the start to the last one's end."""
    done = [0] * len(callers)
    failed: list[BaseException] = []

    def run(number: int) -> None:
        until = time.perf_counter() + seconds
        try:
            while time.perf_counter() < until:
                done[number] += work(callers[number])
        except (grpc.RpcError, payloads.WrongAnswer) as error:
            failed.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(len(callers))]
    began = time.perf_counter()
    for one in running:
        one.start()
    for one in running:
        one.join()
    if failed:
        raise failed[0]
    return sum(done) / (time.perf_counter() - began)
