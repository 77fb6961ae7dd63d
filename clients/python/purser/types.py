"""What the client answers: plain, frozen, exact. Amounts are `Decimal`, times aware UTC, spans `timedelta`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypedDict

Value = bool | Decimal | str | frozenset[str] | None | dict[str, object] | list[object] | int | float


class EventFields(TypedDict, total=False):
    """The keywords that describe an event, named as the fields of `purser.v1.UsageEvent`."""

    idempotency_key: str
    customer_id: str
    subject_id: str
    app_id: str
    event_name: str
    measures: Mapping[str, Decimal | int | str]
    attributes: Mapping[str, str]
    occurred_at: datetime
    correlation_id: str
    holder_id: str
    gauge_change: str
    gauge_feature: str


class CheckFields(EventFields, total=False):
    """What a check takes besides: a `quantity` of the feature's meter where no event is described."""

    feature: str
    quantity: Decimal | int | str
    max_staleness: timedelta
    min_revision: int
    explain: bool


class Reason(enum.StrEnum):
    """Why a decision is what it is. A sidecar newer than this client may answer others: they read as `OTHER`."""

    OTHER = "OTHER"
    OK = "OK"
    OK_OVERAGE = "OK_OVERAGE"
    OK_FALLBACK = "OK_FALLBACK"
    CUSTOMER_NOT_FOUND = "CUSTOMER_NOT_FOUND"
    SUBJECT_NOT_FOUND = "SUBJECT_NOT_FOUND"
    CUSTOMER_SUSPENDED = "CUSTOMER_SUSPENDED"
    FEATURE_NOT_FOUND = "FEATURE_NOT_FOUND"
    FEATURE_TYPE_MISMATCH = "FEATURE_TYPE_MISMATCH"
    NO_ACTIVE_SUBSCRIPTION = "NO_ACTIVE_SUBSCRIPTION"
    NOT_ENTITLED = "NOT_ENTITLED"
    REVOKED = "REVOKED"
    VALUE_NOT_ALLOWED = "VALUE_NOT_ALLOWED"
    LIMIT_REACHED = "LIMIT_REACHED"
    INSUFFICIENT_CREDITS = "INSUFFICIENT_CREDITS"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    RATE_LIMITED = "RATE_LIMITED"
    NO_PRICE = "NO_PRICE"
    PAYMENT_PAST_DUE = "PAYMENT_PAST_DUE"
    TRIAL_ENDED = "TRIAL_ENDED"
    VIEW_TOO_OLD = "VIEW_TOO_OLD"
    CONTROL_PLANE_UNREACHABLE = "CONTROL_PLANE_UNREACHABLE"

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        return cls.OTHER


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of one unit, exact."""

    unit: str
    value: Decimal

    def __str__(self) -> str:
        return f"{self.value:f} {self.unit}"


@dataclass(frozen=True, slots=True)
class BalanceState:
    """One balance as of the answer. `limit` and `remaining` are None where there is no limit; `remaining` also for a
    rate, of which no one place knows what is left.
    """

    balance: str
    kind: str
    unit: str
    limit: Decimal | None
    used: Decimal
    remaining: Decimal | None
    overage: Decimal
    reserved: Decimal
    resets_at: datetime | None
    next_expiry_at: datetime | None


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old the view behind an answer was, and where it came from: LIVE, CACHED, PERSISTED or FALLBACK."""

    revision: int
    as_of: datetime | None
    age: timedelta | None
    source: str


@dataclass(frozen=True, slots=True)
class ExplanationStep:
    """One step of how a decision came to be."""

    step: str
    about: str
    finding: str
    reason: Reason
    source: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one question; a refusal is falsy."""

    decision_id: str
    allowed: bool
    reason: Reason
    message: str
    value: Value
    balances: tuple[BalanceState, ...]
    cost: Amount | None
    shortfall: Amount | None
    retry_after: timedelta | None
    upgrade_options: tuple[str, ...]
    warnings: tuple[str, ...]
    freshness: Freshness
    explanation: tuple[ExplanationStep, ...]
    status: str = ""
    """Of a consume: `ACCEPTED`, `DUPLICATE`, or empty when it was refused or nothing was to be recorded."""

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class ReportResult:
    """How one reported event was taken; falsy when it was rejected."""

    idempotency_key: str
    status: str
    reason: str
    message: str

    def __bool__(self) -> bool:
        return self.status in ("ACCEPTED", "DUPLICATE")


@dataclass(frozen=True, slots=True)
class ReservationState:
    """A reservation as it stands; `held` is by balance."""

    reservation_id: str
    state: str
    expires_at: datetime | None
    held: Mapping[str, Amount]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a settle did: totals charged so far, what came back with it, and the part that no lease covered."""

    reservation: ReservationState
    charged: Mapping[str, Amount]
    returned: Mapping[str, Amount]
    overage: Mapping[str, Amount]
    recorded_as: str


@dataclass(frozen=True, slots=True)
class Entitlement:
    """A right to one feature, with where it came from and the balances that a use of it touches."""

    feature: str
    type: str
    value: Value
    sources: tuple[str, ...]
    balances: tuple[BalanceState, ...]


@dataclass(frozen=True, slots=True)
class Entitlements:
    """What somebody is entitled to, by feature. `reason` says why there is nothing."""

    by_feature: Mapping[str, Entitlement]
    freshness: Freshness
    reason: Reason
