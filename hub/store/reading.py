"""Reads the records back: whole rows of a few questions, or columns of all that a report is made from.

A store of an older version is brought up to date first; beyond that, reading changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from hub.decision import Decision
from hub.errors import StoreAway, StoreError
from hub.events import Row
from hub.report.filter import FIELDS, Filter
from hub.report.history import History, Missing
from hub.store.columns import read_columns
from hub.store.database import Database, first_line
from hub.store.migrate import bring_up_to_date, is_up_to_date
from hub.store.missing import missing_between
from hub.store.tables import decisions, questions

_decisions_decoder = msgspec.json.Decoder(tuple[Decision, ...])
_IN_ROW: Final = tuple(name for name in Row.__struct_fields__ if name in questions.c)


def read_history(store: str, chosen: Filter, *, details: bool = False) -> tuple[History, Missing]:
    """The questions of the filter in the order of their ends, and what is missing in its time.

    With `details` also what no figure is made from. Raises StoreError.
    """
    with reading(store) as (database, connection):
        missing = missing_between(connection, chosen.since_s, chosen.until_s)
        connection.close()
        return read_columns(database, _within(chosen), _condition(chosen), details=details), missing


def read_rows(store: str, numbers: Sequence[int]) -> list[Row]:
    """The whole rows of these numbers (`History.row`), in this order. Raises StoreError."""
    rows: dict[int, Row] = {}
    with reading(store) as (_, connection):
        for start in range(0, len(numbers), 500):
            rows.update(_rows(connection, questions.c.seq.in_([int(n) for n in numbers[start : start + 500]])))
    return [rows[int(number)] for number in numbers if int(number) in rows]


def read_question(store: str, question_id: str | None) -> Row | None:
    """The latest row of a question, or of all where no id is given. Raises StoreError."""
    with reading(store) as (_, connection):
        latest = sa.select(sa.func.max(questions.c.seq))
        if question_id is not None:
            latest = latest.where(questions.c.id == question_id)
        found = _rows(connection, questions.c.seq == latest.scalar_subquery())
    return next(iter(found.values()), None)


def _within(chosen: Filter) -> sa.ColumnElement[bool]:
    terms: list[sa.ColumnElement[bool]] = [sa.true()]
    if chosen.since_s is not None:
        terms.append(questions.c.wall_time_s >= chosen.since_s)
    if chosen.until_s is not None:
        terms.append(questions.c.wall_time_s < chosen.until_s)
    return sa.and_(*terms)


def _condition(chosen: Filter) -> sa.ColumnElement[bool]:
    terms: list[sa.ColumnElement[bool]] = [sa.true()]
    for field, column in FIELDS.items():
        if wanted := getattr(chosen, field):
            terms.append(sa.func.coalesce(questions.c[column], "").in_(wanted))
    return sa.and_(*terms)


def _rows(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> dict[int, Row]:
    query = (
        sa.select(questions, decisions.c.decisions)
        .select_from(questions.outerjoin(decisions, decisions.c.seq == questions.c.seq))
        .where(condition)
    )
    rows = {}
    for values in connection.execute(query).mappings():
        fields = {name: values[name] for name in _IN_ROW}
        rows[int(values["seq"])] = Row(decisions=_decisions_decoder.decode(values["decisions"] or "[]"), **fields)
    return rows


def _bring_up_to_date(store: str) -> None:
    upgraded = Database(store, writing=True)
    try:
        bring_up_to_date(upgraded)
    except StoreAway:
        raise
    except StoreError as error:
        raise StoreError(
            f"{error} (an older version is changed when it is read: make it writable, or read a copy)"
        ) from None
    finally:
        upgraded.engine.dispose()


@contextlib.contextmanager
def reading(store: str) -> Iterator[tuple[Database, sa.Connection]]:
    """A connection for reading, to a store of today's version. Raises StoreError."""
    database = Database(store, writing=False)
    try:
        database.check_is_there()
        with database.engine.connect() as connection:
            up_to_date = is_up_to_date(connection, database.shown)
        if not up_to_date:
            _bring_up_to_date(store)
        with database.engine.connect() as connection:
            yield database, connection
    except sa.exc.OperationalError as error:
        kind = StoreAway if database.is_away(error) else StoreError
        raise kind(f"cannot read the record store {database.shown}: {first_line(error)}") from None
    except (sa.exc.SQLAlchemyError, msgspec.DecodeError) as error:
        raise StoreError(f"cannot read the record store {database.shown}: {first_line(error)}") from None
    finally:
        database.engine.dispose()
