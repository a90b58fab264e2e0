"""How many records does the store not have? Told by gaps in the nodes' numbers of their answers, and by hubs.

For each life of a node the numbers that rows and notes of the time name make a range, and what that range lacks is
missing. A node's own word of how far it has counted ends the range, so the answers of a hub's last moment are missed
as soon as a hub hears that node again; of the time before the first word nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from hub.report.history import Missing
from hub.store.tables import answers_told, late_answers, losses, questions


def missing_between(connection: sa.Connection, since_s: float | None, until_s: float | None) -> Missing:
    """What is missing from the records of that time (wall clock; None is open). Raises SQLAlchemyError."""
    answers = 0
    for (node, epoch), (first, last) in _ranges(connection, since_s, until_s).items():
        answers += max(last - first + 1 - _there(connection, node, epoch, first, last), 0)
    query = sa.select(losses.c.records, losses.c.hub, losses.c.why).where(*_within(losses, since_s, until_s))
    told = connection.execute(query.order_by(losses.c.seq)).all()
    return Missing(
        answers=answers,
        lost=sum(int(records) for records, _, _ in told),
        why=tuple(dict.fromkeys(f"hub {hub}: {why}" for _, hub, why in told)),
    )


def _ranges(
    connection: sa.Connection, since_s: float | None, until_s: float | None
) -> dict[tuple[str, int], tuple[int, int]]:
    """First and last number of each life of a node."""
    ranges: dict[tuple[str, int], tuple[int, int]] = {}
    told = sa.func.max(answers_told.c.number), sa.func.min(answers_told.c.number + 1)
    for table, epoch, number in (
        (questions, questions.c.node_epoch, questions.c.node_number),
        (late_answers, late_answers.c.epoch, late_answers.c.number),
    ):
        query = sa.select(table.c.node, epoch, sa.func.min(number), sa.func.max(number))
        query = query.where(number.is_not(None), *_within(table, since_s, until_s)).group_by(table.c.node, epoch)
        _widen(ranges, connection.execute(query))
    query = sa.select(answers_told.c.node, answers_told.c.epoch, told[1], told[0])
    query = query.where(*_within(answers_told, since_s, until_s)).group_by(answers_told.c.node, answers_told.c.epoch)
    _widen(ranges, connection.execute(query))
    return ranges


def _widen(ranges: dict[tuple[str, int], tuple[int, int]], found: Iterable[Any]) -> None:
    for node, epoch, first, last in found:
        before = ranges.get((node, epoch), (first, last))
        ranges[node, epoch] = min(before[0], first), max(before[1], last)


def _there(connection: sa.Connection, node: str, epoch: int, first: int, last: int) -> int:
    """How many of the numbers have a row or a note, whenever it was written."""
    row, late = questions.c, late_answers.c
    rows = sa.select(sa.func.count()).where(row.node == node, row.node_epoch == epoch)
    notes = sa.select(sa.func.count()).where(late.node == node, late.epoch == epoch)
    same = sa.select(row.seq).where(row.node == late.node, row.node_epoch == late.epoch, row.node_number == late.number)
    both = (
        rows.where(row.node_number.between(first, last)),
        notes.where(late.number.between(first, last), ~same.exists()),
    )
    return sum(int(connection.execute(query).scalar_one()) for query in both)


def _within(table: sa.Table, since_s: float | None, until_s: float | None) -> list[sa.ColumnElement[bool]]:
    at = table.c.wall_time_s
    return [*([at >= since_s] if since_s is not None else []), *([at < until_s] if until_s is not None else [])]
