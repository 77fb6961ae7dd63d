"""The control plane is away: answers go on and say how old they are, slices are spent, and all drains later."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal

import purser
from tests.e2e.fleet import Fleet, eventually


def test_away_and_back(fleet: Fleet) -> None:
    """Known customers are answered with source and age; what was leased is spent to the last and not beyond."""
    sidecar = fleet.sidecar()
    fleet.customer("acme", "prepaid", amount="100")
    assert sidecar.client.check(customer_id="acme", feature="sso").freshness.source == "LIVE"
    assert _job(sidecar.client, 1)
    fleet.control_plane.kill()
    eventually(
        lambda: sidecar.client.check(customer_id="acme", feature="sso").freshness.source == "CACHED",
        seconds=10,
        what="the sidecar knows that it is alone",
    )
    answer = sidecar.client.check(customer_id="acme", feature="sso")
    assert answer
    assert answer.freshness.age is not None
    assert answer.freshness.age > timedelta(0)

    allowed = 0
    while _job(sidecar.client, 1):
        allowed += 1
    assert allowed < 100
    refusal = _job(sidecar.client, 1)
    assert refusal.reason == purser.Reason.CONTROL_PLANE_UNREACHABLE
    reported = sidecar.client.report(customer_id="acme", event_name="job", measures={"points": 1})
    assert reported.status == "ACCEPTED"

    fleet.control_plane.start()
    eventually(
        lambda: len(fleet.events("acme")) == allowed + 2, seconds=20, what="everything has drained by itself"
    )
    eventually(lambda: bool(_job(sidecar.client, 1)), seconds=10, what="the rest can be leased again")


def test_unknown_customers_do_not_wait(small_fleet: Fleet) -> None:
    """An unknown customer gets the policy's answer within 100 ms while the control plane is away."""
    sidecar = small_fleet.sidecar()
    small_fleet.customer("acme", "prepaid", amount="100")
    assert sidecar.client.check(customer_id="acme", feature="sso")
    small_fleet.control_plane.kill()
    eventually(
        lambda: sidecar.client.check(customer_id="acme", feature="sso").freshness.source == "CACHED",
        seconds=10,
        what="the sidecar knows that it is alone",
    )
    began = time.monotonic()
    answer = sidecar.client.check(customer_id="nobody", feature="sso")
    took = time.monotonic() - began
    assert not answer
    assert answer.reason == purser.Reason.CONTROL_PLANE_UNREACHABLE
    assert answer.freshness.source == "FALLBACK", "nothing is known of this customer: a policy answered"
    assert took < 0.1


def test_restarted_while_away(small_fleet: Fleet) -> None:
    """A sidecar restarted meanwhile answers from its snapshot and spends no old lease; later, all of it is settled."""
    sidecar = small_fleet.sidecar()
    small_fleet.customer("acme", "prepaid", amount="100")
    assert sidecar.client.check(customer_id="acme", feature="sso")
    assert _job(sidecar.client, 5)
    eventually(lambda: len(small_fleet.events("acme")) == 1, seconds=10, what="the first is in the books")
    assert sidecar.terminate() == 0
    small_fleet.control_plane.kill()
    sidecar.start()
    answer = sidecar.client.check(customer_id="acme", feature="sso")
    assert answer
    assert answer.freshness.source == "PERSISTED"
    assert _job(sidecar.client, 1).reason == purser.Reason.CONTROL_PLANE_UNREACHABLE
    assert sidecar.client.report(customer_id="acme", event_name="job", measures={"points": 2})
    small_fleet.control_plane.start()
    eventually(lambda: len(small_fleet.events("acme")) == 2, seconds=20, what="the report has drained")
    eventually(
        lambda: small_fleet.balance("acme", "wallet:credit")["leased"] == 0,
        seconds=20,
        what="old leases are closed",
    )
    assert small_fleet.balance("acme", "wallet:credit")["spent"] == 7


def test_what_was_not_reported_is_shown_after_a_restart(small_fleet: Fleet) -> None:
    """Spent and reported while the control plane is away, then kill -9: `used` counts it from the start on, and once
    more only never: not while it drains either.
    """
    sidecar = small_fleet.sidecar()
    small_fleet.customer("acme", "prepaid", amount="100")
    for _ in range(10):
        assert _job(sidecar.client, 1)
    eventually(lambda: len(small_fleet.events("acme")) == 10, seconds=10, what="all is in the books")
    snapshot = sidecar.data / "view.snapshot"
    eventually(snapshot.exists, seconds=10, what="it can start without the control plane")
    small_fleet.control_plane.kill()
    alone = sum(bool(_job(sidecar.client, 1)) for _ in range(3))
    assert alone, "a lease holds some more"
    assert sidecar.client.report(customer_id="acme", event_name="job", measures={"points": 20})
    assert _used(sidecar.client) == 30 + alone
    sidecar.kill()
    sidecar.start()
    seen = [_used(sidecar.client)]
    small_fleet.control_plane.start()
    deadline = time.monotonic() + 20
    while len(small_fleet.events("acme")) < 11 + alone:
        seen.append(_used(sidecar.client))
        assert time.monotonic() < deadline, "it drains"
    for _ in range(40):
        seen.append(_used(sidecar.client))
        time.sleep(0.1)
    # What is acknowledged but was in no hint yet when the snapshot was written is missing until the feed is back.
    assert seen[0] >= 20 + alone
    assert max(seen) == seen[-1] == 30 + alone


def _used(client: purser.Client) -> Decimal:
    balances = client.check(
        customer_id="acme", feature="jobs", event_name="job", measures={"points": 1}
    ).balances
    return next(state.used for state in balances if state.balance == "wallet:credit")


def _job(client: purser.Client, points: int) -> purser.Decision:
    return client.consume(customer_id="acme", feature="jobs", event_name="job", measures={"points": points})
