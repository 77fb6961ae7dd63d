"""Which limits an occurrence had before: `grants.earlier`.

Those of before this version are not known: their late facts meet the limit in force, as they did. What the version
before lowers is not remembered either; what it raises leaves limits here that are no higher, and are passed over.

Revision: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("grants", sa.Column("earlier", sa.Text(), nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("grants", "earlier")
