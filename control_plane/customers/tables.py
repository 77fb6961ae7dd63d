"""Customers and subjects."""

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant, Json

customers = Table(
    "customers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("parent_id", Text, ForeignKey("customers.id")),
    Column("external_ids", Json, nullable=False),
    Column("suspended_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("version", Integer, nullable=False),
    Column("limits_until", Instant),
    CheckConstraint("parent_id <> id", name="own_parent"),
    Index("ix_customers_parent_id", "parent_id"),
    Index("ix_customers_limits_until", "limits_until"),
)
"""`version` counts the changes of the row, for ETag. The row's lock is the customer's lock. `limits_until`: when
time alone changes what the customer is entitled to, so that its limits are to be looked at again; null: never."""

subjects = Table(
    "subjects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("customer_id", Text, ForeignKey("customers.id"), nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ix_subjects_customer_id", "customer_id"),
)
"""Subject ids are unique over all customers."""
