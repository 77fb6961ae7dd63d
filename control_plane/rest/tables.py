"""Answers to POSTs, by their Idempotency-Key."""

from sqlalchemy import Column, Index, Integer, LargeBinary, Table, Text

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant, Json

idempotent_answers = Table(
    "idempotent_answers",
    metadata,
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("status", Integer),
    Column("headers", Json),
    Column("body", LargeBinary),
    Column("created_at", Instant, nullable=False),
    Index("ix_idempotent_answers_created_at", "created_at"),
)
"""A row without an answer is a request in progress; no other transaction ever sees one."""
