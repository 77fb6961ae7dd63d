"""A gauge counts holders."""

from __future__ import annotations

import purser
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
