"""Ask a Purser sidecar: may this customer do this now, and who pays for it?"""

from purser.client import Client, Reservation
from purser.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidRequest,
    KeyConflict,
    Overloaded,
    PurserError,
    ReservationClosed,
    Unavailable,
)
from purser.messages import new_id
from purser.types import (
    Amount,
    BalanceState,
    Decision,
    Entitlement,
    Entitlements,
    Freshness,
    Reason,
    ReportResult,
    ReservationState,
    Settlement,
)

__all__ = [
    "AccessDenied",
    "Amount",
    "BalanceState",
    "Client",
    "DeadlineExceeded",
    "Decision",
    "Entitlement",
    "Entitlements",
    "Freshness",
    "InvalidRequest",
    "KeyConflict",
    "Overloaded",
    "PurserError",
    "Reason",
    "ReportResult",
    "Reservation",
    "ReservationClosed",
    "ReservationState",
    "Settlement",
    "Unavailable",
    "new_id",
]
