"""Sessions, leases with their slices, recalls, rates, gauges."""

from typing import Final, Protocol

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    and_,
)

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant, Json, Scaled

sessions = Table(
    "sessions",
    metadata,
    Column("outbox_id", Text, primary_key=True),
    Column("incarnation_id", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("cursor", BigInteger, nullable=False),
    Column("highest_seq", BigInteger, nullable=False),
    Column("label", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("declared_dead_at", Instant),
    CheckConstraint("state IN ('open', 'awaited', 'superseded', 'ended', 'set_aside')", name="state"),
)
"""`state`: `open` may acquire; `awaited` was open before a restore, and has to open again; `superseded` only settles;
`ended` is closed for good; `set_aside` lost its disk's end. `declared_dead_at`: an operator said so then, whatever the
state."""

leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("balance_id", Text, ForeignKey("balances.id"), nullable=False),
    Column("outbox_id", Text, nullable=False),
    Column("incarnation_id", Text, nullable=False),
    Column("scope", Json, nullable=False),
    Column("allotted", Scaled, nullable=False),
    Column("unsettled", Scaled, nullable=False),
    Column("spent", Scaled, nullable=False),
    Column("returned", Scaled, nullable=False),
    Column("state", Text, nullable=False),
    Column("begins_at", Instant, nullable=False),
    Column("ends_at", Instant, nullable=False),
    Column("never_after", Instant),
    Column("quarantine_at", Instant, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    CheckConstraint("allotted = unsettled + spent + returned", name="sum"),
    CheckConstraint("unsettled >= 0 AND spent >= 0 AND returned >= 0 AND allotted > 0", name="signs"),
    CheckConstraint("state IN ('open', 'quarantined', 'presumed', 'closed')", name="state"),
    Index("ix_leases_balance", "balance_id", "state"),
    Index("ix_leases_holder", "outbox_id", "incarnation_id", "state"),
    Index("ix_leases_due", "state", "quarantine_at"),
    Index("ix_leases_changed_at", "changed_at"),
)
"""`quarantine_at` is `ends_at` lengthened by drift and grace; `revision` is the one that the acquiring
transaction saw."""

lease_slices = Table(
    "lease_slices",
    metadata,
    Column("lease_id", Text, ForeignKey("leases.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("grant_id", Text, ForeignKey("grants.id"), nullable=False),
    Column("amount", Scaled, nullable=False),
    CheckConstraint("amount > 0", name="amount"),
    Index("ix_lease_slices_grant_id", "grant_id"),
)
"""In burn order by position."""

lease_requests = Table(
    "lease_requests",
    metadata,
    Column("outbox_id", Text, primary_key=True),
    Column("incarnation_id", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("reply", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ix_lease_requests_created_at", "created_at"),
)

lease_returns = Table(
    "lease_returns",
    metadata,
    Column("outbox_id", Text, primary_key=True),
    Column("incarnation_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("lease_id", Text, primary_key=True),
    Column("amount", Scaled, nullable=False),
    Column("cause", Text, nullable=False),
    Column("recorded_at", Instant, nullable=False),
)
"""What was given back, once per uid: by its holder (`return`), or because its charge had been counted already
(`duplicate`, `conflict`, `counted`). With number 0: what had been given back of a lease that was `presented` after a
restore, less what has come again since."""

recalls = Table(
    "recalls",
    metadata,
    Column("id", Text, primary_key=True),
    Column("balance_id", Text, ForeignKey("balances.id"), nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("idle_only", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ix_recalls_created_at", "created_at"),
    Index("ix_recalls_balance", "balance_id", "created_at"),
)
"""Fanned out by the feed to every sidecar that holds leases of the balance."""

recall_answers = Table(
    "recall_answers",
    metadata,
    Column("recall_id", Text, primary_key=True),
    Column("outbox_id", Text, primary_key=True),
    Column("incarnation_id", Text, primary_key=True),
    Column("last_seq", BigInteger, nullable=False),
    Column("lease_ids", Json, nullable=False),
    Column("answered_at", Instant, nullable=False),
)
"""A holder has obeyed: once its cursor has reached `last_seq`, nothing idle is left of these leases."""

rate_buckets = Table(
    "rate_buckets",
    metadata,
    Column("balance_id", Text, ForeignKey("balances.id"), primary_key=True),
    Column("micro_tokens", BigInteger, nullable=False),
    Column("refilled_at", Instant, nullable=False),
    Column("burst", Scaled, nullable=False),
    Column("micro_per_second", BigInteger, nullable=False),
)
"""The control plane's own bucket of a rate: `micro_tokens` (amount x 1,000,000) were in it at
`refilled_at`."""

rate_shares = Table(
    "rate_shares",
    metadata,
    Column("id", Text, primary_key=True),
    Column("balance_id", Text, ForeignKey("balances.id"), nullable=False),
    Column("outbox_id", Text, nullable=False),
    Column("incarnation_id", Text, nullable=False),
    Column("micro_per_second", BigInteger, nullable=False),
    Column("burst", Scaled, nullable=False),
    Column("free_at", Instant, nullable=False),
    Index("ix_rate_shares_balance_id", "balance_id"),
)
"""What holders may refill by themselves until `free_at`, their end lengthened by drift and grace."""

gauge_holders = Table(
    "gauge_holders",
    metadata,
    Column("balance_id", Text, ForeignKey("balances.id"), primary_key=True),
    Column("holder_id", Text, primary_key=True),
    Column("quantity", Scaled, nullable=False),
    Column("presumed", Scaled, nullable=False),
    CheckConstraint("quantity >= 0", name="quantity"),
)
"""What each holder holds: what its changes come to. `presumed`: so much of it only because of what is presumed."""

gauge_changes = Table(
    "gauge_changes",
    metadata,
    Column("balance_id", Text, ForeignKey("balances.id"), primary_key=True),
    Column("holder_id", Text, primary_key=True),
    Column("event_key", Text, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("quantity", Scaled, nullable=False),
    Column("adds", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("due_at", Instant),
    CheckConstraint("quantity >= 0", name="quantity"),
    CheckConstraint("state IN ('verdict', 'presumed', 'lapsed', 'booked')", name="state"),
    Index("ix_gauge_changes_state", "state", "due_at"),
)
"""Changes of holders, those that can not matter any more left out. `verdict`: allowed at `at`, counts until its event
is `booked` or it is let go; after silence until `due_at` the policy makes it `presumed` (counts on) or `lapsed` (counts
no more; since its `due_at`)."""

gauge_asks = Table(
    "gauge_asks",
    metadata,
    Column("balance_id", Text, ForeignKey("balances.id"), primary_key=True),
    Column("holder_id", Text, primary_key=True),
    Column("event_key", Text, primary_key=True),
    Column("outbox_id", Text, primary_key=True),
    Column("incarnation_id", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Index("ix_gauge_asks_asker", "outbox_id", "incarnation_id"),
)
"""Requests that were told of a verdict and have not let it go."""

peaks = Table(
    "peaks",
    metadata,
    Column("balance_id", Text, ForeignKey("balances.id"), primary_key=True),
    Column("window", Text, primary_key=True),
    Column("highest", Scaled, nullable=False),
    Column("latest", Scaled, nullable=False),
    Column("latest_at", Instant, nullable=False),
    Column("latest_key", Text, nullable=False),
)
"""What meters that aggregate by `max` or `latest` have seen, per window (its start as ISO 8601; empty: all
time)."""


class Incarnation(Protocol):
    """What names an incarnation: a holder of the protocol, or a row."""

    @property
    def outbox_id(self) -> str: ...

    @property
    def incarnation_id(self) -> str: ...


def of_holder(table: Table, holder: Incarnation) -> ColumnElement[bool]:
    """Rows of this incarnation, of any table that has its two columns."""
    return and_(table.c.outbox_id == holder.outbox_id, table.c.incarnation_id == holder.incarnation_id)


HolderKey = tuple[str, str]
"""Outbox and incarnation."""


def holder_key(holder: Incarnation) -> HolderKey:
    """Names it in a mapping, and in the order in which sessions are locked."""
    return (holder.outbox_id, holder.incarnation_id)


ASK_KEY: Final = (gauge_asks.c.balance_id, gauge_asks.c.holder_id, gauge_asks.c.event_key)
"""Names the verdict that was asked for."""
