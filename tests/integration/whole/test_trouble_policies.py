"""What trouble policies let pass while the control plane is away, and no more."""

from datetime import timedelta

import purser
from purser import Reason
from tests.e2e.fleet import eventually
from tests.integration.whole.installation import Aboard, Installation

CATALOG = """
purser: catalog/v1
meters:
  points: {event: job, aggregate: sum, of: [points]}
  calls: {event: call, aggregate: count}
  pages: {event: page, aggregate: count}
  peak: {event: load, aggregate: max, of: [size]}
features:
  quota: {type: metered, meter: points, trouble: {on_unreachable: {allow_up_to: 30}}}
  calls: {type: metered, meter: calls, trouble: {on_unknown_customer: default_plan}}
  pages: {type: metered, meter: pages, trouble: {on_unknown_customer: allow}}
  load: {type: metered, meter: peak, trouble: {on_unreachable: {allow_up_to: 100}}}
  seats: {type: gauge, trouble: {on_unreachable: {allow_up_to: 2}}}
  rooms: {type: gauge, trouble: {on_unreachable: allow}}
  desks: {type: gauge}
  sso: {type: switch}
  beta: {type: switch, trouble: {on_stale: allow}}
  models: {type: config, value: set, trouble: {max_staleness: PT10M}}
default_plan: free
plans:
  free: {entitlements: {calls: {limit: 5, every: P1M}}}
  team:
    entitlements:
      quota: {limit: 500, every: P1M}
      load: {limit: 50, every: P1M}
      seats: {limit: 10}
      rooms: {limit: 1}
      desks: {limit: 1}
      sso: true
      beta: true
      models: [text-gen-v3]
"""


def begun(installation: Installation, *names: str) -> Aboard:
    """A sidecar that knows these customers, and has leased nothing."""
    installation.office.publish(CATALOG)
    aboard = None
    for name in names:
        installation.office.customer(name, "team")
    aboard = installation.sidecar()
    for name in names:
        assert aboard.client.check(customer_id=name, feature="sso")
    return aboard


def alone(installation: Installation, *sidecars: Aboard) -> None:
    """The control plane goes away, and the sidecars know."""
    installation.office.stop()
    for aboard in sidecars:
        aboard.knows_that_it_is_alone()


def job(aboard: Aboard, points: int, customer_id: str = "acme") -> purser.Decision:
    """Draws on the quota."""
    return aboard.client.consume(customer_id=customer_id, event_name="job", measures={"points": points})


def shows(aboard: Aboard, gauge: str, used: int) -> None:
    """Waits until the books' word of a gauge has come."""
    eventually(
        lambda: aboard.used("acme", gauge, f"gauge:{gauge}") == used, seconds=5, what=f"{gauge} is {used}"
    )


def hold(
    aboard: Aboard, feature: str, holder_id: str, change: str = "ADD", quantity: int = 1
) -> purser.Decision:
    """Changes what a holder holds of a gauge."""
    return aboard.client.consume(
        customer_id="acme",
        event_name="seat",
        feature=feature,
        gauge_feature=feature,
        gauge_change=change,
        holder_id=holder_id,
        measures={"quantity": quantity},
    )


def test_so_much_passes_per_sidecar_customer_and_outage(installation: Installation) -> None:
    """N is waived for each customer, by each sidecar, in each outage; what passed is paid by what is there."""
    one = begun(installation, "acme", "globex")
    two = installation.sidecar()
    assert two.client.check(customer_id="acme", feature="sso")
    alone(installation, one, two)
    first = job(one, 20)
    assert (first.allowed, first.reason) == (True, Reason.OK_FALLBACK)
    refused = job(one, 11)
    assert (refused.allowed, refused.reason) == (False, Reason.CONTROL_PLANE_UNREACHABLE)
    assert job(one, 10)
    assert job(one, 30, "globex")
    assert job(two, 30)
    assert not job(two, 1)
    installation.office.start()
    for aboard in (one, two):
        aboard.is_back()
        aboard.has_uploaded()
    books = installation.office.balance("acme", "allowance:quota")
    assert books["spent"] == 60
    assert books["overage"] == 0
    alone(installation, one, two)
    assert job(one, 30), "another outage begins at nothing"


def test_a_check_says_what_a_consume_would(installation: Installation) -> None:
    """While the waiver lasts a check is allowed as a fallback; when it is used up it is refused."""
    aboard = begun(installation, "acme")
    alone(installation, aboard)
    checked = aboard.client.check(customer_id="acme", feature="quota", quantity=30)
    assert (checked.allowed, checked.reason) == (True, Reason.OK_FALLBACK)
    assert not aboard.client.check(customer_id="acme", feature="quota", quantity=31)
    assert job(aboard, 30), "a check takes nothing"
    assert not aboard.client.check(customer_id="acme", feature="quota", quantity=1)


def test_a_gauges_waiver_counts_holders(installation: Installation) -> None:
    """`allow_up_to: 2` lets two holders be added in an outage; removing is always possible, and frees one."""
    aboard = begun(installation, "acme")
    assert hold(aboard, "seats", "ann")
    alone(installation, aboard)
    assert hold(aboard, "seats", "bob").reason == Reason.OK_FALLBACK
    assert hold(aboard, "seats", "cleo")
    refused = hold(aboard, "seats", "dan")
    assert (refused.allowed, refused.reason) == (False, Reason.CONTROL_PLANE_UNREACHABLE)
    assert hold(aboard, "seats", "bob"), "adding a holder twice is one"
    assert hold(aboard, "seats", "cleo", "REMOVE")
    assert hold(aboard, "seats", "dan"), "one was freed"
    installation.office.start()
    aboard.is_back()
    aboard.has_uploaded()
    shows(aboard, "seats", 3)


def test_removing_a_holder_needs_nobody(installation: Installation) -> None:
    """Whatever the policy, a holder can be removed while the control plane is away; adding is refused."""
    aboard = begun(installation, "acme")
    assert hold(aboard, "desks", "ann")
    alone(installation, aboard)
    assert hold(aboard, "desks", "ann", "REMOVE")
    assert not hold(aboard, "desks", "bob")
    assert hold(aboard, "rooms", "ann")
    assert hold(aboard, "rooms", "bob"), "`allow` has no bound"
    installation.office.start()
    aboard.is_back()
    aboard.has_uploaded()
    shows(aboard, "desks", 0)
    shows(aboard, "rooms", 2)


def test_a_peak_is_waived_up_to_its_bound(installation: Installation) -> None:
    """`max`: peaks do not add up, so what is waived is how high they may be."""
    aboard = begun(installation, "acme")
    alone(installation, aboard)
    load = {"customer_id": "acme", "event_name": "load"}
    assert aboard.client.consume(**load, measures={"size": 60})  # type: ignore[arg-type]
    assert aboard.client.consume(**load, measures={"size": 90})  # type: ignore[arg-type]
    assert not aboard.client.consume(**load, measures={"size": 101})  # type: ignore[arg-type]


def test_an_unknown_customer_has_the_default_plan(installation: Installation) -> None:
    """`default_plan`: the plan's limit holds per sidecar; what passed is a fact."""
    aboard = begun(installation, "acme")
    decisions = [aboard.client.consume(customer_id="new", event_name="call") for _ in range(6)]
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert decisions[0].reason == Reason.OK_FALLBACK
    assert decisions[5].reason == Reason.LIMIT_REACHED
    assert not aboard.client.check(customer_id="new", feature="sso")


def test_an_unknown_customer_may_pass(installation: Installation) -> None:
    """`allow`: nobody's usage passes and is kept as a fact; once the customer exists it is booked."""
    aboard = begun(installation, "acme")
    decision = aboard.client.consume(customer_id="new", event_name="page")
    assert (decision.allowed, decision.reason) == (True, Reason.OK_FALLBACK)
    assert aboard.client.check(customer_id="new", feature="pages")
    alone(installation, aboard)
    assert aboard.client.consume(customer_id="never-seen", event_name="page")
    refused = aboard.client.check(customer_id="never-seen", feature="sso")
    assert (refused.allowed, refused.reason) == (False, Reason.CONTROL_PLANE_UNREACHABLE)


def test_a_stale_view_answers_for_values_as_the_feature_says(installation: Installation) -> None:
    """Beyond max_staleness a switch and a config deny, unless `on_stale: allow`; and they come back with the view."""
    aboard = begun(installation, "acme")
    alone(installation, aboard)
    aboard.clock.advance(timedelta(minutes=11).total_seconds())
    assert aboard.client.check(customer_id="acme", feature="sso").reason == Reason.OK
    stale = aboard.client.check(customer_id="acme", feature="models")
    assert (stale.allowed, stale.reason) == (False, Reason.VIEW_TOO_OLD)
    aboard.clock.advance(timedelta(minutes=50).total_seconds())
    assert aboard.client.check(customer_id="acme", feature="sso").reason == Reason.VIEW_TOO_OLD
    beta = aboard.client.check(customer_id="acme", feature="beta", explain=True)
    assert (beta.allowed, beta.reason) == (True, Reason.OK_FALLBACK)
    assert any("on_stale: allow" in step.finding for step in beta.explanation)
    installation.office.start()
    aboard.is_back()
    assert aboard.client.check(customer_id="acme", feature="sso").reason == Reason.OK
