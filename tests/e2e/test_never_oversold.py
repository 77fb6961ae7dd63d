"""What callers were granted never exceeds what there is, through one sidecar or many."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier, Event

import pytest

import purser
from tests.e2e.fleet import Fleet, eventually


@pytest.mark.parametrize("sidecars", [1, 4])
@pytest.mark.parametrize(
    ("plan", "feature", "balance", "reason"),
    [
        ("prepaid", "jobs", "wallet:credit", purser.Reason.INSUFFICIENT_CREDITS),
        ("metered", "quota", "allowance:quota", purser.Reason.LIMIT_REACHED),
    ],
)
def test_twenty_race_for_six_slots(
    fleet: Fleet, sidecars: int, plan: str, feature: str, balance: str, reason: purser.Reason
) -> None:
    """20 concurrent reserves of 75 on a balance of 500: exactly 6 are granted, wherever they ask.

    They have time: on a machine whose disk stands still for seconds, so does the control plane.
    """
    crew = [purser.Client(fleet.sidecar().address, timeout=60) for _ in range(sidecars)]
    fleet.customer("acme", plan, amount="500" if plan == "prepaid" else None)
    start = Barrier(20)

    def reserve(number: int) -> purser.Reservation:
        client = crew[number % sidecars]
        start.wait()
        return client.reserve(customer_id="acme", feature=feature, event_name="job", measures={"points": 75})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(reserve, range(20)))

    granted = [answer for answer in answers if answer]
    refused = [answer.decision for answer in answers if not answer]
    assert len(granted) == 6, [answer.decision.message for answer in answers]
    assert {decision.reason for decision in refused} == {reason}, {decision.message for decision in refused}
    for reservation in granted:
        reservation.settle({"points": 75}, final=True)
    eventually(
        lambda: fleet.balance("acme", balance)["spent"] == 450, seconds=20, what="450 are in the books"
    )
    assert fleet.balance("acme", balance)["overage"] == 0
    for client in crew:
        client.close()


def test_what_was_granted_is_spent_exactly(fleet: Fleet) -> None:
    """64 threads × 4 sidecars consume from a balance that fits a third of them: all of it is spent, and no more.

    The last of 64 who wait at one sidecar for what others hold waits long on a small machine.
    """
    crew = [purser.Client(fleet.sidecar().address, timeout=30) for _ in range(4)]
    fleet.customer("acme", "prepaid", amount="2560")
    threads, calls_each, points = 64, 3, 10
    start = Barrier(threads * len(crew))

    def consume(client: purser.Client) -> int:
        start.wait()
        return sum(bool(_until_final(client, points)) for _ in range(calls_each))

    with ThreadPoolExecutor(threads * len(crew)) as pool:
        allowed = sum(pool.map(consume, [client for client in crew for _ in range(threads)]))
    for client in crew:
        client.close()

    assert threads * len(crew) * calls_each == 768  # three times what there is
    assert allowed == 256
    eventually(
        lambda: fleet.balance("acme", "wallet:credit")["spent"] == 2560,
        seconds=20,
        what="all is in the books",
    )
    books = fleet.balance("acme", "wallet:credit")
    assert (books["overage"], books["available"], books["leased"]) == (0, 0, 0)
    assert len(fleet.events("acme")) == 256


def test_nothing_stays_stranded(small_fleet: Fleet) -> None:
    """What a sidecar leased and does not need comes back while it is connected: after 10 s at rest, long before the end
    of its lease.
    """
    sidecar = small_fleet.sidecar()
    small_fleet.customer("acme", "prepaid", amount="1000")
    assert sidecar.client.consume(
        customer_id="acme", feature="jobs", event_name="job", measures={"points": 1}
    )
    eventually(
        lambda: small_fleet.balance("acme", "wallet:credit")["leased"] == 0,
        seconds=20,
        what="no lease is out",
    )
    books = small_fleet.balance("acme", "wallet:credit")
    assert (books["spent"], books["available"], books["quarantined"]) == (Decimal(1), Decimal(999), 0)


def _until_final(client: purser.Client, points: int) -> purser.Decision:
    """One consume; what was refused because others could not be asked in time is tried again, as it says."""
    while True:
        answer = client.consume(
            customer_id="acme", feature="jobs", event_name="job", measures={"points": points}
        )
        if answer or answer.retry_after is None:
            return answer
        Event().wait(answer.retry_after.total_seconds())
