"""A gauge counts holders."""

from __future__ import annotations

import grpc

import purser
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1.sync_service_pb2_grpc import SyncServiceStub
from tests.e2e.fleet import CATALOG, Fleet, eventually


def test_seats(fleet: Fleet) -> None:
    """Added twice is one, removed is free again, and a limit below what is held blocks only adding."""
    one, two = fleet.sidecar().client, fleet.sidecar().client
    fleet.customer("acme", "prepaid")
    assert _seat(one, "ann")
    assert _seat(two, "ann")
    assert _seat(two, "bob")
    refused = _seat(one, "cleo")
    assert refused.reason == purser.Reason.LIMIT_REACHED
    assert _seat(two, "ann", "REMOVE")
    assert _seat(one, "cleo")

    revision = fleet.publish(CATALOG.replace("seats: {limit: 2}", "seats: {limit: 1}"), move="all")
    held = one.check(customer_id="acme", feature="seats", min_revision=revision)
    eventually(lambda: _used(one) == 2, seconds=2, what="both are still held")
    assert held.balances[0].limit == 1
    assert not _seat(one, "dora")
    assert _seat(one, "bob"), "who holds already may hold on"
    assert _seat(one, "bob", "REMOVE")
    assert not _seat(one, "dora"), "one of one is held"
    assert _seat(one, "cleo", "REMOVE")
    assert _seat(one, "dora")


def test_set(small_fleet: Fleet) -> None:
    """SET says how much one holder holds."""
    client = small_fleet.sidecar().client
    small_fleet.customer("acme", "prepaid")
    assert _seat(client, "team", "SET", 2)
    assert not _seat(client, "ann")
    assert not _seat(client, "team", "SET", 3)
    assert _seat(client, "team", "SET", 1)
    assert _seat(client, "ann")


def test_a_verdict_that_nobody_heard(small_fleet: Fleet) -> None:
    """A sidecar dies between its verdict and its commit: when its next process has closed its session the seat is free;
    those whose events came are not.
    """
    small_fleet.customer("acme", "prepaid")
    client = small_fleet.sidecar().client
    assert _seat(client, "ann")
    assert _verdict(small_fleet, "bob")
    assert not _seat(client, "cleo"), "both seats are taken"
    _restart(small_fleet)
    assert _seat(client, "cleo")
    eventually(
        lambda: small_fleet.balance("acme", "gauge:seats")["spent"] == 2, seconds=5, what="two are held"
    )
    assert not _seat(client, "dora")


def _verdict(fleet: Fleet, holder_id: str) -> bool:
    """What a sidecar asks before it commits; no more is heard of it."""
    with grpc.insecure_channel(fleet.sync_address) as channel:
        sync = SyncServiceStub(channel)
        holder = session.Holder(outbox_id="lost", incarnation_id="lost")
        itself = [session.IncarnationState(incarnation_id="lost")]
        opened = sync.OpenSession(session.OpenSessionRequest(holder=holder, open_incarnations=itself))
        want = session.Want(
            ref=session.BalanceRef(customer_id="acme", balance="gauge:seats"),
            need=1,
            amount=1,
            holder_id=holder_id,
            adds=True,
            idempotency_key=holder_id,
        )
        request = session.AcquireLeasesRequest(
            holder=holder, epoch=opened.epoch, request_id="verdict", wants=[want]
        )
        return bool(sync.AcquireLeases(request).acquired[0].verdict.allowed)


def _restart(fleet: Fleet) -> None:
    """Its next process finds nothing in the outbox, and says so."""
    with grpc.insecure_channel(fleet.sync_address) as channel:
        sync = SyncServiceStub(channel)
        holder = session.Holder(outbox_id="lost", incarnation_id="next")
        both = [session.IncarnationState(incarnation_id=name) for name in ("lost", "next")]
        sync.OpenSession(session.OpenSessionRequest(holder=holder, open_incarnations=both))
        lost = session.Holder(outbox_id="lost", incarnation_id="lost")
        assert sync.CloseSession(session.CloseSessionRequest(holder=lost)).ended


def _seat(client: purser.Client, holder: str, change: str = "ADD", quantity: int = 1) -> purser.Decision:
    return client.consume(
        customer_id="acme",
        feature="seats",
        event_name="seat",
        holder_id=holder,
        gauge_change=change,
        measures={"quantity": quantity},
    )


def _used(client: purser.Client) -> int:
    return int(client.check(customer_id="acme", feature="seats").balances[0].used)
