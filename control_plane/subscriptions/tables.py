"""Subscriptions, and what each was pinned to from when on."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant, Json

STATES = ("trialing", "active", "past_due", "paused", "suspended", "canceled")

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("customer_id", Text, ForeignKey("customers.id"), nullable=False),
    Column("plan", Text, nullable=False),
    Column("catalog_revision", BigInteger, ForeignKey("catalog_revisions.revision"), nullable=False),
    Column("add_ons", Json, nullable=False),
    Column("state", Text, nullable=False),
    Column("starts_at", Instant, nullable=False),
    Column("ends_at", Instant),
    Column("anchor_at", Instant, nullable=False),
    Column("trial_ends_at", Instant),
    Column("past_due_since", Instant),
    Column("on_past_due", Text, nullable=False),
    Column("external_ids", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("version", Integer, nullable=False),
    CheckConstraint(f"state IN {STATES!r}", name="state"),
    CheckConstraint("ends_at IS NULL OR ends_at >= starts_at", name="interval"),
    CheckConstraint("(state = 'past_due') = (past_due_since IS NOT NULL)", name="past_due"),
    Index("ix_subscriptions_customer_id", "customer_id"),
)
"""In force in `[starts_at, ends_at)`. `on_past_due`: empty, `allow`, `deny` or `allow_for:P7D`."""

subscription_pins = Table(
    "subscription_pins",
    metadata,
    Column("subscription_id", Text, ForeignKey("subscriptions.id"), primary_key=True),
    Column("from_at", Instant, primary_key=True),
    Column("plan", Text, nullable=False),
    Column("catalog_revision", BigInteger, ForeignKey("catalog_revisions.revision"), nullable=False),
    Column("add_ons", Json, nullable=False),
    Column("state", Text, nullable=False),
    Column("past_due_since", Instant),
)
"""What was in force from `from_at` until the next row's: what a fact of that time is priced by."""
