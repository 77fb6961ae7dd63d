"""When time alone changes a customer's limits: `customers.limits_until`.

Who may have such an instant, or had one that nobody has looked at, is due at once. The version before leaves the column
alone: what it changes of a subscription's beginning and end is found out at the next change, or when a balance is used.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("customers", sa.Column("limits_until", sa.BigInteger(), nullable=True))
    op.create_index("ix_customers_limits_until", "customers", ["limits_until"], unique=False)
    op.execute(
        "UPDATE customers SET limits_until = 0 WHERE id IN (SELECT customer_id FROM subscriptions "
        "WHERE ends_at IS NOT NULL OR trial_ends_at IS NOT NULL OR past_due_since IS NOT NULL "
        "OR starts_at > created_at)"
    )


def downgrade() -> None:
    op.drop_index("ix_customers_limits_until", table_name="customers")
    op.drop_column("customers", "limits_until")
