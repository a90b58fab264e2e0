"""The first version: a row for each ended question."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table. Its version stood in a table of its own, by which older programs know what to refuse."""
    schema = op.create_table("edgefleet_schema", sa.Column("version", sa.Integer, nullable=False))
    op.bulk_insert(schema, [{"version": 1}])
    op.create_table(
        "questions",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("id", sa.String(128), nullable=False, index=True),
        sa.Column("hub", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("node", sa.String(64)),
        sa.Column("bundle", sa.String(256)),
        sa.Column("model", sa.String(256)),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("duplicates", sa.Integer, nullable=False),
        sa.Column("question_bytes", sa.Integer, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("predicted_ms", sa.Float(53)),
        sa.Column("total_ms", sa.Float(53), nullable=False),
        sa.Column("network_ms", sa.Float(53), nullable=False),
        sa.Column("queue_ms", sa.Float(53), nullable=False),
        sa.Column("prefill_ms", sa.Float(53), nullable=False),
        sa.Column("decode_ms", sa.Float(53), nullable=False),
        sa.Column("decisions", sa.Text, nullable=False),
    )
