"""Who acts, as a connected sidecar knows it."""

from __future__ import annotations

import time

import purser
from tests.e2e.fleet import Fleet


def test_subjects(small_fleet: Fleet) -> None:
    """Alone, a registered subject finds its customer, and a stranger is not found, without a wait; beside a customer a
    stranger is a label, and another customer's subject is not found.
    """
    client = small_fleet.sidecar().client
    small_fleet.customer("acme", "prepaid", amount="1")
    small_fleet.customer("bits", "prepaid", amount="1")
    small_fleet.post("/customers/acme/subjects", id="ann")
    assert client.check(subject_id="ann", feature="sso")
    began = time.monotonic()
    assert client.check(subject_id="nobody", feature="sso").reason == purser.Reason.SUBJECT_NOT_FOUND
    assert time.monotonic() - began < 2, "it was asked for, not waited for in vain"
    assert client.check(customer_id="acme", subject_id="nobody", feature="sso")
    answer = client.consume(
        customer_id="bits", subject_id="ann", feature="jobs", event_name="job", measures={"points": 1}
    )
    assert answer.reason == purser.Reason.SUBJECT_NOT_FOUND
