"""What was acknowledged is in the books once: after kills, repeats, and detours through another sidecar."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import purser
from tests.e2e.fleet import Fleet, eventually

Kill = Callable[[Fleet], None]


def _kill_sidecar(fleet: Fleet) -> None:
    fleet.sidecars[0].kill()
    fleet.sidecars[0].start()


def _kill_control_plane(fleet: Fleet) -> None:
    fleet.control_plane.kill()
    fleet.control_plane.start()


@pytest.mark.parametrize("kill", [_kill_sidecar, _kill_control_plane])
def test_kill_in_mid_traffic(fleet: Fleet, kill: Kill) -> None:
    """Acknowledged ⊆ ledger ⊆ acknowledged ∪ unknown; and equal once the unknown ones are repeated with their key."""
    sidecar = fleet.sidecar()
    fleet.customer("acme", "prepaid", amount="100000")
    acknowledged: set[str] = set()
    unknown: set[str] = set()
    stop = threading.Event()
    lock = threading.Lock()

    def traffic(worker: int) -> None:
        client = purser.Client(sidecar.address, timeout=2)
        number = 0
        while not stop.is_set():
            number += 1
            key = f"w{worker}-{number}"
            try:
                answer = client.consume(**_job(key))
            except (purser.Unavailable, purser.DeadlineExceeded, purser.Overloaded):
                with lock:
                    unknown.add(key)
                continue
            if answer.reason == purser.Reason.CONTROL_PLANE_UNREACHABLE:
                stop.wait(0.05)  # what was leased is spent; the balance is far from empty
                continue
            assert answer, answer.message
            with lock:
                acknowledged.add(key)
        client.close()

    workers = [threading.Thread(target=traffic, args=(worker,)) for worker in range(8)]
    for worker in workers:
        worker.start()
    eventually(lambda: len(acknowledged) > 200, seconds=30, what="traffic flows")
    kill(fleet)
    seen = len(acknowledged)
    eventually(lambda: len(acknowledged) > seen + 200, seconds=30, what="traffic flows again")
    stop.set()
    for worker in workers:
        worker.join()

    eventually(
        lambda: acknowledged <= _keys(fleet), seconds=30, what="all that was acknowledged is in the books"
    )
    assert _keys(fleet) <= acknowledged | unknown
    for key in unknown:
        assert sidecar.client.consume(**_job(key))
    eventually(
        lambda: _keys(fleet) == acknowledged | unknown, seconds=30, what="the unknown ones are in, too"
    )
    events = [event["idempotency_key"] for event in fleet.events("acme")]
    assert len(events) == len(set(events))
    eventually(
        lambda: fleet.balance("acme", "wallet:credit")["spent"] == len(events),
        seconds=90,
        what="each is paid once",
    )


def test_twice_through_one_sidecar(fleet: Fleet) -> None:
    """The same event again is DUPLICATE with the first answer; other content under its key is a conflict."""
    sidecar = fleet.sidecar()
    fleet.customer("acme", "prepaid", amount="100")
    first = sidecar.client.consume(**_job("k1"))
    again = sidecar.client.consume(**_job("k1"))
    assert (first.status, again.status) == ("ACCEPTED", "DUPLICATE")
    assert again.decision_id == first.decision_id
    with pytest.raises(purser.KeyConflict):
        sidecar.client.consume(**_job("k1", points=2))
    eventually(
        lambda: fleet.balance("acme", "wallet:credit")["spent"] == 1, seconds=10, what="it is booked once"
    )


def test_twice_through_two_sidecars(fleet: Fleet) -> None:
    """Both callers may hear ACCEPTED; it is one posting, and the second lease is credited back once."""
    one, two = fleet.sidecar(), fleet.sidecar()
    fleet.customer("acme", "prepaid", amount="100")
    assert one.client.consume(**_job("k1"))
    assert two.client.consume(**_job("k1"))
    for sidecar in (one, two):
        assert sidecar.client.consume(**_job(f"after-{sidecar.name}"))
    eventually(lambda: len(fleet.events("acme")) == 3, seconds=10, what="three events are in the books")
    for sidecar in (one, two):
        assert sidecar.terminate() == 0
    eventually(
        lambda: fleet.balance("acme", "wallet:credit")["leased"] == 0,
        seconds=10,
        what="all leases are closed",
    )
    books = fleet.balance("acme", "wallet:credit")
    assert (books["spent"], books["available"]) == (3, 97)
    assert len(fleet.events("acme")) == 3


def _job(key: str, points: int = 1) -> purser.types.EventFields:
    return {
        "idempotency_key": key,
        "customer_id": "acme",
        "event_name": "job",
        "measures": {"points": points},
    }


def _keys(fleet: Fleet) -> set[str]:
    return {event["idempotency_key"] for event in fleet.events("acme")}
