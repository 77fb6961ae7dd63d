"""One reservation as it stands, and how it is written into the outbox."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from purser.v1 import usage_pb2 as usage
from sidecar.deciding.asked import make_event
from sidecar.engine.evaluate import Draw
from sidecar.engine.reservation import Reservation, ReservationState
from sidecar.engine.values import BalanceRef, format_decimal
from sidecar.runtime.clock import from_microseconds, microseconds


class Hold(NamedTuple):
    """A part of a lease that the reservation holds; `beyond` of `amount` lies beyond the limit."""

    ref: BalanceRef
    feature: str
    lease_id: str
    amount: int
    beyond: int


class Line(NamedTuple):
    """An amount of one balance, at `scale`."""

    balance: str
    unit: str
    scale: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Everything about one reservation that must survive a restart."""

    reservation_id: str
    version: int
    state: ReservationState
    customer_id: str
    subject_id: str
    feature: str
    event: bytes
    """The encoded UsageEvent: the estimate, with the ids and attributes that settles have replaced."""
    content_hash: bytes
    decision: bytes
    """The first answer, encoded. Empty: it never was reserved here."""
    decision_id: str
    view_revision: int
    reserved_at: datetime
    expires_at: datetime
    holds: tuple[Hold, ...] = ()
    units: tuple[Line, ...] = ()
    """Unit and scale of every balance that it holds or charges; amounts are not read."""
    was_settled: bool = False
    """Something happened: its end makes an event, also where no measure was given."""
    totals: Mapping[str, Decimal] = field(default_factory=dict)
    """The highest measures that were settled."""
    charged: tuple[Line, ...] = ()
    returned: tuple[Line, ...] = ()
    overage: tuple[Line, ...] = ()
    recorded_as: str = ""
    """The key of what was recorded in place of its event, or beyond it."""
    late: int = 0
    """How many facts were recorded beside its event."""
    is_fact: bool = False
    """Nobody here knew the customer's balances: its event is a fact."""

    @property
    def is_open(self) -> bool:
        """Does it hold?"""
        return self.state is ReservationState.OPEN

    @property
    def message(self) -> usage.UsageEvent:
        """The estimate, with what settles have replaced."""
        return usage.UsageEvent.FromString(self.event)

    def machine(self) -> Reservation:
        """The engine's view of it."""
        estimate = make_event(
            self.message,
            customer_id=self.customer_id,
            subject_id=self.subject_id,
            occurred_at=self.reserved_at,
            key=self.reservation_id,
        )
        return Reservation(
            reservation_id=self.reservation_id,
            estimate=estimate,
            feature=self.feature,
            expires_at=self.expires_at,
            state=self.state,
            was_settled=self.was_settled,
            settled=self.totals,
            late=self.late,
        )

    @property
    def is_unknown(self) -> bool:
        """True: it was settled without having been reserved here."""
        return not self.decision


class Allotted(NamedTuple):
    """How draws are paid from holds: per draw the parts of leases, and what of each hold is left over."""

    paid: tuple[Hold, ...]
    left: tuple[Hold, ...]
    missing: tuple[Draw, ...]
    """Draws, or their rest, that the holds do not cover."""


def allot(holds: Sequence[Hold], draws: Sequence[Draw]) -> Allotted:
    """Pays draws from holds of the same balance and feature, then of the same balance."""
    left = list(holds)
    paid: list[Hold] = []
    missing: list[Draw] = []
    for draw in draws:
        need = draw.within + draw.beyond
        for same_feature in (True, False):
            for place, hold in enumerate(left):
                if not need or hold.ref != draw.ref or (hold.feature == draw.feature) is not same_feature:
                    continue
                part = min(need, hold.amount)
                beyond = max(0, part - (hold.amount - hold.beyond))
                if part:
                    paid.append(Hold(hold.ref, draw.feature, hold.lease_id, part, beyond))
                left[place] = hold._replace(amount=hold.amount - part, beyond=hold.beyond - beyond)
                need -= part
        if need:
            covered = draw.within + draw.beyond - need
            within = max(0, draw.within - covered)
            missing.append(replace(draw, within=within, beyond=need - within, uncovered=0))
    return Allotted(tuple(paid), tuple(hold for hold in left if hold.amount), tuple(missing))


def encode(reserved: Reserved) -> bytes:
    """As JSON: a file is read again by later versions, and by people."""
    return json.dumps(
        {
            "id": reserved.reservation_id,
            "state": reserved.state.name,
            "customer_id": reserved.customer_id,
            "subject_id": reserved.subject_id,
            "feature": reserved.feature,
            "event": _text(reserved.event),
            "content_hash": _text(reserved.content_hash),
            "decision": _text(reserved.decision),
            "decision_id": reserved.decision_id,
            "view_revision": reserved.view_revision,
            "reserved_at": microseconds(reserved.reserved_at),
            "expires_at": microseconds(reserved.expires_at),
            "holds": [[*hold.ref, *hold[1:]] for hold in reserved.holds],
            "units": reserved.units,
            "was_settled": reserved.was_settled,
            "totals": {name: format_decimal(value) for name, value in reserved.totals.items()},
            "charged": reserved.charged,
            "returned": reserved.returned,
            "overage": reserved.overage,
            "recorded_as": reserved.recorded_as,
            "late": reserved.late,
            "is_fact": reserved.is_fact,
        },
        separators=(",", ":"),
    ).encode()


def decode(state: bytes, version: int) -> Reserved:
    """The inverse of `encode`."""
    data: dict[str, Any] = json.loads(state)
    return Reserved(
        reservation_id=data["id"],
        version=version,
        state=ReservationState[data["state"]],
        customer_id=data["customer_id"],
        subject_id=data["subject_id"],
        feature=data["feature"],
        event=_bytes(data["event"]),
        content_hash=_bytes(data["content_hash"]),
        decision=_bytes(data["decision"]),
        decision_id=data["decision_id"],
        view_revision=data["view_revision"],
        reserved_at=from_microseconds(data["reserved_at"]),
        expires_at=from_microseconds(data["expires_at"]),
        holds=tuple(Hold(BalanceRef(*hold[:3]), *hold[3:]) for hold in data["holds"]),
        units=_lines(data["units"]),
        was_settled=data["was_settled"],
        totals={name: Decimal(value) for name, value in data["totals"].items()},
        charged=_lines(data["charged"]),
        returned=_lines(data["returned"]),
        overage=_lines(data["overage"]),
        recorded_as=data["recorded_as"],
        late=data["late"],
        is_fact=data["is_fact"],
    )


def _lines(data: Sequence[Sequence[Any]]) -> tuple[Line, ...]:
    return tuple(Line(*line) for line in data)


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(value: str) -> bytes:
    return base64.b64decode(value)
