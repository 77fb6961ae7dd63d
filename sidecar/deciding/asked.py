"""What a caller sent, as the verbs take it: the message as data, and what is derived from it once."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.party import Party
from sidecar.engine.values import Event, GaugeChange


class Asked(NamedTuple):
    """One validated event. `occurred_at` None: the caller gave none."""

    message: usage.UsageEvent
    content_hash: bytes
    occurred_at: datetime | None
    gauge_feature: str = ""
    """The gauge, from wherever the request named it; empty: not a gauge event."""

    def event(self, party: Party, occurred_at: datetime) -> Event:
        """The engine's event, of whoever asks."""
        return make_event(
            self.message,
            customer_id=party.customer_id,
            subject_id=party.subject_id,
            occurred_at=occurred_at,
            gauge_feature=self.gauge_feature,
        )


def content_hash(message: usage.UsageEvent) -> bytes:
    """SHA-256 over what the caller sent: a repeat is known by it. 32 bytes."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def make_event(
    message: usage.UsageEvent,
    *,
    customer_id: str,
    subject_id: str,
    occurred_at: datetime,
    gauge_feature: str = "",
    key: str = "",
    measures: Mapping[str, Decimal] | None = None,
) -> Event:
    """The engine's event. Measures were validated: Decimal reads them without a second look."""
    if measures is None:
        sent = message.measures
        # Not items(): a message's maps are read by key, and their views are slow.
        measures = {name: Decimal(sent[name]) for name in sent}
    attributes = message.attributes
    change = message.gauge_change
    return Event(
        event_name=message.event_name,
        occurred_at=occurred_at,
        customer_id=customer_id,
        subject_id=subject_id,
        idempotency_key=key or message.idempotency_key,
        app_id=message.app_id,
        measures=measures,
        attributes={name: attributes[name] for name in attributes},
        correlation_id=message.correlation_id,
        holder_id=message.holder_id,
        gauge_change=GaugeChange(change) if change else GaugeChange.NONE,
        gauge_feature=gauge_feature or message.gauge_feature,
    )
