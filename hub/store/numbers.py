"""Which of the nodes' answers do the records know? So that a hub that starts can ask for what the one before missed."""

from __future__ import annotations

import sqlalchemy as sa

from hub.accounts import MOST_MISSING, Heard
from hub.store.reading import reading
from hub.store.tables import late_answers, questions


def heard_before(store: str) -> dict[str, Heard]:
    """Of the latest life of every node: the highest number, and those shortly below it that have no row and no note.

    Raises StoreError.
    """
    columns = questions.c.node, questions.c.node_life, questions.c.node_number
    lives = sa.select(columns[0], sa.func.max(columns[1])).where(columns[2].is_not(None)).group_by(columns[0])
    with reading(store) as (_, connection):
        return {node: _heard(connection, node, life) for node, life in connection.execute(lives).all()}


def _heard(connection: sa.Connection, node: str, life: int) -> Heard:
    numbers: set[int] = set()
    for table, columns in (
        (questions, (questions.c.node, questions.c.node_life, questions.c.node_number)),
        (late_answers, (late_answers.c.node, late_answers.c.life, late_answers.c.number)),
    ):
        query = sa.select(columns[2]).select_from(table).where(columns[0] == node, columns[1] == life)
        numbers.update(connection.execute(query.order_by(columns[2].desc()).limit(MOST_MISSING)).scalars())
    last = max(numbers)
    first = max(min(numbers), last - MOST_MISSING + 1)
    return Heard(life, last, frozenset(range(first, last + 1)) - numbers)
