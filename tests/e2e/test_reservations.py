"""Reservations: holds survive a restart, and a stream that goes on is decided usage as before."""

from __future__ import annotations

from decimal import Decimal

from tests.e2e.fleet import Fleet, eventually


def test_a_stream_goes_on_after_a_kill(small_fleet: Fleet) -> None:
    """A final settle within the hold, right after kill -9 and a restart, is decided, charged whole, and one event."""
    sidecar = small_fleet.sidecar()
    small_fleet.customer("acme", "prepaid", amount="100")
    reservation = sidecar.client.reserve(
        reservation_id="r1", customer_id="acme", feature="jobs", event_name="job", measures={"points": 10}
    )
    assert reservation
    for points in (1, 2, 3):
        reservation.settle({"points": points})
    sidecar.kill()
    sidecar.start()
    answer = sidecar.client.settle(reservation_id="r1", measures={"points": 7}, final=True)
    assert answer.reservation.state == "SETTLED"
    assert answer.charged["wallet:credit"].value == Decimal(7)
    assert not any(amount.value for amount in answer.overage.values())
    eventually(lambda: len(small_fleet.events("acme")) == 1, seconds=15, what="its event is in the books")
    (event,) = small_fleet.events("acme")
    assert event["decided"] is True
    assert event["idempotency_key"] == "r1"
    assert Decimal(event["measures"]["points"]) == 7
    eventually(
        lambda: small_fleet.balance("acme", "wallet:credit")["leased"] == 0, seconds=20, what="all came back"
    )
    books = small_fleet.balance("acme", "wallet:credit")
    assert (books["spent"], books["available"], books["overage"]) == (7, 93, 0)
