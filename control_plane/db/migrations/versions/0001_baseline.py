"""Every table of the first release; books that refuse to be rewritten; revision 0.

Revision: 0001
"""

import secrets

import sqlalchemy as sa
from alembic import op

from control_plane.ledger.tables import append_only_ddl

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("transactions", "postings")


def upgrade() -> None:
    op.create_table(
        "balances",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("scale", sa.Integer(), nullable=False),
        sa.Column("overage", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("overage >= 0", name=op.f("ck_balances_overage")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_balances")),
        sa.UniqueConstraint(
            "customer_id", "subject_id", "name", name=op.f("uq_balances_customer_id_subject_id_name")
        ),
    )
    op.create_index("ix_balances_changed_at", "balances", ["changed_at"], unique=False)
    op.create_table(
        "catalog_revisions",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_catalog_revisions")),
    )
    op.create_table(
        "counted_values",
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("event_uid", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("balance_id", "window", "value", name=op.f("pk_counted_values")),
    )
    op.create_table(
        "customers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("external_ids", sa.Text(), nullable=False),
        sa.Column("suspended_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint("parent_id <> id", name=op.f("ck_customers_own_parent")),
        sa.ForeignKeyConstraint(["parent_id"], ["customers.id"], name=op.f("fk_customers_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_customers")),
    )
    op.create_index("ix_customers_parent_id", "customers", ["parent_id"], unique=False)
    op.create_table(
        "dead_letters",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("replayed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_dead_letters")),
    )
    op.create_index("ix_dead_letters_state", "dead_letters", ["state", "recorded_at"], unique=False)
    op.create_table(
        "event_charges",
        sa.Column("event_uid", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("covered", sa.BigInteger(), nullable=False),
        sa.Column("uncovered", sa.BigInteger(), nullable=False),
        sa.Column("exact", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_uid", "line", name=op.f("pk_event_charges")),
    )
    op.create_table(
        "event_costs",
        sa.Column("event_uid", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("rate_card", sa.Text(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("exact", sa.Text(), nullable=False),
        sa.Column("billed", sa.BigInteger(), nullable=False),
        sa.Column("billed_exact", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("event_uid", "line", name=op.f("pk_event_costs")),
    )
    op.create_table(
        "event_keys",
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("event_uid", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", "idempotency_key", name=op.f("pk_event_keys")),
    )
    op.create_index("ix_event_keys_recorded_at", "event_keys", ["recorded_at"], unique=False)
    op.create_table(
        "events",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("event_name", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("measures", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("correlation_id", sa.Text(), nullable=False),
        sa.Column("holder_id", sa.Text(), nullable=False),
        sa.Column("gauge_change", sa.Text(), nullable=False),
        sa.Column("gauge_feature", sa.Text(), nullable=False),
        sa.Column("decided", sa.Boolean(), nullable=False),
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
        sa.Column("view_revision", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("transaction_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("uid", "recorded_at", name=op.f("pk_events")),
    )
    op.create_index("ix_events_customer", "events", ["customer_id", "recorded_at", "uid"], unique=False)
    op.create_index("ix_events_decision_id", "events", ["decision_id"], unique=False)
    op.create_index("ix_events_occurred", "events", ["customer_id", "occurred_at"], unique=False)
    op.create_index("ix_events_recorded_at", "events", ["recorded_at"], unique=False)
    op.create_index(
        "ix_events_unrated",
        "events",
        ["recorded_at", "uid"],
        unique=False,
        sqlite_where=sa.text("status = 'unrated'"),
        postgresql_where=sa.text("status = 'unrated'"),
    )
    op.create_table(
        "fact_burns",
        sa.Column("fact_id", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_fact_burns_amount")),
        sa.PrimaryKeyConstraint("fact_id", "grant_id", name=op.f("pk_fact_burns")),
    )
    op.create_index("ix_fact_burns_balance_id", "fact_burns", ["balance_id"], unique=False)
    op.create_index("ix_fact_burns_grant_id", "fact_burns", ["grant_id"], unique=False)
    op.create_table(
        "facts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("window_start", sa.BigInteger(), nullable=True),
        sa.Column("event_uid", sa.Text(), nullable=False),
        sa.Column("transaction_id", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("covered", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "covered >= 0 AND covered <= amount AND amount > 0", name=op.f("ck_facts_covered")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_facts")),
    )
    op.create_index("ix_facts_event_uid", "facts", ["event_uid"], unique=False)
    op.create_index(
        "ix_facts_open",
        "facts",
        ["balance_id"],
        unique=False,
        sqlite_where=sa.text("covered < amount"),
        postgresql_where=sa.text("covered < amount"),
    )
    op.create_index(
        "ix_facts_window", "facts", ["balance_id", "window_start", "occurred_at", "event_key"], unique=False
    )
    op.create_table(
        "feed",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("revision", "kind", "key", name=op.f("pk_feed")),
    )
    op.create_index("ix_feed_at", "feed", ["at"], unique=False)
    op.create_table(
        "idempotent_answers",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotent_answers")),
    )
    op.create_index("ix_idempotent_answers_created_at", "idempotent_answers", ["created_at"], unique=False)
    op.create_table(
        "lease_requests",
        sa.Column("outbox_id", sa.Text(), nullable=False),
        sa.Column("incarnation_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("outbox_id", "incarnation_id", "request_id", name=op.f("pk_lease_requests")),
    )
    op.create_index("ix_lease_requests_created_at", "lease_requests", ["created_at"], unique=False)
    op.create_table(
        "lease_returns",
        sa.Column("outbox_id", sa.Text(), nullable=False),
        sa.Column("incarnation_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "outbox_id", "incarnation_id", "seq", "lease_id", name=op.f("pk_lease_returns")
        ),
    )
    op.create_table(
        "recall_answers",
        sa.Column("recall_id", sa.Text(), nullable=False),
        sa.Column("outbox_id", sa.Text(), nullable=False),
        sa.Column("incarnation_id", sa.Text(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("lease_ids", sa.Text(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("recall_id", "outbox_id", "incarnation_id", name=op.f("pk_recall_answers")),
    )
    op.create_table(
        "refusal_samples",
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("decision", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_refusal_samples")),
    )
    op.create_index("ix_refusal_samples_customer", "refusal_samples", ["customer_id", "at"], unique=False)
    op.create_table(
        "refusals",
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", "feature", "reason", "minute", name=op.f("pk_refusals")),
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_installation_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "revisions",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("restored_at", sa.BigInteger(), nullable=True),
        sa.Column("resumed_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_revisions_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revisions")),
    )
    op.create_table(
        "scales",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scale", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_scales")),
    )
    op.create_table(
        "sessions",
        sa.Column("outbox_id", sa.Text(), nullable=False),
        sa.Column("incarnation_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("highest_seq", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("declared_dead_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'awaited', 'superseded', 'ended', 'set_aside')", name=op.f("ck_sessions_state")
        ),
        sa.PrimaryKeyConstraint("outbox_id", "incarnation_id", name=op.f("pk_sessions")),
    )
    op.create_table(
        "transactions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("event_uid", sa.Text(), nullable=True),
        sa.Column("decision_id", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transactions")),
    )
    op.create_index(
        "ix_transactions_customer", "transactions", ["customer_id", "recorded_at", "id"], unique=False
    )
    op.create_index("ix_transactions_decision_id", "transactions", ["decision_id"], unique=False)
    op.create_index("ix_transactions_event_uid", "transactions", ["event_uid"], unique=False)
    op.create_table(
        "gauge_holders",
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("holder_id", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("presumed", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity >= 0", name=op.f("ck_gauge_holders_quantity")),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_gauge_holders_balance_id")),
        sa.PrimaryKeyConstraint("balance_id", "holder_id", name=op.f("pk_gauge_holders")),
    )
    op.create_table(
        "gauge_changes",
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("holder_id", sa.Text(), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("adds", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("quantity >= 0", name=op.f("ck_gauge_changes_quantity")),
        sa.CheckConstraint(
            "state IN ('verdict', 'presumed', 'lapsed', 'booked')", name=op.f("ck_gauge_changes_state")
        ),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_gauge_changes_balance_id")),
        sa.PrimaryKeyConstraint("balance_id", "holder_id", "event_key", name=op.f("pk_gauge_changes")),
    )
    op.create_index("ix_gauge_changes_state", "gauge_changes", ["state", "due_at"], unique=False)
    op.create_table(
        "gauge_asks",
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("holder_id", sa.Text(), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("outbox_id", sa.Text(), nullable=False),
        sa.Column("incarnation_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_gauge_asks_balance_id")),
        sa.PrimaryKeyConstraint(
            "balance_id",
            "holder_id",
            "event_key",
            "outbox_id",
            "incarnation_id",
            "request_id",
            name=op.f("pk_gauge_asks"),
        ),
    )
    op.create_index("ix_gauge_asks_asker", "gauge_asks", ["outbox_id", "incarnation_id"], unique=False)
    op.create_table(
        "grants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.BigInteger(), nullable=False),
        sa.Column("available", sa.BigInteger(), nullable=False),
        sa.Column("leased", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("presumed", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.BigInteger(), nullable=False),
        sa.Column("cut", sa.BigInteger(), nullable=False),
        sa.Column("rolled", sa.BigInteger(), nullable=False),
        sa.Column("burned", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("voided_at", sa.BigInteger(), nullable=True),
        sa.Column("window_start", sa.BigInteger(), nullable=True),
        sa.Column("cost_basis", sa.Text(), nullable=False),
        sa.Column("rollover_max", sa.BigInteger(), nullable=False),
        sa.Column("rolls_until", sa.BigInteger(), nullable=True),
        sa.Column("rolled_from", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("begun", sa.Boolean(), nullable=False),
        sa.Column("expiry_booked", sa.Boolean(), nullable=False),
        sa.CheckConstraint("role IN ('base', 'rollover', 'beyond_limit')", name=op.f("ck_grants_role")),
        sa.CheckConstraint(
            "amount = available + leased + quarantined + spent + presumed + ended", name=op.f("ck_grants_sum")
        ),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_grants_amount")),
        sa.CheckConstraint("available >= 0", name=op.f("ck_grants_available")),
        sa.CheckConstraint("burned >= 0 AND burned <= spent", name=op.f("ck_grants_burned")),
        sa.CheckConstraint(
            "cut >= 0 AND rolled >= 0 AND cut + rolled <= ended", name=op.f("ck_grants_ended_parts")
        ),
        sa.CheckConstraint("ended >= 0", name=op.f("ck_grants_ended")),
        sa.CheckConstraint("leased >= 0", name=op.f("ck_grants_leased")),
        sa.CheckConstraint("presumed >= 0", name=op.f("ck_grants_presumed")),
        sa.CheckConstraint("quarantined >= 0", name=op.f("ck_grants_quarantined")),
        sa.CheckConstraint("spent >= 0", name=op.f("ck_grants_spent")),
        sa.CheckConstraint("target >= 0", name=op.f("ck_grants_target")),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_grants_balance_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    op.create_index("ix_grants_balance_id", "grants", ["balance_id"], unique=False)
    op.create_index("ix_grants_begun", "grants", ["begun", "effective_at"], unique=False)
    op.create_index("ix_grants_expires_at", "grants", ["expiry_booked", "expires_at"], unique=False)
    op.create_index("ix_grants_rolled_from", "grants", ["rolled_from"], unique=False)
    op.create_table(
        "leases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("outbox_id", sa.Text(), nullable=False),
        sa.Column("incarnation_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("allotted", sa.BigInteger(), nullable=False),
        sa.Column("unsettled", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("returned", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("begins_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("never_after", sa.BigInteger(), nullable=True),
        sa.Column("quarantine_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('open', 'quarantined', 'presumed', 'closed')", name=op.f("ck_leases_state")
        ),
        sa.CheckConstraint("allotted = unsettled + spent + returned", name=op.f("ck_leases_sum")),
        sa.CheckConstraint(
            "unsettled >= 0 AND spent >= 0 AND returned >= 0 AND allotted > 0", name=op.f("ck_leases_signs")
        ),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_leases_balance_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index("ix_leases_balance", "leases", ["balance_id", "state"], unique=False)
    op.create_index("ix_leases_changed_at", "leases", ["changed_at"], unique=False)
    op.create_index("ix_leases_due", "leases", ["state", "quarantine_at"], unique=False)
    op.create_index("ix_leases_holder", "leases", ["outbox_id", "incarnation_id", "state"], unique=False)
    op.create_table(
        "peaks",
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("window", sa.Text(), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.Column("latest", sa.BigInteger(), nullable=False),
        sa.Column("latest_at", sa.BigInteger(), nullable=False),
        sa.Column("latest_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_peaks_balance_id")),
        sa.PrimaryKeyConstraint("balance_id", "window", name=op.f("pk_peaks")),
    )
    op.create_table(
        "plan_versions",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.Column("meaning", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["catalog_revision"],
            ["catalog_revisions.revision"],
            name=op.f("fk_plan_versions_catalog_revision"),
        ),
        sa.PrimaryKeyConstraint("plan", "version", name=op.f("pk_plan_versions")),
        sa.UniqueConstraint("plan", "catalog_revision", name=op.f("uq_plan_versions_plan_catalog_revision")),
    )
    op.create_table(
        "postings",
        sa.Column("transaction_id", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=True),
        sa.Column("grant_id", sa.Text(), nullable=True),
        sa.Column("lease_id", sa.Text(), nullable=True),
        sa.Column("feature", sa.Text(), nullable=True),
        sa.Column("rate_card", sa.Text(), nullable=True),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["transactions.id"], name=op.f("fk_postings_transaction_id")
        ),
        sa.PrimaryKeyConstraint("transaction_id", "line", name=op.f("pk_postings")),
    )
    op.create_index("ix_postings_balance_id", "postings", ["balance_id"], unique=False)
    op.create_index("ix_postings_grant_id", "postings", ["grant_id"], unique=False)
    op.create_table(
        "rate_buckets",
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("micro_tokens", sa.BigInteger(), nullable=False),
        sa.Column("refilled_at", sa.BigInteger(), nullable=False),
        sa.Column("burst", sa.BigInteger(), nullable=False),
        sa.Column("micro_per_second", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_rate_buckets_balance_id")),
        sa.PrimaryKeyConstraint("balance_id", name=op.f("pk_rate_buckets")),
    )
    op.create_table(
        "rate_shares",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("outbox_id", sa.Text(), nullable=False),
        sa.Column("incarnation_id", sa.Text(), nullable=False),
        sa.Column("micro_per_second", sa.BigInteger(), nullable=False),
        sa.Column("burst", sa.BigInteger(), nullable=False),
        sa.Column("free_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_rate_shares_balance_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rate_shares")),
    )
    op.create_index("ix_rate_shares_balance_id", "rate_shares", ["balance_id"], unique=False)
    op.create_table(
        "recalls",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("idle_only", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["balance_id"], ["balances.id"], name=op.f("fk_recalls_balance_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recalls")),
    )
    op.create_index("ix_recalls_balance", "recalls", ["balance_id", "created_at"], unique=False)
    op.create_index("ix_recalls_created_at", "recalls", ["created_at"], unique=False)
    op.create_table(
        "subjects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_subjects_customer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subjects")),
    )
    op.create_index("ix_subjects_customer_id", "subjects", ["customer_id"], unique=False)
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.Column("add_ons", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=True),
        sa.Column("anchor_at", sa.BigInteger(), nullable=False),
        sa.Column("trial_ends_at", sa.BigInteger(), nullable=True),
        sa.Column("past_due_since", sa.BigInteger(), nullable=True),
        sa.Column("on_past_due", sa.Text(), nullable=False),
        sa.Column("external_ids", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "(state = 'past_due') = (past_due_since IS NOT NULL)", name=op.f("ck_subscriptions_past_due")
        ),
        sa.CheckConstraint(
            "state IN ('trialing', 'active', 'past_due', 'paused', 'suspended', 'canceled')",
            name=op.f("ck_subscriptions_state"),
        ),
        sa.CheckConstraint("ends_at IS NULL OR ends_at >= starts_at", name=op.f("ck_subscriptions_interval")),
        sa.ForeignKeyConstraint(
            ["catalog_revision"],
            ["catalog_revisions.revision"],
            name=op.f("fk_subscriptions_catalog_revision"),
        ),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("fk_subscriptions_customer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
    )
    op.create_index("ix_subscriptions_customer_id", "subscriptions", ["customer_id"], unique=False)
    op.create_table(
        "lease_slices",
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_lease_slices_amount")),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name=op.f("fk_lease_slices_grant_id")),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_lease_slices_lease_id")),
        sa.PrimaryKeyConstraint("lease_id", "position", name=op.f("pk_lease_slices")),
    )
    op.create_index("ix_lease_slices_grant_id", "lease_slices", ["grant_id"], unique=False)
    op.create_table(
        "subscription_pins",
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("from_at", sa.BigInteger(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("catalog_revision", sa.BigInteger(), nullable=False),
        sa.Column("add_ons", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("past_due_since", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["catalog_revision"],
            ["catalog_revisions.revision"],
            name=op.f("fk_subscription_pins_catalog_revision"),
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscriptions.id"], name=op.f("fk_subscription_pins_subscription_id")
        ),
        sa.PrimaryKeyConstraint("subscription_id", "from_at", name=op.f("pk_subscription_pins")),
    )
    for table in APPEND_ONLY:
        for statement in append_only_ddl(table, op.get_bind().dialect.name):
            op.execute(statement)
    op.execute("INSERT INTO revisions (id, generation, revision) VALUES (1, 1, 0)")
    op.bulk_insert(
        sa.table("installation", sa.column("id", sa.BigInteger()), sa.column("installation_id", sa.Text())),
        [{"id": 1, "installation_id": secrets.token_hex(16)}],
    )


def downgrade() -> None:
    op.drop_table("subscription_pins")
    op.drop_index("ix_lease_slices_grant_id", table_name="lease_slices")
    op.drop_table("lease_slices")
    op.drop_index("ix_subscriptions_customer_id", table_name="subscriptions")
    op.drop_table("subscriptions")
    op.drop_index("ix_subjects_customer_id", table_name="subjects")
    op.drop_table("subjects")
    op.drop_index("ix_recalls_created_at", table_name="recalls")
    op.drop_index("ix_recalls_balance", table_name="recalls")
    op.drop_table("recalls")
    op.drop_index("ix_rate_shares_balance_id", table_name="rate_shares")
    op.drop_table("rate_shares")
    op.drop_table("rate_buckets")
    op.drop_index("ix_postings_grant_id", table_name="postings")
    op.drop_index("ix_postings_balance_id", table_name="postings")
    op.drop_table("postings")
    op.drop_table("plan_versions")
    op.drop_table("peaks")
    op.drop_index("ix_leases_holder", table_name="leases")
    op.drop_index("ix_leases_due", table_name="leases")
    op.drop_index("ix_leases_changed_at", table_name="leases")
    op.drop_index("ix_leases_balance", table_name="leases")
    op.drop_table("leases")
    op.drop_index("ix_grants_rolled_from", table_name="grants")
    op.drop_index("ix_grants_expires_at", table_name="grants")
    op.drop_index("ix_grants_begun", table_name="grants")
    op.drop_index("ix_grants_balance_id", table_name="grants")
    op.drop_table("grants")
    op.drop_index("ix_gauge_asks_asker", table_name="gauge_asks")
    op.drop_table("gauge_asks")
    op.drop_index("ix_gauge_changes_state", table_name="gauge_changes")
    op.drop_table("gauge_changes")
    op.drop_table("gauge_holders")
    op.drop_index("ix_transactions_event_uid", table_name="transactions")
    op.drop_index("ix_transactions_decision_id", table_name="transactions")
    op.drop_index("ix_transactions_customer", table_name="transactions")
    op.drop_table("transactions")
    op.drop_table("sessions")
    op.drop_table("scales")
    op.drop_table("revisions")
    op.drop_table("installation")
    op.drop_table("refusals")
    op.drop_index("ix_refusal_samples_customer", table_name="refusal_samples")
    op.drop_table("refusal_samples")
    op.drop_table("recall_answers")
    op.drop_table("lease_returns")
    op.drop_index("ix_lease_requests_created_at", table_name="lease_requests")
    op.drop_table("lease_requests")
    op.drop_index("ix_idempotent_answers_created_at", table_name="idempotent_answers")
    op.drop_table("idempotent_answers")
    op.drop_index("ix_feed_at", table_name="feed")
    op.drop_table("feed")
    op.drop_index("ix_facts_window", table_name="facts")
    op.drop_index(
        "ix_facts_open",
        table_name="facts",
        sqlite_where=sa.text("covered < amount"),
        postgresql_where=sa.text("covered < amount"),
    )
    op.drop_index("ix_facts_event_uid", table_name="facts")
    op.drop_table("facts")
    op.drop_index("ix_fact_burns_grant_id", table_name="fact_burns")
    op.drop_index("ix_fact_burns_balance_id", table_name="fact_burns")
    op.drop_table("fact_burns")
    op.drop_index(
        "ix_events_unrated",
        table_name="events",
        sqlite_where=sa.text("status = 'unrated'"),
        postgresql_where=sa.text("status = 'unrated'"),
    )
    op.drop_index("ix_events_recorded_at", table_name="events")
    op.drop_index("ix_events_occurred", table_name="events")
    op.drop_index("ix_events_decision_id", table_name="events")
    op.drop_index("ix_events_customer", table_name="events")
    op.drop_table("events")
    op.drop_index("ix_event_keys_recorded_at", table_name="event_keys")
    op.drop_table("event_keys")
    op.drop_table("event_costs")
    op.drop_table("event_charges")
    op.drop_index("ix_dead_letters_state", table_name="dead_letters")
    op.drop_table("dead_letters")
    op.drop_index("ix_customers_parent_id", table_name="customers")
    op.drop_table("customers")
    op.drop_table("counted_values")
    op.drop_table("catalog_revisions")
    op.drop_index("ix_balances_changed_at", table_name="balances")
    op.drop_table("balances")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_to_rewrite_the_books()")
