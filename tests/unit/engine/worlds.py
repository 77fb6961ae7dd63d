"""A catalog, customers and events for examples by hand."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sidecar.engine.catalog import Catalog
from sidecar.engine.customer import Customer, Subscription, SubscriptionState
from sidecar.engine.document import read_catalog
from sidecar.engine.entitlement import Entitlements
from sidecar.engine.resolve import resolve
from sidecar.engine.values import Event
from tests.contracts.decision_cases import ROOT, read_yaml

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
BEGAN = datetime(2026, 1, 31, 9, tzinfo=UTC)
REVISION = 12


def example(**plans: Any) -> Catalog:
    """The example catalog with some more plans."""
    document = read_yaml(ROOT / "examples/catalogs/example.yaml")
    document["meters"]["peak"] = {"event": "storage", "aggregate": "max", "of": "bytes"}
    document["meters"]["people"] = {"event": "login", "aggregate": "unique", "of": "user"}
    document["meters"]["slow"] = {
        "event": "llm_inference",
        "aggregate": "count",
        "filter": {"tier": ["slow", "none"]},
    }
    document["features"]["storage"] = {"type": "metered", "meter": "peak"}
    document["features"]["people"] = {"type": "metered", "meter": "people"}
    document["features"]["batch"] = {"type": "metered", "meter": "slow"}
    document["features"]["images"] = {"type": "metered", "event": "llm_inference", "rate_card": "llm"}
    document["plans"].update(plans)
    return read_catalog(document)


def subscription(plan: str, subscription_id: str = "s1", **fields: Any) -> Subscription:
    """An active one since the 31st of January."""
    said = {
        "state": SubscriptionState.ACTIVE,
        "starts_at": BEGAN,
        "anchor_at": BEGAN,
        "catalog_revision": REVISION,
    }
    return Subscription(subscription_id=subscription_id, plan=plan, **{**said, **fields})


def entitled(*subscriptions: Subscription, catalog: Catalog | None = None, **fields: Any) -> Entitlements:
    """What a customer with these subscriptions may do."""
    customer = Customer(customer_id="acme", subscriptions=subscriptions, **fields)
    return resolve(customer, {REVISION: catalog or example()}, REVISION, NOW)


def inference(subject_id: str = "", tier: str = "", **measures: int) -> Event:
    """An inference of the known model; 412 in and 1,083 out unless it says otherwise."""
    known = measures or {"input_tokens": 412, "output_tokens": 1083, "context_window": 8192}
    return Event(
        event_name="llm_inference",
        occurred_at=NOW,
        customer_id="acme",
        subject_id=subject_id,
        measures={name: Decimal(value) for name, value in known.items()},
        attributes={"model": "text-gen-v3", **({"tier": tier} if tier else {})},
    )
