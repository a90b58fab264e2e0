"""A million rows as columns, in seconds: by Arrow's database drivers where they are installed, else row by row.

Fetching a million rows of 31 columns row by row takes Python about 7 s, by ADBC (https://arrow.apache.org/adbc) 2.5.
Knows nothing of what the columns are for.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from hub.errors import StoreError
from hub.report.history import COLUMNS, COUNTS, DETAILS, FLAGS, NAMES, History, Names
from hub.store.database import MAPPED_BYTES, Database, first_line, uri_for_reading
from hub.store.tables import questions

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_ROWS: Final = 65_536
_UNKNOWN_MS: Final = -1.0
_MOST_READERS: Final = 4
_BUSY_MS: Final = 5_000


def read_columns(
    database: Database, within: sa.ColumnElement[bool], condition: sa.ColumnElement[bool], *, details: bool
) -> History:
    """The questions of the time `within` for which `condition` holds, in the order of their ends.

    Their details come along if they are wanted.

    Not for a process that has the same SQLite file open for writing: Arrow's driver brings an SQLite of its own, and
    two of them in one process lose each other's locks (https://sqlite.org/howtocorrupt.html, 2.2.1).
    Raises SQLAlchemyError or StoreError.
    """
    seq = questions.c.seq
    edges = (sa.select(edge(seq)).where(within).scalar_subquery() for edge in (sa.func.min, sa.func.max))
    with database.engine.connect() as connection:  # two looks into an index; asked at once SQLite would read it all
        first, last = connection.execute(sa.select(*edges)).one()
    names = COLUMNS + DETAILS if details else COLUMNS
    query = sa.select(*map(_column, names)).where(within, condition)
    table = _by_arrow(database, [query.where(part) for part in _parts(first or 0, last or 0)])
    if table is not None:
        columns = _of_arrow(names, table)
    else:
        with database.engine.connect() as connection:
            columns = _of_rows(names, connection.execute(query))
    history = History.of(columns)
    ends = history.wall_time_s
    return history if np.all(ends[1:] >= ends[:-1]) else history.where(np.argsort(ends, kind="stable"))


def _column(name: str) -> sa.ColumnElement[Any]:
    """Never null: Arrow's driver takes a column's type from the first rows, and of nulls it makes an integer."""
    column = questions.c["seq" if name == "row" else name]
    nothing = "" if name in NAMES else _UNKNOWN_MS
    return (sa.func.coalesce(column, nothing) if column.nullable or name in NAMES else column).label(name)


def _parts(first: int, last: int) -> list[sa.ColumnElement[bool]]:
    """Ranges of rows to be read at the same time: reading and decoding them is all work of the processor."""
    number = min(os.cpu_count() or 1, _MOST_READERS) if last - first > _CHUNK_ROWS else 1
    edges = [first + (last - first + 1) * part // number for part in range(1, number)]
    seq = questions.c.seq
    return [sa.and_(seq >= low, seq < high) for low, high in zip([first, *edges], [*edges, last + 1], strict=True)]


# --- row by row -------------------------------------------------------------------------------------------


def _of_rows(names: Sequence[str], result: sa.CursorResult[Any]) -> dict[str, Any]:
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for rows in result.partitions(_CHUNK_ROWS):
        for name, values in zip(parts, zip(*rows, strict=True), strict=True):
            parts[name].append(values if name in NAMES else _array(name, values))
    return {
        name: Names.of([value for values in some for value in values])
        if name in NAMES
        else np.concatenate(some or [_array(name, [])])
        for name, some in parts.items()
    }


def _array(name: str, values: Any) -> np.ndarray[Any, Any]:
    kind: Any = bool if name in FLAGS else np.int64 if name in COUNTS else np.float64
    array = np.array(values, dtype=kind)
    if kind is np.float64 and questions.c[name].nullable:
        array[array == _UNKNOWN_MS] = np.nan
    return array


# --- by Arrow ---------------------------------------------------------------------------------------------


def _by_arrow(database: Database, queries: Sequence[sa.Select[Any]]) -> pa.Table | None:
    """The results as one of Arrow's tables; None where no driver of Arrow is installed for this database."""
    try:
        connect, dialect = _driver(database)
    except (ImportError, KeyError):
        return None
    import pyarrow as pa
    from adbc_driver_manager import Error

    try:
        with concurrent.futures.ThreadPoolExecutor(len(queries)) as readers:
            parts = list(readers.map(lambda query: _fetch(connect, dialect, query), queries))
        # A part without rows has no types either: the driver knows them from the rows.
        return pa.concat_tables([part for part in parts if part.num_rows] or parts[:1])
    except (Error, pa.ArrowException, OSError) as error:
        raise StoreError(f"cannot read the record store {database.shown}: {first_line(error)}") from None


def _fetch(connect: Callable[[], Any], dialect: sa.Dialect, query: sa.Select[Any]) -> pa.Table:
    """One part, its names each kept once."""
    compiled = query.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    values = [compiled.params[name] for name in compiled.positiontup or ()]
    with connect() as connection, connection.cursor() as cursor:
        if dialect.name == "sqlite":
            cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")  # whoever comes first holds the file for a moment
            cursor.execute(f"PRAGMA mmap_size={MAPPED_BYTES}")
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_CHUNK_ROWS)})
        cursor.execute(str(compiled), values or None)
        table: pa.Table = cursor.fetch_arrow_table()
    for place, name in enumerate(table.column_names):
        if name in NAMES:
            table = table.set_column(place, name, table.column(place).dictionary_encode())
    return table


def _driver(database: Database) -> tuple[Any, sa.Dialect]:
    url = database.engine.url
    if database.is_sqlite and url.database and url.database != ":memory:":
        import adbc_driver_sqlite.dbapi as sqlite_driver
        from sqlalchemy.dialects import sqlite

        uri = uri_for_reading(url.database)
        return lambda: sqlite_driver.connect(uri), sqlite.dialect(paramstyle="qmark")
    if url.get_backend_name() == "postgresql":
        import adbc_driver_postgresql.dbapi as postgresql_driver
        from sqlalchemy.dialects import postgresql

        uri = url.set(drivername="postgresql").render_as_string(hide_password=False)
        dialect = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
        return lambda: postgresql_driver.connect(uri), dialect
    raise KeyError(url.get_backend_name())


def _of_arrow(names: Sequence[str], table: pa.Table) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in names:
        column = table.column(name)
        if name in NAMES:
            columns[name] = _names_of_arrow(column)
        else:
            columns[name] = _array(name, column.to_numpy())
    return columns


def _names_of_arrow(column: pa.ChunkedArray) -> Names:
    if not len(column):
        return Names.of([])
    encoded = column.unify_dictionaries().combine_chunks()
    return Names(encoded.indices.to_numpy().astype(np.int32), tuple(encoded.dictionary.to_pylist()))
