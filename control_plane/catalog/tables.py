"""Published catalogs, and which of them changed what a plan means."""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, Table, Text, UniqueConstraint

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant, Json

catalog_revisions = Table(
    "catalog_revisions",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("document", Json, nullable=False),
    Column("source", Text, nullable=False),
    Column("published_at", Instant, nullable=False),
)
"""`document`: the canonical form; `source`: the text as it was published. Rows are never changed."""

plan_versions = Table(
    "plan_versions",
    metadata,
    Column("plan", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("catalog_revision", BigInteger, ForeignKey("catalog_revisions.revision"), nullable=False),
    Column("meaning", Text, nullable=False),
    UniqueConstraint("plan", "catalog_revision"),
)
"""A plan's versions count from 1; `meaning` is a digest of all that the plan means, from `catalog_revision` on."""

scales = Table(
    "scales",
    metadata,
    Column("name", Text, primary_key=True),
    Column("scale", Integer, nullable=False),
)
"""Digits after the point of every unit, meter and allowance that was ever published. Rows are never changed."""
