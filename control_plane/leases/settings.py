"""How leases are sized, timed and let go: declared once."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class QuarantinePolicy(StrEnum):
    """What becomes of a lease whose holder stays silent until the timeout."""

    PRESUME = "presume"
    """What is unsettled is booked as presumed spending, and corrected when the truth arrives."""
    RELEASE = "release"
    """What is unsettled is given back: the documented road to an overage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """`drift` and `grace` are the control plane's side: the holder shortens by drift, and so stops first."""

    ttl: timedelta = timedelta(seconds=60)
    rate_ttl: timedelta = timedelta(seconds=20)
    drift_percent: int = 1
    grace: timedelta = timedelta(seconds=5)
    quarantine_timeout: timedelta = timedelta(hours=24)
    quarantine_policy: QuarantinePolicy = QuarantinePolicy.PRESUME
    max_staleness: timedelta = timedelta(hours=1)
    """The longest of any feature's: quarantine lasts at least that, with drift."""
    recall_wait: timedelta = timedelta(milliseconds=500)
    """For a word from each holder, to a recall."""
    answering_wait: timedelta = timedelta(seconds=1)
    """For holders who answer, and have more to give back."""
    retry_after: timedelta = timedelta(seconds=1)
    """Told to whom others hold what it needs."""
    reply_kept: timedelta = timedelta(hours=1)

    def lengthened(self, since: datetime, until: datetime) -> datetime:
        """The end of a span as the control plane counts it: with drift and grace, when every holder has
        stopped.
        """
        return until + (until - since) * self.drift_percent / 100 + self.grace

    @property
    def quarantine_lasts(self) -> timedelta:
        """The timeout, never shorter than what a holder may need that was cut off."""
        return max(
            self.quarantine_timeout, self.max_staleness * (100 + self.drift_percent) / 100 + self.grace
        )


DEFAULTS: Final = LeaseSettings()
