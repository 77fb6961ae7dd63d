"""The order of all changes, and the feed that tells of them."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Table, Text

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant

revisions = Table(
    "revisions",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("restored_at", Instant),
    Column("resumed_at", Instant),
    CheckConstraint("id = 1", name="single"),
)
"""One row. Whoever takes the next revision holds it locked until its commit. `restored_at`: when an operator last said
that it was put back to an earlier point; `resumed_at`: when the first sidecar opened a session after that."""

installation = Table(
    "installation",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("installation_id", Text, nullable=False),
    CheckConstraint("id = 1", name="single"),
)
"""One row, made with the tables and never changed: a backup that is restored is the same installation."""

feed = Table(
    "feed",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("at", Instant, nullable=False),
    Index("ix_feed_at", "at"),
)
"""What each revision changed: `catalog` (its number), `customer` (its id), `subject` (its id)."""
