"""What was promised of each stage, what askers told, which answers are missing; decisions in a table of their own."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Rows stay; what they did not tell is null, or nothing."""
    op.create_table(
        "decisions",
        sa.Column("seq", _serial, primary_key=True, autoincrement=False),
        sa.Column("decisions", sa.Text, nullable=False),
    )
    op.execute("INSERT INTO decisions SELECT seq, decisions FROM questions WHERE decisions <> '[]'")
    with op.batch_alter_table("questions") as questions:
        for column in _new_columns():
            questions.add_column(column)
    op.execute("UPDATE questions SET second = 'hedge' WHERE hedged")
    op.execute(
        sa.text("UPDATE questions SET local = :yes WHERE attempts = 0 AND node IS NOT NULL").bindparams(yes=True)
    )
    with op.batch_alter_table("questions") as questions:
        questions.drop_column("decisions")
        questions.drop_column("hedged")
        questions.drop_index("ix_questions_id")
        questions.create_index("ix_questions_asked", ["id", "device", "wall_time_s"])
        questions.create_index("ix_questions_number", ["node", "node_life", "node_number"], unique=True)
    _create_tables_of_notes()
    op.execute("UPDATE edgefleet_schema SET version = 3")


def _new_columns() -> list[sa.Column[Any]]:
    predicted = [f"predicted_{stage}_ms" for stage in ("network", "queue", "prefill", "decode")]
    return [
        sa.Column("answer_bytes", sa.BigInteger, nullable=False, server_default="0"),
        *(sa.Column(name, sa.Float(53)) for name in predicted),
        sa.Column("overhead_ms", sa.Float(53), nullable=False, server_default="0"),
        sa.Column("asker_ms", sa.Float(53)),
        sa.Column("asker_first_ms", sa.Float(53)),
        sa.Column("second", sa.String(16), nullable=False, server_default=""),
        *(
            sa.Column(n, sa.Boolean, nullable=False, server_default=sa.false())
            for n in ("second_won", "local", "partial")
        ),
        sa.Column("node_life", sa.BigInteger),
        sa.Column("node_number", sa.BigInteger),
    ]


def _create_tables_of_notes() -> None:
    op.create_table(
        "late_answers",
        sa.Column("node", sa.String(64), primary_key=True),
        sa.Column("life", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
    )
    op.create_table(
        "answers_told",
        sa.Column("seq", _serial, primary_key=True, autoincrement=True),
        sa.Column("node", sa.String(64), nullable=False),
        sa.Column("life", sa.BigInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
    )
    op.create_table(
        "losses",
        sa.Column("seq", _serial, primary_key=True, autoincrement=True),
        sa.Column("hub", sa.String(64), nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
    )
