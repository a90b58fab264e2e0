"""How long are records kept? The oldest leave, a few at a time, so that whoever writes never waits for it.

Knows nothing of threads and clocks.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import sqlalchemy as sa

from hub.store.tables import answers_told, decisions, late_answers, losses, questions

DAY_S: Final = 86_400.0
CHUNK_ROWS: Final = 2_000


class Retention(msgspec.Struct, frozen=True):
    """At most so many days and rows of questions; None is no bound."""

    days: float | None = None
    rows: int | None = None


def sweep(connection: sa.Connection, retention: Retention, now_s: float) -> bool:
    """Delete some of what is beyond the bounds at wall time `now_s`; whether more may be left."""
    old = _oldest_beyond(connection, retention, now_s)
    if old:
        connection.execute(decisions.delete().where(decisions.c.seq.in_(old)))
        connection.execute(questions.delete().where(questions.c.seq.in_(old)))
    oldest_s = connection.execute(sa.select(sa.func.min(questions.c.wall_time_s))).scalar()
    if old and oldest_s is not None:
        for notes in (late_answers, answers_told, losses):
            connection.execute(notes.delete().where(notes.c.wall_time_s < oldest_s))
    return bool(old)


def _oldest_beyond(connection: sa.Connection, retention: Retention, now_s: float) -> list[int]:
    seq, beyond = questions.c.seq, list[tuple[sa.ColumnElement[bool], sa.ColumnElement[Any]]]()
    if retention.rows is not None:
        newest = sa.select(sa.func.max(seq)).scalar_subquery()
        beyond.append((seq <= newest - retention.rows, seq))
    if retention.days is not None:
        ended_s = questions.c.wall_time_s
        beyond.append((ended_s < now_s - retention.days * DAY_S, ended_s))
    for condition, by in beyond:  # each in the order of an index, so that finding nothing costs nothing
        query = sa.select(seq).where(condition).order_by(by).limit(CHUNK_ROWS)
        if found := list(connection.execute(query).scalars()):
            return found
    return []
