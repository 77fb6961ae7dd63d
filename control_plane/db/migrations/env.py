"""Alembic's entry: runs inside the transaction that `control_plane.db.migrate` has opened."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import TypeDecorator

from control_plane.db.metadata import all_tables


def plain_type(kind: str, thing: Any, _context: Any) -> str | Literal[False]:
    """Migrations name what a column is in the database, so that they stay as they are when our types change."""
    if kind == "type" and isinstance(thing, TypeDecorator):
        return f"sa.{thing.impl_instance!r}"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=all_tables(),
    transaction_per_migration=False,
    compare_type=True,
    render_item=plain_type,
)
context.run_migrations()
