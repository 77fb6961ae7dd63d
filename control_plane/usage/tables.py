"""Events as they came, their keys, what they charged and cost; dead letters; refusals."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text, text

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant, Json, Scaled

events = Table(
    "events",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("recorded_at", Instant, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("app_id", Text, nullable=False),
    Column("event_name", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("measures", Json, nullable=False),
    Column("attributes", Json, nullable=False),
    Column("occurred_at", Instant, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("holder_id", Text, nullable=False),
    Column("gauge_change", Text, nullable=False),
    Column("gauge_feature", Text, nullable=False),
    Column("decided", Boolean, nullable=False),
    Column("decision_id", Text, nullable=False),
    Column("decided_at", Instant, nullable=False),
    Column("view_revision", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("transaction_id", Text),
    Index("ix_events_customer", "customer_id", "recorded_at", "uid"),
    Index("ix_events_occurred", "customer_id", "occurred_at"),
    Index("ix_events_decision_id", "decision_id"),
    Index("ix_events_recorded_at", "recorded_at"),
    Index(
        "ix_events_unrated",
        "recorded_at",
        "uid",
        sqlite_where=text("status = 'unrated'"),
        postgresql_where=text("status = 'unrated'"),
    ),
)
"""`uid` is `outbox/incarnation/seq` as first written; measures are decimal strings. `status`: an
`EventStatus`. The key holds `recorded_at` so that PostgreSQL can partition by it; that uids are
unique is what `event_keys` and the cursors see to."""


event_keys = Table(
    "event_keys",
    metadata,
    Column("customer_id", Text, primary_key=True),
    Column("idempotency_key", Text, primary_key=True),
    Column("event_uid", Text, nullable=False),
    Column("content_hash", LargeBinary, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Index("ix_event_keys_recorded_at", "recorded_at"),
)
"""Who won a key; in a table of its own because a key that spans partitions is not unique."""

event_charges = Table(
    "event_charges",
    metadata,
    Column("event_uid", Text, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("balance_id", Text, nullable=False),
    Column("feature", Text, nullable=False),
    Column("covered", Scaled, nullable=False),
    Column("uncovered", Scaled, nullable=False),
    Column("exact", Text, nullable=False),
)
"""What an event charged to each balance: `covered` by leases, `uncovered` booked as a fact; `exact` is the
quantity before rounding."""

event_costs = Table(
    "event_costs",
    metadata,
    Column("event_uid", Text, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("feature", Text, nullable=False),
    Column("rate_card", Text, nullable=False),
    Column("catalog_revision", BigInteger, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", Scaled, nullable=False),
    Column("exact", Text, nullable=False),
    Column("billed", Scaled, nullable=False),
    Column("billed_exact", Text, nullable=False),
)
"""What each rate card makes of an event, at its unit's scale, and the part that is billed in arrears."""

counted_values = Table(
    "counted_values",
    metadata,
    Column("balance_id", Text, primary_key=True),
    Column("window", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("event_uid", Text, nullable=False),
)
"""Values that a `unique` meter has counted in a window (its start as ISO 8601; empty: all time)."""

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("replayed_at", Instant),
    Index("ix_dead_letters_state", "state", "recorded_at"),
)
"""`reason`: `UNKNOWN_CUSTOMER KEY_CONFLICT UNBOOKABLE`; `record` is the `Record` as it came; `state`: `open`
or `replayed`."""

refusals = Table(
    "refusals",
    metadata,
    Column("customer_id", Text, primary_key=True),
    Column("feature", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("minute", Instant, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

refusal_samples = Table(
    "refusal_samples",
    metadata,
    Column("decision_id", Text, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("feature", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("decision", LargeBinary, nullable=False),
    Index("ix_refusal_samples_customer", "customer_id", "at"),
)
"""The last 100 per customer: a `purser.v1.Decision` each."""
