"""Ask a Purser sidecar: may this customer do this now, and who pays for it?"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, of the installed distribution: looked up when it is asked for, which few do."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 -- slower than all else that is imported here

            return version("purser-entitlements")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
