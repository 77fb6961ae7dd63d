"""Small things of reservations: what callers are told, and how holds, leases and messages become one another."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.asked import content_hash
from sidecar.deciding.entitlements import Held
from sidecar.deciding.errors import Malformed, Violation
from sidecar.deciding.records import filled
from sidecar.deciding.report import key_scope
from sidecar.deciding.reserved import Hold, Line, Reserved, encode
from sidecar.deciding.settling import Settlement, held_lines, lines
from sidecar.engine.decision import Amount
from sidecar.engine.reservation import ReservationState
from sidecar.engine.values import format_decimal
from sidecar.leases.terms import Taken
from sidecar.outbox.port import KeyEntry, LeaseChange, Reservation

_UNKNOWN: Final = (
    "is required, because the reservation is not known here: correct its id (one that was refused holds nothing), "
    "or say customer and event to record its usage all the same"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A reservation as callers see it."""

    reservation_id: str
    state: ReservationState
    expires_at: datetime | None
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class ReserveAnswer:
    """`decision`: encoded. `standing`: set when it was allowed."""

    decision: bytes
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class SettleAnswer:
    """Fields as in `purser.v1.SettleReservationResponse`."""

    standing: Standing
    charged: tuple[Held, ...]
    returned: tuple[Held, ...]
    overage: tuple[Held, ...]
    recorded_as: str


@dataclass(frozen=True, slots=True)
class ExtendAnswer:
    """`decision` None: no estimate was given."""

    decision: bytes | None
    standing: Standing


def stored(reserved: Reserved) -> Reservation:
    return Reservation(reserved.reservation_id, reserved.version, reserved.is_open, encode(reserved))


def holds_of(taken: tuple[Taken, ...]) -> tuple[Hold, ...]:
    return tuple(Hold(t.ref, t.feature, t.lease_id, t.amount, t.beyond) for t in taken if not t.is_rate)


def as_taken(paid: tuple[Hold, ...]) -> tuple[Taken, ...]:
    return tuple(Taken(h.ref, h.feature, h.lease_id, h.amount, h.beyond, is_rate=False) for h in paid)


def lease_changes_at_end(
    before: tuple[Hold, ...], paid: tuple[Hold, ...], taken: tuple[Taken, ...]
) -> tuple[LeaseChange, ...]:
    """Everything that was held is not any more; what was paid, and taken beyond, is charged."""
    held: dict[str, int] = {}
    charged: dict[str, int] = {}
    for hold in before:
        held[hold.lease_id] = held.get(hold.lease_id, 0) - hold.amount
    for lease_id, amount in [
        *((hold.lease_id, hold.amount) for hold in paid),
        *((part.lease_id, part.amount) for part in taken if not part.is_rate),
    ]:
        charged[lease_id] = charged.get(lease_id, 0) + amount
    return tuple(
        LeaseChange(lease_id, charged=charged.get(lease_id, 0), held=held.get(lease_id, 0))
        for lease_id in dict.fromkeys([*held, *charged])
    )


def units_of(reserved: Reserved, settlement: Settlement) -> tuple[Line, ...]:
    return merged_units(reserved.units, lines((draw.spec, 1) for draw in settlement.outcome.draws))


def merged_units(known: tuple[Line, ...], more: tuple[Line, ...]) -> tuple[Line, ...]:
    return tuple({line.balance: line for line in (*known, *more)}.values())


def with_replaced(reserved: Reserved, event: usage.UsageEvent | None) -> usage.UsageEvent:
    """The estimate with the attributes and ids that a later call gives. Whose it is and what it is can not change:
    raises Malformed.
    """
    message = reserved.message
    if event is None:
        return message
    wrong = [
        Violation(f"event.{name}", f"the reservation is of {of!r}")
        for name, of in (("customer_id", reserved.customer_id), ("event_name", message.event_name))
        if getattr(event, name) not in {"", of}
    ]
    if wrong:
        raise Malformed(wrong)
    for name, value in event.attributes.items():
        message.attributes[name] = value
    for name in ("app_id", "correlation_id"):
        if getattr(event, name):
            setattr(message, name, getattr(event, name))
    return message


def recorded(
    reserved: Reserved, *, key: str, measures: Mapping[str, Decimal]
) -> tuple[usage.UsageEvent, KeyEntry]:
    """An event of a reservation as it is recorded, and its key.

    What it is known by again is what the caller has said in all, without the instant, which each sidecar gives: the
    same through another one is the same event, and other totals are not.
    """
    said = reserved.message
    said.idempotency_key = key
    said.ClearField("occurred_at")
    said.ClearField("measures")
    for name, value in measures.items():
        said.measures[name] = format_decimal(value)
    scope = key_scope(reserved.customer_id, reserved.subject_id)
    entry = KeyEntry(scope, key, content_hash(said), reserved.decision)
    event = filled(
        said,
        customer_id=reserved.customer_id,
        subject_id=reserved.subject_id,
        occurred_at=reserved.reserved_at,
    )
    return event, entry


def require_complete(event: usage.UsageEvent | None) -> None:
    wrong: list[Violation] = []
    if event is None or not (event.customer_id or event.subject_id):
        wrong.append(Violation("event.customer_id", _UNKNOWN))
    if event is None or not event.event_name:
        wrong.append(Violation("event.event_name", _UNKNOWN))
    if wrong:
        raise Malformed(wrong)


def standing_of(reserved: Reserved) -> Standing:
    held = shown_lines(held_lines(reserved.holds, reserved.units))
    if reserved.is_unknown:
        return Standing(reserved.reservation_id, ReservationState.UNSPECIFIED, None, held)
    return Standing(reserved.reservation_id, reserved.state, reserved.expires_at, held)


def shown_lines(of: tuple[Line, ...]) -> tuple[Held, ...]:
    return tuple(Held(line.balance, Amount(line.unit, line.amount, line.scale)) for line in of)


def settle_answer(reserved: Reserved) -> SettleAnswer:
    return SettleAnswer(
        standing=standing_of(reserved),
        charged=shown_lines(reserved.charged),
        returned=shown_lines(reserved.returned),
        overage=shown_lines(reserved.overage),
        recorded_as=reserved.recorded_as,
    )
