"""What answers show of balances: right at once after the control plane has spoken, and never falling back."""

import time
from decimal import Decimal

from tests.integration.whole.installation import Aboard, Installation, shown_for

CATALOG = """
purser: catalog/v1
meters:
  points: {event: job, aggregate: sum, of: [points]}
features:
  quota: {type: metered, meter: points}
  seats: {type: gauge}
plans:
  metered: {entitlements: {quota: {limit: 500, every: P1M}, seats: {limit: 5}}}
"""


def seat(aboard: Aboard, holder_id: str, change: str) -> None:
    """Adds or removes a holder."""
    assert aboard.client.consume(
        customer_id="acme",
        event_name="seat",
        feature="seats",
        gauge_feature="seats",
        gauge_change=change,
        holder_id=holder_id,
    )


def begun(installation: Installation) -> Aboard:
    """A sidecar that knows the customer."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "metered")
    aboard = installation.sidecar()
    assert aboard.client.check(customer_id="acme", feature="seats")
    return aboard


def test_a_gauge_is_shown_as_it_stands_at_once(installation: Installation) -> None:
    """ListEntitlements and CheckAccess count a holder as soon as the call that added or removed it was answered."""
    aboard = begun(installation)
    for number, who in enumerate(("ann", "bob", "cleo"), start=1):
        seat(aboard, who, "ADD")
        assert aboard.used("acme", "seats", "gauge:seats") == number
        checked = aboard.client.check(customer_id="acme", feature="seats")
        assert [state.used for state in checked.balances] == [Decimal(number)]
    seat(aboard, "bob", "REMOVE")
    assert aboard.used("acme", "seats", "gauge:seats") == 2


def test_a_gauge_is_shown_right_while_hints_come(installation: Installation) -> None:
    """A hint that was read before the last change was booked does not show what that change freed, or hide what it
    added: through several rounds of hints.
    """
    aboard = begun(installation)
    seat(aboard, "ann", "ADD")
    ends_at = time.monotonic() + 4.0
    while time.monotonic() < ends_at:
        seat(aboard, "bob", "ADD")
        assert aboard.used("acme", "seats", "gauge:seats") == 2
        seat(aboard, "bob", "REMOVE")
        assert aboard.used("acme", "seats", "gauge:seats") == 1


def test_what_another_sidecar_spent_is_shown_with_the_answer_that_leased(installation: Installation) -> None:
    """A consume that had to lease shows what others had used before, without waiting for the feed."""
    one = begun(installation)
    other = installation.sidecar()
    for _ in range(3):
        assert other.client.consume(customer_id="acme", event_name="job", measures={"points": 40})
    other.has_uploaded()
    assert one.client.consume(customer_id="acme", event_name="job", measures={"points": 10})
    assert one.used("acme", "quota", "allowance:quota") == 130


def test_used_never_falls_back(installation: Installation) -> None:
    """From the answer on, through upload, hint and the lease's shrinking, what is shown as used stays."""
    aboard = begun(installation)
    assert aboard.client.consume(customer_id="acme", event_name="job", measures={"points": 7})
    seen = shown_for(4.0, lambda: aboard.used("acme", "quota", "allowance:quota"))
    assert seen == [Decimal(7)]
