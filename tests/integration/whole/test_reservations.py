"""Reservations, with the books: one event of each, whoever settles it where."""

from decimal import Decimal

from tests.e2e.fleet import CATALOG, eventually
from tests.integration.whole.installation import Aboard, Installation


def settled_through_two(
    installation: Installation, name: str, totals: tuple[int, int]
) -> tuple[Aboard, Aboard]:
    """One reservation through two sidecars, with these totals, uploaded one after the other."""
    first, second = installation.sidecar(), installation.sidecar()
    for aboard, total in zip((first, second), totals, strict=True):
        held = aboard.client.reserve(
            reservation_id=name, customer_id="acme", feature="jobs", event_name="job", measures={"points": 10}
        )
        assert held
        answer = aboard.client.settle(reservation_id=name, measures={"points": total}, final=True)
        assert answer.charged["wallet:credit"].value == total
        aboard.has_uploaded()
    return first, second


def prepaid(installation: Installation) -> None:
    """A customer with a hundred credits."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "prepaid")
    installation.office.post("/grants", id="grant", customer_id="acme", unit="credit", amount="100")


def spent(installation: Installation) -> Decimal:
    """What the customer has spent in the books."""
    return installation.office.balance("acme", "wallet:credit")["spent"]


def test_the_same_totals_through_two_sidecars_are_one_posting(installation: Installation) -> None:
    """The second is the first again: one event, charged once, and nothing in the dead letters."""
    prepaid(installation)
    settled_through_two(installation, "r", (7, 7))
    (event,) = installation.office.events("acme")
    assert (event["idempotency_key"], event["decided"]) == ("r", True)
    eventually(lambda: spent(installation) == 7, seconds=20, what="it is spent once")
    assert installation.office.get("/dead-letters")["items"] == []


def test_other_totals_through_two_sidecars_are_a_conflict(installation: Installation) -> None:
    """One of them is booked; the other is not lost without a word, but in the dead letters."""
    prepaid(installation)
    settled_through_two(installation, "r", (7, 9))
    (event,) = installation.office.events("acme")
    assert Decimal(event["measures"]["points"]) == 7
    (dead,) = installation.office.get("/dead-letters")["items"]
    assert dead["reason"].startswith("KEY_CONFLICT")
