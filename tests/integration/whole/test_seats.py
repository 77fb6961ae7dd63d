"""Seats: what a sidecar asked for and did not use is free again."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import purser
from tests.e2e.fleet import eventually
from tests.integration.whole.installation import Installation

CATALOG = """
purser: catalog/v1
features:
  seats: {type: gauge}
plans:
  team: {entitlements: {seats: {limit: 100}}}
"""


def test_the_loser_of_a_key_takes_no_seat(installation: Installation) -> None:
    """Two callers use one key for two holders at once: one holds a seat, and the other's is given up."""
    installation.office.publish(CATALOG)
    installation.office.customer("acme", "team")
    client = installation.sidecar().client
    assert client.check(customer_id="acme", feature="seats")
    rounds, at_once = 10, 4
    barrier = Barrier(at_once)

    def take(round_number: int, holder: int) -> bool:
        barrier.wait(10)
        try:
            taken = client.consume(
                customer_id="acme",
                feature="seats",
                event_name="seat",
                holder_id=f"holder-{round_number}-{holder}",
                gauge_change="ADD",
                idempotency_key=f"key-{round_number}",
            )
        except purser.KeyConflict:
            return False
        return bool(taken)

    with ThreadPoolExecutor(at_once) as pool:
        for number in range(rounds):
            assert sum(pool.map(take, [number] * at_once, range(at_once))) == 1
    eventually(
        lambda: installation.office.balance("acme", "gauge:seats")["spent"] == rounds,
        seconds=5,
        what="one seat is held for each key",
    )
