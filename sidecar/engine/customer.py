"""What the engine is told of a customer: the state that the feed carries, typed."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sidecar.engine.periods import Span


class SubscriptionState(StrEnum):
    """Where a subscription stands."""

    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class PastDuePolicy:
    """Whether a past-due subscription goes on: for good, not at all, or for a span since it became past due."""

    allow: bool
    span: Span | None = None
    """Set: allowed for so long."""

    @staticmethod
    def parse(text: str) -> "PastDuePolicy":
        """Reads `allow`, `deny` or `allow_for:P7D`. Raises ValueError (NotASpan is one)."""
        if text.startswith("allow_for:"):
            return PastDuePolicy(allow=True, span=Span.parse(text.removeprefix("allow_for:")))
        if text not in {"allow", "deny"}:
            raise ValueError(f"{text[:40]!r} is none of allow, deny, allow_for:P7D")
        return PastDuePolicy(allow=text == "allow")

    def __str__(self) -> str:
        if self.span is not None:
            return f"allow_for:{self.span}"
        return "allow" if self.allow else "deny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A customer on a plan version. In force in `[starts_at, ends_at)`; periods count from `anchor_at`."""

    subscription_id: str
    plan: str
    catalog_revision: int
    """The revision whose text of the plan is in force for it."""
    state: SubscriptionState
    starts_at: datetime
    anchor_at: datetime
    ends_at: datetime | None = None
    trial_ends_at: datetime | None = None
    past_due_since: datetime | None = None
    on_past_due: PastDuePolicy | None = None
    """None: as the plan says."""
    add_ons: tuple[str, ...] = ()
    """By name, at the same catalog revision; a name that stands twice was bought twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Everything about a customer that decisions rest on."""

    customer_id: str
    exists: bool = True
    parent_id: str = ""
    suspended: bool = False
    subscriptions: tuple[Subscription, ...] = ()
