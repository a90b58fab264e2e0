"""The tables of the record store as they are today; how they came to be so is told by `migrations`.

`questions` has what a report over a million rows reads, and nothing that makes reading it slow: decisions, which take
ten times the room, have a table of their own.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

metadata = sa.MetaData()
_serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text(name: str, chars: int, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.String(chars), **options)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def _ms(name: str, *, known: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(53), nullable=not known)


questions: Final = sa.Table(
    "questions",
    metadata,
    sa.Column("seq", _serial, primary_key=True, autoincrement=True),
    sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
    _text("device", 64, nullable=False),
    _text("id", 128, nullable=False),
    _text("hub", 64, nullable=False),
    _text("outcome", 16, nullable=False),
    _text("node", 64),
    _text("bundle", 256),
    _text("model", 256),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("duplicates", sa.Integer, nullable=False),
    sa.Column("question_bytes", sa.Integer, nullable=False),
    _count("answer_bytes"),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    _ms("predicted_ms"),
    _ms("predicted_network_ms"),
    _ms("predicted_queue_ms"),
    _ms("predicted_prefill_ms"),
    _ms("predicted_decode_ms"),
    _ms("total_ms", known=True),
    _ms("network_ms", known=True),
    _ms("queue_ms", known=True),
    _ms("prefill_ms", known=True),
    _ms("decode_ms", known=True),
    sa.Column("overhead_ms", sa.Float(53), nullable=False, server_default="0"),
    _ms("asker_ms"),
    _ms("asker_first_ms"),
    _text("second", 16, nullable=False, server_default=""),
    _flag("second_won"),
    _flag("local"),
    _flag("partial"),
    sa.Column("node_life", sa.BigInteger),
    sa.Column("node_number", sa.BigInteger),
    sa.Index("ix_questions_asked", "id", "device", "wall_time_s"),
    sa.Index("ix_questions_number", "node", "node_life", "node_number", unique=True),
)

decisions: Final = sa.Table(
    "decisions",
    metadata,
    sa.Column("seq", _serial, primary_key=True, autoincrement=False),  # of the question
    sa.Column("decisions", sa.Text, nullable=False),  # JSON
)

late_answers: Final = sa.Table(  # see events.LateAnswer
    "late_answers",
    metadata,
    _text("node", 64, primary_key=True),
    sa.Column("life", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
)

answers_told: Final = sa.Table(  # see events.AnswersTold
    "answers_told",
    metadata,
    sa.Column("seq", _serial, primary_key=True, autoincrement=True),
    _text("node", 64, nullable=False),
    sa.Column("life", sa.BigInteger, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
)

losses: Final = sa.Table(  # records that a hub could not write, told with the next ones that it could
    "losses",
    metadata,
    sa.Column("seq", _serial, primary_key=True, autoincrement=True),
    _text("hub", 64, nullable=False),
    _count("records"),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("wall_time_s", sa.Float(53), nullable=False, index=True),
)
