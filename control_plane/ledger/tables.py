"""Balances, the grants in them, what facts burned of them, and the double-entry books, which only grow."""

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

from control_plane.db.metadata import metadata
from control_plane.db.types import Instant, Json, Scaled

balances = Table(
    "balances",
    metadata,
    Column("id", Text, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("scale", Integer, nullable=False),
    Column("overage", Scaled, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("changed_at", Instant, nullable=False),
    UniqueConstraint("customer_id", "subject_id", "name"),
    CheckConstraint("overage >= 0", name="overage"),
    Index("ix_balances_changed_at", "changed_at"),
)
"""`subject_id` is empty for a customer's own balance; `overage` is what facts used that no grant has paid
yet, over all windows."""

_TERMS = ("available", "leased", "quarantined", "spent", "presumed", "ended")

grants = Table(
    "grants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("balance_id", Text, ForeignKey("balances.id"), nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("amount", Scaled, nullable=False),
    Column("target", Scaled, nullable=False),
    *(Column(term, Scaled, nullable=False) for term in _TERMS),
    Column("cut", Scaled, nullable=False),
    Column("rolled", Scaled, nullable=False),
    Column("burned", Scaled, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("scope", Json, nullable=False),
    Column("effective_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("voided_at", Instant),
    Column("window_start", Instant),
    Column("cost_basis", Text, nullable=False),
    Column("rollover_max", Scaled, nullable=False),
    Column("rolls_until", Instant),
    Column("rolled_from", Text),
    Column("source", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("begun", Boolean, nullable=False),
    Column("expiry_booked", Boolean, nullable=False),
    Column("earlier", Text, nullable=False, server_default="[]"),
    CheckConstraint("amount = " + " + ".join(_TERMS), name="sum"),
    *(CheckConstraint(f"{term} >= 0", name=term) for term in ("amount", "target", *_TERMS)),
    CheckConstraint("cut >= 0 AND rolled >= 0 AND cut + rolled <= ended", name="ended_parts"),
    CheckConstraint("burned >= 0 AND burned <= spent", name="burned"),
    CheckConstraint("role IN ('base', 'rollover', 'beyond_limit')", name="role"),
    Index("ix_grants_balance_id", "balance_id"),
    Index("ix_grants_expires_at", "expiry_booked", "expires_at"),
    Index("ix_grants_begun", "begun", "effective_at"),
    Index("ix_grants_rolled_from", "rolled_from"),
)
"""Occurrences. `target` is the limit in force for it; `scope` the features that may spend it, sorted (empty:
all); `cost_basis` a decimal string per unit; `window_start` the period it belongs to (null: the window is all
time); `rolls_until` when its rollover ends; `rolled_from` the occurrence whose rest this is; `begun`: overage
that was open when it began was paid from it; `earlier` the limits that it had before, where they were higher:
the JSON text `[[until, limit], …]`."""

facts = Table(
    "facts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("balance_id", Text, nullable=False),
    Column("window_start", Instant),
    Column("event_uid", Text, nullable=False),
    Column("transaction_id", Text, nullable=False),
    Column("occurred_at", Instant, nullable=False),
    Column("event_key", Text, nullable=False),
    Column("feature", Text, nullable=False),
    Column("amount", Scaled, nullable=False),
    Column("covered", Scaled, nullable=False),
    Column("cause", Text, nullable=False),
    CheckConstraint("covered >= 0 AND covered <= amount AND amount > 0", name="covered"),
    Index("ix_facts_window", "balance_id", "window_start", "occurred_at", "event_key"),
    Index("ix_facts_event_uid", "event_uid"),
    Index(
        "ix_facts_open",
        "balance_id",
        sqlite_where=text("covered < amount"),
        postgresql_where=text("covered < amount"),
    ),
)
"""What was used outside of leases. `amount - covered` is its overage. `cause`: `reported`, `uncovered` (of a
decision whose policy allowed it), or `beyond_lease` (decided usage that its lease no longer held, after a
release)."""

fact_burns = Table(
    "fact_burns",
    metadata,
    Column("fact_id", Text, primary_key=True),
    Column("grant_id", Text, primary_key=True),
    Column("balance_id", Text, nullable=False),
    Column("amount", Scaled, nullable=False),
    CheckConstraint("amount > 0", name="amount"),
    Index("ix_fact_burns_balance_id", "balance_id"),
    Index("ix_fact_burns_grant_id", "grant_id"),
)
"""Which grants pay a fact at present: a cache of the replay. What led here is in the postings."""

transactions = Table(
    "transactions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("cause", Text, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("event_uid", Text),
    Column("decision_id", Text),
    Column("reference", Text),
    Column("occurred_at", Instant, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Index("ix_transactions_customer", "customer_id", "recorded_at", "id"),
    Index("ix_transactions_event_uid", "event_uid"),
    Index("ix_transactions_decision_id", "decision_id"),
)
"""`cause`: `issue usage correction expiry rollover cut raise void presume truth`; `reference` names the
grant, lease or fact behind it."""

postings = Table(
    "postings",
    metadata,
    Column("transaction_id", Text, ForeignKey("transactions.id"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("account", Text, nullable=False),
    Column("amount", Scaled, nullable=False),
    Column("unit", Text, nullable=False),
    Column("balance_id", Text),
    Column("grant_id", Text),
    Column("lease_id", Text),
    Column("feature", Text),
    Column("rate_card", Text),
    Column("catalog_revision", BigInteger),
    Index("ix_postings_grant_id", "grant_id"),
    Index("ix_postings_balance_id", "balance_id"),
)
"""Lines of a transaction; they sum to zero per unit. Accounts: `issued:SOURCE grant:ID ended:ID
presumed:BALANCE overage:BALANCE usage:FEATURE receivable:CUSTOMER revenue:FEATURE`."""

APPEND_ONLY = (transactions, postings)

POSTGRESQL_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_to_rewrite_the_books() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN RAISE EXCEPTION ''the books are append-only''; END'
"""


def append_only_ddl(table: str, dialect: str) -> tuple[str, ...]:
    """Statements that make the database refuse UPDATE and DELETE of this table; for migrations too."""
    if dialect == "postgresql":
        return (
            POSTGRESQL_FUNCTION,
            (
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_the_books()"
            ),
        )
    return tuple(
        f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'the books are append-only'); END"
        for act in ("UPDATE", "DELETE")
    )


for _table in APPEND_ONLY:
    for _dialect in ("sqlite", "postgresql"):
        for _statement in append_only_ddl(_table.name, _dialect):
            event.listen(_table, "after_create", DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]
