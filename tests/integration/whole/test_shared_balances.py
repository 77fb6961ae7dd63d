"""What several features, or several sidecars, count into one balance."""

import purser
from purser import Reason
from tests.e2e.fleet import eventually
from tests.integration.whole.installation import Aboard, Installation

CATALOG = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  users: {event: visit, aggregate: unique, of: [user]}
  peak: {event: load, aggregate: max, of: [size]}
  free_peak: {event: heat, aggregate: max, of: [size]}
rate_cards:
  chat: {event: chat, unit: credit, prices: [{dimension: tokens, per: 1, price: "1"}]}
  image: {event: image, unit: credit, prices: [{dimension: pixels, per: 1, price: "1"}]}
  both_chat: {event: both, unit: credit, prices: [{dimension: tokens, per: 1, price: "1"}]}
  both_image: {event: both, unit: credit, prices: [{dimension: pixels, per: 1, price: "1"}]}
features:
  chat: {type: metered, event: chat, rate_card: chat}
  image: {type: metered, event: image, rate_card: image}
  talk: {type: metered, event: both, rate_card: both_chat}
  draw: {type: metered, event: both, rate_card: both_image}
  people: {type: metered, meter: users}
  load: {type: metered, meter: peak}
  heat: {type: metered, meter: free_peak}
plans:
  prepaid:
    entitlements: {chat: {spends: credit}, image: {spends: credit}}
    grants:
      - {unit: credit, amount: "100", scope: [chat]}
      - {unit: credit, amount: "50"}
  double:
    entitlements: {talk: {spends: credit}, draw: {spends: credit}}
    grants:
      - {unit: credit, amount: "30", scope: [talk]}
      - {unit: credit, amount: "10"}
  counted:
    entitlements:
      people: {limit: 3, every: P1M}
      load: {limit: 100, every: P1M}
      heat: {limit: unlimited, every: P1M}
"""


def use(aboard: Aboard, customer_id: str, event_name: str, **measures: int) -> purser.Decision:
    """One consume."""
    return aboard.client.consume(customer_id=customer_id, event_name=event_name, measures=measures)


def visit(aboard: Aboard, user: str) -> purser.Decision:
    """Somebody was seen."""
    return aboard.client.consume(customer_id="acme", event_name="visit", attributes={"user": user})


def test_two_features_draw_from_one_wallet_with_scoped_grants(installation: Installation) -> None:
    """Each spends what its scope holds, the narrow grant first; the rest is for whoever comes first."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "prepaid")
    one, two = installation.sidecar(), installation.sidecar()
    checked = one.client.check(customer_id="acme", event_name="image", measures={"pixels": 51})
    assert not checked
    assert checked.reason == Reason.INSUFFICIENT_CREDITS
    assert use(one, "acme", "chat", tokens=90)
    assert use(two, "acme", "image", pixels=50)
    assert use(one, "acme", "image", pixels=1).reason == Reason.INSUFFICIENT_CREDITS
    assert use(two, "acme", "chat", tokens=10)
    assert use(one, "acme", "chat", tokens=1).reason == Reason.INSUFFICIENT_CREDITS
    one.has_uploaded()
    two.has_uploaded()
    books = installation.office.balance("acme", "wallet:credit")
    assert books["spent"] == 150
    assert books["overage"] == 0


def test_one_event_that_two_features_pay_from_one_wallet(installation: Installation) -> None:
    """All or none, in each feature's scope: what one alone may spend does not pay for the other."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "double")
    one = installation.sidecar()
    refused = use(one, "acme", "both", tokens=5, pixels=11)
    assert refused.reason == Reason.INSUFFICIENT_CREDITS
    assert use(one, "acme", "both", tokens=30, pixels=10)
    assert not use(one, "acme", "both", tokens=1, pixels=0)
    one.has_uploaded()
    assert installation.office.balance("acme", "wallet:credit")["spent"] == 40


def test_a_value_that_two_sidecars_count_is_one(installation: Installation) -> None:
    """`unique`: each sidecar charges a value once; what the other had counted is returned, and may be used."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "counted")
    one, two = installation.sidecar(), installation.sidecar()
    assert visit(one, "ann")
    assert visit(one, "ann"), "counted already: it costs nothing"
    assert visit(two, "ann")
    one.has_uploaded()
    two.has_uploaded()
    eventually(
        lambda: installation.office.balance("acme", "allowance:people")["spent"] == 1,
        seconds=10,
        what="one user is counted",
    )
    assert visit(two, "bob")
    assert visit(one, "cleo"), "the third: ann was counted once"
    refused = visit(two, "dan")
    assert (refused.allowed, refused.reason) == (False, Reason.LIMIT_REACHED)
    assert visit(two, "ann")
    one.has_uploaded()
    two.has_uploaded()
    eventually(
        lambda: installation.office.balance("acme", "allowance:people")["spent"] == 3,
        seconds=10,
        what="three users are counted",
    )
    eventually(lambda: one.used("acme", "people", "allowance:people") == 3, seconds=5, what="three are shown")


def test_a_peak_is_the_highest_of_all_sidecars(installation: Installation) -> None:
    """`max`: only what raises the peak above the limit is refused; both sidecars see the peak."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "counted")
    one, two = installation.sidecar(), installation.sidecar()
    assert use(one, "acme", "load", size=70)
    assert use(two, "acme", "load", size=90)
    assert use(one, "acme", "load", size=80)
    assert use(one, "acme", "load", size=101).reason == Reason.LIMIT_REACHED
    for sidecar in (one, two):
        # What stands is what is booked: it is shown a moment after its event was uploaded.
        eventually(
            lambda sidecar=sidecar: sidecar.used("acme", "load", "allowance:load") == 90,  # type: ignore[misc]
            seconds=10,
            what="both see the peak",
        )


def test_an_unlimited_peak_asks_nobody(installation: Installation) -> None:
    """`max` without a limit is allowed whether the control plane is there or not."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "counted")
    one = installation.sidecar()
    assert use(one, "acme", "heat", size=70).reason == Reason.OK
    installation.office.stop()
    one.knows_that_it_is_alone()
    assert use(one, "acme", "heat", size=20).reason == Reason.OK
