"""How many records does the store not have? Told by gaps in the nodes' numbers of their answers, and by hubs.

For each life of a node the numbers that rows and notes of the time name make a range, and what that range lacks is
missing. A node's own word of how far it has counted ends the range, so the answers of a hub's last moment are missed
as soon as a hub hears that node again; of the time before the first word nothing is known.
"""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from hub.report.history import Missing
from hub.store.tables import answers_told, late_answers, losses, questions


def missing_between(connection: sa.Connection, since_s: float | None, until_s: float | None) -> Missing:
    """What is missing from the records of that time (wall clock; None is open). Raises SQLAlchemyError."""
    answers = 0
    for (node, life), known in _lives(connection, since_s, until_s).items():
        if known.rows <= known.last - known.first:  # notes, and rows of another time, may fill the gaps
            there = _there(connection, node, life, known)
            answers += max(known.last - known.first + 1 - there, 0)
    query = sa.select(losses.c.records, losses.c.hub, losses.c.why).where(*_within(losses, since_s, until_s))
    told = connection.execute(query.order_by(losses.c.seq)).all()
    return Missing(
        answers=answers,
        lost=sum(int(records) for records, _, _ in told),
        why=tuple(dict.fromkeys(f"hub {hub}: {why}" for _, hub, why in told)),
    )


class _Range(msgspec.Struct, frozen=True):
    """The numbers of one life of a node that are named; `rows` of them have a row, which has each only once."""

    first: int
    last: int
    rows: int

    def with_(self, other: _Range) -> _Range:
        return _Range(min(self.first, other.first), max(self.last, other.last), self.rows + other.rows)


def _lives(connection: sa.Connection, since_s: float | None, until_s: float | None) -> dict[tuple[str, int], _Range]:
    lives: dict[tuple[str, int], _Range] = {}
    if _holds_all(connection, since_s, until_s):
        since_s = until_s = None  # numbers are then counted in their index alone: 0.3 s of a million, not 1.5
    row, late, told = questions.c, late_answers.c, answers_told.c
    for table, node, life, number, first in (
        (questions, row.node, row.node_life, row.node_number, row.node_number),
        (late_answers, late.node, late.life, late.number, late.number),
        (answers_told, told.node, told.life, told.number, told.number + 1),  # one is expected after it
    ):
        rows = sa.func.count() if table is questions else sa.literal(0)
        keys: list[sa.ColumnElement[Any]] = [node, life]
        if (since_s, until_s) != (None, None):
            # So that SQLite goes by the index of the times: by the numbers' it would look up every row.
            keys = [node + sa.literal_column("''"), life + sa.literal_column("0")]
        query = sa.select(*keys, sa.func.min(first), sa.func.max(number), rows)
        query = query.where(number.is_not(None), *_within(table, since_s, until_s)).group_by(*keys)
        for name, life, *known in connection.execute(query):
            found = _Range(*known)
            before = lives.get((name, life))
            lives[name, life] = found if before is None else before.with_(found)
    return lives


def _holds_all(connection: sa.Connection, since_s: float | None, until_s: float | None) -> bool:
    """Whether all that is kept is of that time, which is seen at the ends of the indices of times."""
    for table in (questions, late_answers, answers_told):
        first, last = (
            connection.execute(sa.select(edge(table.c.wall_time_s))).scalar_one() for edge in (sa.func.min, sa.func.max)
        )
        if first is not None and not ((since_s is None or since_s <= first) and (until_s is None or last < until_s)):
            return False
    return True


def _there(connection: sa.Connection, node: str, life: int, known: _Range) -> int:
    """How many of the numbers have a row or a note, whenever it was written."""
    row, late = questions.c, late_answers.c
    rows = sa.select(sa.func.count()).where(row.node == node, row.node_life == life)
    notes = sa.select(sa.func.count()).where(late.node == node, late.life == life)
    same = sa.select(row.seq).where(row.node == late.node, row.node_life == late.life, row.node_number == late.number)
    both = (
        rows.where(row.node_number.between(known.first, known.last)),
        notes.where(late.number.between(known.first, known.last), ~same.exists()),
    )
    return sum(int(connection.execute(query).scalar_one()) for query in both)


def _within(table: sa.Table, since_s: float | None, until_s: float | None) -> list[sa.ColumnElement[bool]]:
    at = table.c.wall_time_s
    return [*([at >= since_s] if since_s is not None else []), *([at < until_s] if until_s is not None else [])]
