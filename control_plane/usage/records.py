"""Records of outboxes as the control plane works on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from control_plane.db.types import EPOCH, MICROSECOND
from control_plane.leases.returns import Uid
from purser.sync.v1 import session_pb2 as session
from purser.sync.v1 import usage_pb2 as sync
from purser.v1 import usage_pb2 as usage
from sidecar.engine.values import MAX_AMOUNT, BalanceRef, Event, GaugeChange, parse_quantity

MAX_ID_BYTES: Final = 255


class Unbookable(ValueError):
    """The record says something that can not be booked."""


@dataclass(slots=True)
class Item:
    """One record of a batch, with the uid under which it was first written."""

    uid: Uid
    record: sync.Record

    @property
    def name(self) -> str:
        """The uid as text: the event's primary key."""
        return str(self.uid)

    @property
    def usage(self) -> sync.Usage:
        return self.record.usage

    @property
    def is_usage(self) -> bool:
        return self.record.WhichOneof("body") == "usage"

    @property
    def is_return(self) -> bool:
        return self.record.WhichOneof("body") == "returned"

    @property
    def is_unreadable(self) -> bool:
        """Was it spoiled on its sidecar's disk, whether that has noticed or not? A number that holds nothing is not."""
        match self.record.WhichOneof("body"):
            case "garbled":
                return True
            case None:
                known = sync.Record(seq=self.record.seq)
                if self.record.HasField("first_written"):
                    known.first_written.CopyFrom(self.record.first_written)
                return self.record.ByteSize() != known.ByteSize()
            case _:
                return False

    @property
    def names_subject_only(self) -> bool:
        """Is it for whoever owns the subject?"""
        event = self.record.usage.event
        return bool(event.subject_id and not event.customer_id)

    @property
    def key(self) -> tuple[str, str]:
        """Customer and idempotency key: the second guard."""
        event = self.record.usage.event
        return (event.customer_id, event.idempotency_key)


def uid_of(holder: session.Holder, record: sync.Record) -> Uid:
    """As first written: the record's own, or the batch's holder and number."""
    if record.HasField("first_written"):
        first = record.first_written
        return Uid(first.outbox_id, first.incarnation_id, first.seq)
    return Uid(holder.outbox_id, holder.incarnation_id, record.seq)


def instant(stamp: Timestamp) -> datetime:
    """An aware UTC datetime, to the microsecond. Raises Unbookable where it has no year of ours."""
    try:
        return EPOCH + MICROSECOND * (stamp.seconds * 1_000_000 + stamp.nanos // 1000)
    except OverflowError as error:
        raise Unbookable(f"{stamp.seconds} seconds is no instant") from error


def ref_of(message: session.BalanceRef) -> BalanceRef:
    return BalanceRef(message.customer_id, message.subject_id, message.balance)


def engine_event(message: usage.UsageEvent) -> Event:
    """The event as the engine reads it. Raises Unbookable (NotANumber is told as such)."""
    return Event(
        event_name=message.event_name,
        occurred_at=instant(message.occurred_at),
        customer_id=message.customer_id,
        subject_id=message.subject_id,
        idempotency_key=message.idempotency_key,
        app_id=message.app_id,
        measures=_measures(message.measures),
        attributes=dict(message.attributes),
        correlation_id=message.correlation_id,
        holder_id=message.holder_id,
        gauge_change=GaugeChange(message.gauge_change),
        gauge_feature=message.gauge_feature,
    )


def check(item: Item) -> None:
    """Raises Unbookable for what would otherwise fail a whole batch."""
    event = item.usage.event
    for name, value in (("customer_id", event.customer_id), ("idempotency_key", event.idempotency_key)):
        if not value or len(value.encode()) > MAX_ID_BYTES:
            raise Unbookable(f"{name} has 1 to {MAX_ID_BYTES} bytes")
    if "\0" in str(event):  # PostgreSQL keeps no NUL in text
        raise Unbookable("text with a NUL character")
    instant(event.occurred_at)
    instant(item.usage.decided_at)
    _measures(event.measures)
    for charge in item.usage.charges:
        amounts = [charge.uncovered, *(part.amount for part in charge.covered)]
        if min(amounts) < 0 or sum(amounts) > MAX_AMOUNT:
            raise Unbookable(f"a charge to {charge.ref.balance} is negative or does not fit")
    for cost in item.usage.costs:
        if cost.amount < 0 or not 0 <= cost.billed <= cost.amount:
            raise Unbookable(f"the cost by {cost.rate_card} is negative, or less than what is billed of it")


def _measures(measures: Mapping[str, str]) -> dict[str, Decimal]:
    try:
        return {name: parse_quantity(value) for name, value in measures.items()}
    except ValueError as error:
        raise Unbookable(str(error)) from error
