"""What a refusal says: what is left of the whole, and what is missing, as a check says it."""

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import purser
from tests.e2e.fleet import CATALOG
from tests.integration.whole.installation import Installation

RATE = """
purser: catalog/v1
meters:
  points: {event: job, aggregate: sum, of: [points]}
features:
  quota: {type: metered, meter: points}
plans:
  free: {entitlements: {quota: {limit: 1000000, every: P1M, rate: [{limit: 100000, per: PT1M}]}}}
"""
MONTH_AND_RATE = RATE.replace("limit: 1000000", "limit: 500").replace("limit: 100000", "limit: 500")

SPENT_AND_HIGHEST = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  peak: {event: job, aggregate: max, of: [points]}
rate_cards:
  jobs: {event: job, unit: credit, unknown: deny, prices: [{dimension: points, per: 1, price: "1"}]}
features:
  jobs: {type: metered, event: job, rate_card: jobs}
  peak: {type: metered, meter: peak}
plans:
  both: {entitlements: {jobs: {spends: credit}, peak: {limit: 1000, every: P1M}}}
"""


@pytest.mark.parametrize(
    ("customer_id", "feature", "balance", "reason"),
    [
        ("acme", "jobs", "wallet:credit", "INSUFFICIENT_CREDITS"),
        ("metered", "quota", "allowance:quota", "LIMIT_REACHED"),
    ],
)
def test_a_refusal_says_what_is_left_and_what_is_missing(
    installation: Installation, customer_id: str, feature: str, balance: str, reason: str
) -> None:
    """A part is left, and not enough: a consume, a reservation and a check say the same of it."""
    office = installation.office
    office.publish(CATALOG)
    office.customer("acme", "prepaid")
    office.customer("metered", "metered")
    office.post("/grants", id="grant", customer_id="acme", unit="credit", amount="500")
    client = installation.sidecar().client
    call: dict[str, Any] = {"customer_id": customer_id, "feature": feature, "event_name": "job"}
    assert client.consume(idempotency_key="a", measures={"points": 470}, **call)
    consumed = client.consume(idempotency_key="b", measures={"points": 50}, **call)
    with client.reserve(reservation_id="r", measures={"points": 50}, **call) as held:
        reserved = held.decision
    for refused in (consumed, reserved, client.check(measures={"points": 50}, **call)):
        assert (refused.allowed, refused.reason) == (False, reason)
        assert refused.shortfall is not None
        assert refused.shortfall.value == 20
        assert "30 to be had, 20 missing" in refused.message
        assert "used up" not in refused.message
        (state,) = (state for state in refused.balances if state.balance == balance)
        assert state.remaining == Decimal(30)


def _consumer(installation: Installation, catalog: str) -> Callable[[int], purser.Decision]:
    """Consumes points of the feature `quota` for a customer on `free`, each time under a key of its own."""
    installation.office.publish(catalog)
    installation.office.customer("acme", "free")
    client, keys = installation.sidecar().client, itertools.count()

    def consume(points: int) -> purser.Decision:
        return client.consume(
            customer_id="acme",
            feature="quota",
            event_name="job",
            idempotency_key=str(next(keys)),
            measures={"points": points},
        )

    return consume


def test_what_waiting_does_not_mend_has_no_retry_after(installation: Installation) -> None:
    """The month is short and so is the rate, which comes back in seconds: the month has the word."""
    consume = _consumer(installation, MONTH_AND_RATE)
    assert consume(301)
    refused = consume(301)
    assert (refused.allowed, refused.reason) == (False, "LIMIT_REACHED")
    assert "199 to be had, 102 missing" in refused.message
    assert refused.retry_after is None


def test_a_call_that_was_too_large_for_a_rate_costs_smaller_ones_nothing(installation: Installation) -> None:
    """What is left of the burst is theirs, at once."""
    consume = _consumer(installation, RATE)
    assert [consume(points).reason for points in (60_100, 60_100, 35_000)] == ["OK", "RATE_LIMITED", "OK"]


def test_a_rate_lets_through_what_it_says(installation: Installation) -> None:
    """A small call, a large one, and what is left of the burst: one sidecar that is alone has all of it."""
    consume = _consumer(installation, RATE)
    for points in (1_000, 60_000, 38_000):
        answer = consume(points)
        assert answer, answer.message
    refused = consume(60_000)
    assert refused.reason == "RATE_LIMITED"
    assert refused.retry_after is not None


def test_a_call_that_is_turned_away_has_taken_nothing(installation: Installation) -> None:
    """It would have to wait for the control plane where too many wait already: what it had taken from leases is there
    for the next call.
    """
    office = installation.office
    office.publish(SPENT_AND_HIGHEST)
    office.customer("acme", "both")
    office.post("/grants", id="grant", customer_id="acme", unit="credit", amount="100")
    aboard = installation.sidecar()
    call: dict[str, Any] = {"customer_id": "acme", "event_name": "job"}
    for key in range(5):
        assert aboard.client.consume(idempotency_key=str(key), measures={"points": 4}, **call)
    writes = aboard.edge.pools.writes  # 500 calls that wait would take half a minute to make
    before, writes._waiting_max = writes._waiting_max, 0
    for key in range(8):
        with pytest.raises(purser.Overloaded):
            aboard.client.consume(idempotency_key=f"away-{key}", measures={"points": 1}, **call)
    writes._waiting_max = before
    assert aboard.client.consume(idempotency_key="all", measures={"points": 80}, **call)
