"""What a sidecar that stops leaves behind at the control plane: nothing but what open reservations hold."""

import threading
from collections import defaultdict
from contextlib import suppress
from decimal import Decimal

import purser
from tests.integration.whole.installation import Aboard, Installation

CATALOG = """
purser: catalog/v1
units:
  credit: {name: credit, kind: credit, scale: 3}
meters:
  points: {event: job, aggregate: sum, of: [points]}
  calls: {event: call, aggregate: count}
rate_cards:
  jobs: {event: job, unit: credit, prices: [{dimension: points, per: 1, price: "1"}]}
features:
  jobs: {type: metered, event: job, rate_card: jobs}
  quota: {type: metered, meter: points}
  calls: {type: metered, meter: calls}
plans:
  team:
    entitlements:
      jobs: {spends: credit}
      quota: {limit: 5000, every: P1M}
      calls: {limit: 100000, every: PT1M}
    grants:
      - {unit: credit, amount: "900", every: P1M}
      - {unit: credit, amount: "100", scope: [jobs]}
    budgets: [{name: daily, scope: subject, unit: credit, limit: 500, every: P1D, anchor: calendar}]
"""


def begun(installation: Installation) -> Aboard:
    """A sidecar whose customer has a scoped and a general grant, a budget and allowances."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "team")
    return installation.sidecar()


def job(aboard: Aboard, points: int) -> None:
    """Draws on every balance of the job."""
    assert aboard.client.consume(customer_id="acme", event_name="job", measures={"points": points})


def test_nothing_stays_leased_but_open_holds(installation: Installation) -> None:
    """Every lease is settled when `stop` returns, except for what an open reservation holds."""
    aboard = begun(installation)
    for points in (3, 70, 140):
        job(aboard, points)
    reserved = aboard.client.reserve(customer_id="acme", event_name="job", measures={"points": 25})
    assert reserved
    assert installation.office.unsettled() > 50
    aboard.sidecar.stop(drain=True)
    left: defaultdict[str, Decimal] = defaultdict(Decimal)
    for lease in installation.office.get("/leases", limit=500)["items"]:
        left[lease["balance"]] += Decimal(lease["unsettled"])
    assert {name: amount for name, amount in left.items() if amount} == {
        "wallet:credit": 25,
        "allowance:quota": 25,
    }
    assert installation.office.balance("acme", "wallet:credit")["spent"] == 213


def test_leases_on_their_way_arrive_before_the_stop(installation: Installation) -> None:
    """A sidecar that stops under load leaves nothing behind of what it had asked for ahead of its callers."""
    aboard = begun(installation)
    stopping = threading.Event()

    def calls() -> None:
        while not stopping.is_set():
            with suppress(purser.Unavailable):  # the sidecar does not take calls any more
                aboard.client.consume(customer_id="acme", event_name="call")

    callers = [threading.Thread(target=calls) for _ in range(3)]
    for caller in callers:
        caller.start()
    stopping.wait(1.5)
    stopping.set()
    aboard.sidecar.stop(drain=True)
    for caller in callers:
        caller.join()
    assert installation.office.unsettled() == 0
