"""What a refusal says: what is left of the whole, and what is missing, as a check says it."""

from decimal import Decimal
from typing import Any

import pytest

from tests.e2e.fleet import CATALOG
from tests.integration.whole.installation import Installation


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
