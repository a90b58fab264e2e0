"""Whether a second node was asked because the deadline was near."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """One column more."""
    op.add_column("questions", sa.Column("hedged", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute("UPDATE edgefleet_schema SET version = 2")
