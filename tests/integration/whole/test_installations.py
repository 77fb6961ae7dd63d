"""Two installations: what was used under one is never booked by the other."""

from pathlib import Path
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.rpc.server import SERVICE
from tests.e2e.fleet import eventually
from tests.integration.whole.installation import Aboard, Installation, Office

CATALOG = """
purser: catalog/v1
meters: {requests: {event: request, aggregate: count}}
features: {api: {type: metered, meter: requests}}
plans: {pro: {entitlements: {api: {limit: 100, every: P1M}}}}
"""


def health(aboard: Aboard) -> int:
    """What `grpc.health.v1` says of the sidecar's service."""
    with grpc.insecure_channel(aboard.sidecar.grpc_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=SERVICE)).status)


def test_usage_waits_for_its_own_control_plane(installation: Installation, tmp_path: Path) -> None:
    """Another control plane, which knows a customer of that name, takes over the address: the sidecar says so in its
    health and hands it nothing; once its own is back everything arrives there.
    """
    office = installation.office
    office.publish(CATALOG)
    office.customer("acme", "pro")
    aboard = installation.sidecar()
    assert aboard.client.consume(customer_id="acme", event_name="request", idempotency_key="first")
    aboard.has_uploaded()

    office.stop()
    (tmp_path / "elsewhere").mkdir()
    stranger = Office(tmp_path / "elsewhere", grpc=office.sync_address)
    try:
        stranger.publish(CATALOG)
        stranger.customer("acme", "pro")
        aboard.client.report(customer_id="acme", event_name="request", idempotency_key="second")
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        eventually(lambda: health(aboard) == not_serving, seconds=20, what="health says that it is another's")
        ready = httpx.get(f"http://{aboard.sidecar.http_address}/readyz")
        assert ready.status_code == 503
        assert "another installation" in ready.text
        assert stranger.events("acme") == []
        assert stranger.get("/sidecars")["items"] == [], "it opened no session there"
    finally:
        stranger.rest.close()
        stranger.stop()

    office.start()
    eventually(
        lambda: sorted(event["idempotency_key"] for event in office.events("acme")) == ["first", "second"],
        seconds=20,
        what="what waited is in its own books",
    )
    serving = health_pb2.HealthCheckResponse.SERVING
    eventually(lambda: health(aboard) == serving, seconds=10, what="health is good again")
