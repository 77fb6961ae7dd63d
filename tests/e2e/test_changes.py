"""A change is in a connected sidecar's decisions within a second, and at once with `min_revision`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import purser
from tests.e2e.fleet import CATALOG, Fleet, eventually

Change = Callable[[Fleet], int]
Question = Callable[[purser.Client, int | None], purser.Decision]


def _lower_limit(fleet: Fleet) -> int:
    return fleet.publish(CATALOG.replace("limit: 500", "limit: 40"), move="all")


def _grant(fleet: Fleet) -> int:
    return int(fleet.post("/grants", customer_id="rich", unit="credit", amount="50")["revision"])


def _suspend(fleet: Fleet) -> int:
    return int(fleet.post("/customers/acme/suspend")["revision"])


def _past_due(fleet: Fleet) -> int:
    return int(fleet.post("/subscriptions/sub_late/payment-status", status="past_due")["revision"])


def _quota_of_50(client: purser.Client, revision: int | None) -> purser.Decision:
    return _check(client, revision, customer_id="acme", feature="quota", quantity=50)


def _job_of_50(client: purser.Client, revision: int | None) -> purser.Decision:
    return _check(
        client, revision, customer_id="rich", feature="jobs", event_name="job", measures={"points": 50}
    )


def _sso(client: purser.Client, revision: int | None) -> purser.Decision:
    return _check(client, revision, customer_id="acme", feature="sso")


def _late_sso(client: purser.Client, revision: int | None) -> purser.Decision:
    return _check(client, revision, customer_id="late", feature="sso")


def _check(client: purser.Client, revision: int | None, **fields: object) -> purser.Decision:
    if revision is not None:
        fields["min_revision"] = revision
    return client.check(**fields)  # type: ignore[arg-type]


CHANGES = [
    pytest.param(_lower_limit, _quota_of_50, True, purser.Reason.LIMIT_REACHED, id="limit"),
    pytest.param(_grant, _job_of_50, False, purser.Reason.OK, id="grant"),
    pytest.param(_suspend, _sso, True, purser.Reason.CUSTOMER_SUSPENDED, id="suspension"),
    pytest.param(_past_due, _late_sso, True, purser.Reason.PAYMENT_PAST_DUE, id="past-due"),
]


@pytest.fixture
def client(fleet: Fleet) -> purser.Client:
    """A sidecar that knows everybody already."""
    fleet.publish(
        CATALOG.replace("  free:", "  strict: {on_past_due: deny, entitlements: {sso: true}}\n  free:")
    )
    fleet.customer("acme", "metered")
    fleet.customer("rich", "prepaid", amount="1")
    fleet.customer("late", "strict")
    return fleet.sidecar().client


@pytest.mark.parametrize(("change", "ask", "before", "reason"), CHANGES)
def test_within_a_second(
    fleet: Fleet, client: purser.Client, change: Change, ask: Question, before: bool, reason: purser.Reason
) -> None:
    """Without asking for more than the connection gives, the next second shows it."""
    assert bool(ask(client, None)) is before
    change(fleet)
    eventually(lambda: ask(client, None).reason == reason, seconds=1, what=f"the answer is {reason}")


@pytest.mark.parametrize(("change", "ask", "before", "reason"), CHANGES)
def test_at_once_with_min_revision(
    fleet: Fleet, client: purser.Client, change: Change, ask: Question, before: bool, reason: purser.Reason
) -> None:
    """The very next answer shows it when it asks for the change's revision."""
    assert bool(ask(client, None)) is before
    answer = ask(client, change(fleet))
    assert answer.reason == reason, answer.message
