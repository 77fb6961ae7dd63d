"""Redis as the fleet's second snapshot tier: what one sidecar knew, another answers by during an outage."""

from datetime import datetime

import purser
from sidecar.view.redis import RedisTier, connect
from tests.e2e.fleet import eventually
from tests.integration.whole.installation import LOOK_SECONDS, Installation

CATALOG = """
purser: catalog/v1
features:
  sso: {type: switch}
plans:
  pro: {entitlements: {sso: true}}
"""


def test_a_suspension_that_redis_has_not_heard_of(installation: Installation, redis_url: str) -> None:
    """The answer says how old what it rests on is: of the revision and the moment that Redis had it from."""
    office = installation.office
    office.publish(CATALOG)
    known = office.customer("bob", "pro")
    office.customer("amy", "pro")
    one = installation.sidecar(redis=redis_url)
    assert one.client.check(customer_id="bob", feature="sso", min_revision=known)
    tier = RedisTier(connect(redis_url), prefix="purser", monotonic=one.clock.monotonic)

    def confirmed() -> datetime | None:
        found = tier.customer("bob")
        return None if found is None else found.as_of

    eventually(lambda: confirmed() is not None, seconds=LOOK_SECONDS, what="Redis has the state")
    first = confirmed()
    eventually(lambda: confirmed() != first, seconds=LOOK_SECONDS, what="it is confirmed again, unchanged")
    one.sidecar.stop(drain=False)
    suspended = office.post("/customers/bob/suspend")["revision"]
    other = installation.sidecar(redis=redis_url)
    assert other.client.check(customer_id="amy", feature="sso", min_revision=suspended)
    office.stop()
    other.knows_that_it_is_alone()
    answer = other.client.check(customer_id="bob", feature="sso")
    assert answer.allowed
    assert answer.freshness.source == "PERSISTED"
    assert answer.freshness.revision < suspended
    last = confirmed()
    assert last is not None
    assert answer.freshness.as_of == last
    newer = other.client.check(customer_id="bob", feature="sso", min_revision=suspended)
    assert newer.reason is purser.Reason.VIEW_TOO_OLD
