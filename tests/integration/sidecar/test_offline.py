"""A whole sidecar without a control plane: health, probes, trouble policies, restarts."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from purser.v1 import decision_pb2 as answers
from purser.v1 import entitlement_service_pb2 as api
from purser.v1 import usage_pb2 as usage
from sidecar.view.redis import RedisTier, connect
from sidecar.view.snapshot import SnapshotFile
from tests.contracts.offline import offline_sidecar, stored_view, write_snapshot

SERVICE = "purser.v1.EntitlementService"


def event(key: str, **fields: object) -> usage.UsageEvent:
    """An event that touches no balance."""
    return usage.UsageEvent(
        idempotency_key=key, customer_id="acme", event_name="llm_inference", measures={"input_tokens": "412"}
    )


def test_it_starts_from_its_snapshot(tmp_path: Path) -> None:
    """Known customers are answered from disk, with source, revision and age."""
    write_snapshot(tmp_path, as_of=datetime.now(UTC) - timedelta(minutes=10))
    with offline_sidecar(tmp_path) as offline:
        decision = offline.stub.CheckAccess(
            api.CheckAccessRequest(customer_id="acme", feature="sso"), timeout=5
        ).decision
    assert decision.allowed
    assert decision.value.on
    assert decision.freshness.source == answers.VIEW_SOURCE_PERSISTED
    assert decision.freshness.revision == 7
    assert 600 <= decision.freshness.age.seconds < 700


def test_it_starts_from_redis_alone(tmp_path: Path, redis_url: str) -> None:
    """Without a snapshot of its own: customers and subjects as the fleet stored them, with the age of that."""
    tier = RedisTier(connect(redis_url), prefix="purser", monotonic=time.monotonic)
    tier.store(stored_view(as_of=datetime.now(UTC) - timedelta(minutes=10)))
    with offline_sidecar(tmp_path, redis=redis_url) as offline:
        assert offline.sidecar.why_not_ready() == ""
        asked = api.CheckAccessRequest(subject_id="ann", feature="sso")
        decision = offline.stub.CheckAccess(asked, timeout=5).decision
        asked.max_staleness.FromTimedelta(timedelta(minutes=1))
        strict = offline.stub.CheckAccess(asked, timeout=5).decision
    assert decision.allowed
    assert (decision.freshness.source, decision.freshness.revision) == (answers.VIEW_SOURCE_PERSISTED, 7)
    assert 600 <= decision.freshness.age.seconds < 700
    assert strict.reason == answers.REASON_VIEW_TOO_OLD


def test_what_redis_gave_is_as_old_as_it_is(tmp_path: Path, redis_url: str) -> None:
    """However young the sidecar's own view is; and it is of no revision but its own."""
    stored = stored_view(as_of=datetime.now(UTC) - timedelta(minutes=10))
    RedisTier(connect(redis_url), prefix="purser", monotonic=time.monotonic).store(
        replace(stored, revision=5, catalogs=(), subjects=())
    )
    states = [*stored.catalogs, *stored.subjects]
    SnapshotFile(tmp_path / "view.snapshot").write(
        generation=1, revision=7, as_of=datetime.now(UTC), states=states
    )
    with offline_sidecar(tmp_path, redis=redis_url) as offline:
        asked = api.CheckAccessRequest(customer_id="acme", feature="sso")
        decision = offline.stub.CheckAccess(asked, timeout=5).decision
        listed = offline.stub.ListEntitlements(api.ListEntitlementsRequest(customer_id="acme"), timeout=5)
        asked.min_revision = 7
        newer = offline.stub.CheckAccess(asked, timeout=5).decision
    for freshness in (decision.freshness, listed.freshness):
        assert (freshness.source, freshness.revision) == (answers.VIEW_SOURCE_PERSISTED, 5)
        assert 600 <= freshness.age.seconds < 700
    assert newer.reason == answers.REASON_VIEW_TOO_OLD


def test_a_view_that_is_too_old_denies(tmp_path: Path) -> None:
    """Beyond max_staleness a switch is refused; a request may ask for less."""
    write_snapshot(tmp_path, as_of=datetime.now(UTC) - timedelta(minutes=50))
    with offline_sidecar(tmp_path) as offline:
        fresh = api.CheckAccessRequest(customer_id="acme", feature="sso")
        assert offline.stub.CheckAccess(fresh, timeout=5).decision.allowed
        strict = api.CheckAccessRequest(customer_id="acme", feature="sso")
        strict.max_staleness.FromTimedelta(timedelta(minutes=1))
        decision = offline.stub.CheckAccess(strict, timeout=5).decision
    assert not decision.allowed
    assert decision.reason == answers.REASON_VIEW_TOO_OLD


def test_a_policy_answers_for_unknown_customers(tmp_path: Path) -> None:
    """`on_unknown_customer: allow` is OK_FALLBACK, and the explanation names the policy."""
    write_snapshot(tmp_path, as_of=datetime.now(UTC))
    with offline_sidecar(tmp_path) as offline:
        decision = offline.stub.CheckAccess(
            api.CheckAccessRequest(customer_id="never", feature="free_for_all", explain=True), timeout=5
        ).decision
    assert decision.allowed
    assert decision.reason == answers.REASON_OK_FALLBACK
    assert decision.freshness.source == answers.VIEW_SOURCE_FALLBACK
    assert any("on_unknown_customer: allow" in step.finding for step in decision.explanation)


def test_a_restart_repeats_and_goes_on(tmp_path: Path) -> None:
    """After a restart a key is still known, and a reservation that was open can be settled."""
    write_snapshot(tmp_path, as_of=datetime.now(UTC))
    consume = api.ConsumeUsageRequest(event=event("once"))
    with offline_sidecar(tmp_path) as offline:
        first = offline.stub.ConsumeUsage(consume, timeout=5)
        reserve = api.ReserveUsageRequest(reservation_id="r", event=event(""))
        assert offline.stub.ReserveUsage(reserve, timeout=5).decision.allowed
    with offline_sidecar(tmp_path) as offline:
        again = offline.stub.ConsumeUsage(consume, timeout=5)
        assert again.status == api.USAGE_STATUS_DUPLICATE
        assert again.decision == first.decision
        settle = api.SettleReservationRequest(reservation_id="r", event=event(""), final=True)
        settled = offline.stub.SettleReservation(settle, timeout=5)
        assert settled.reservation.state == api.RESERVATION_STATE_SETTLED
        assert settled.recorded_as == ""


def test_a_settle_for_a_customer_that_a_restart_forgot_says_so(tmp_path: Path) -> None:
    """Nobody can tell what it touches: it is recorded as a fact, and the answer names the key."""
    write_snapshot(tmp_path, as_of=datetime.now(UTC))
    with offline_sidecar(tmp_path) as offline:
        reserve = api.ReserveUsageRequest(reservation_id="r", event=event(""))
        assert offline.stub.ReserveUsage(reserve, timeout=5).decision.allowed
    for snapshot in tmp_path.rglob("*snapshot*"):
        snapshot.unlink()
    with offline_sidecar(tmp_path) as offline:
        settle = api.SettleReservationRequest(reservation_id="r", event=event(""), final=True)
        for _ in range(2):
            settled = offline.stub.SettleReservation(settle, timeout=5)
            assert settled.reservation.state == api.RESERVATION_STATE_SETTLED
            assert settled.recorded_as == "r"


def test_health_probes_and_reflection(tmp_path: Path) -> None:
    """Ready with a view; NOT_SERVING and 503 while draining, alive all the same; new calls are turned away."""
    write_snapshot(tmp_path, as_of=datetime.now(UTC))
    with offline_sidecar(tmp_path) as offline:
        health: Any = health_pb2_grpc.HealthStub(offline.channel)
        http = f"http://{offline.sidecar.http_address}"
        asks = health_pb2.HealthCheckRequest(service=SERVICE)
        assert health.Check(asks, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        assert httpx.get(f"{http}/readyz").status_code == 200
        assert "purser_view_revision 7.0" in httpx.get(f"{http}/metrics").text
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(offline.channel)
        listed = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
        )
        assert SERVICE in {service.name for service in next(listed).list_services_response.service}

        offline.sidecar._is_draining = True
        offline.sidecar._edge.drain()
        assert health.Check(asks, timeout=5).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert httpx.get(f"{http}/readyz").status_code == 503
        assert httpx.get(f"{http}/livez").status_code == 200
        with pytest.raises(grpc.RpcError) as caught:
            offline.stub.ConsumeUsage(api.ConsumeUsageRequest(event=event("late")), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_watch_says_the_present_state_first(tmp_path: Path) -> None:
    """The first message is what ListEntitlements says."""
    write_snapshot(tmp_path, as_of=datetime.now(UTC))
    with offline_sidecar(tmp_path) as offline:
        listed = offline.stub.ListEntitlements(api.ListEntitlementsRequest(customer_id="acme"), timeout=5)
        watch = offline.stub.WatchEntitlements(api.WatchEntitlementsRequest(customer_id="acme"), timeout=5)
        first = next(watch)
        watch.cancel()
    assert list(first.entitlements) == list(listed.entitlements)
    assert {item.feature for item in listed.entitlements} == {"chat", "quota", "sso", "seats", "models"}
