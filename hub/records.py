"""Where the rows of ended questions are kept: SQLite by default, any database that SQLAlchemy speaks by URL.

`Records` writes: `store` puts a row into a bounded queue and returns at once; a thread of its own writes batches.
When the queue is full or the database refuses, rows are counted as lost and routing goes on. `read_rows` reads.
The schema has a version: an older one is read as it is and brought up to date by whoever writes, a newer one is
refused, so that nobody writes into what he does not know.
Knows nothing of clocks: the wall time of a row comes with it, and is for display and windows only.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.schema import CreateColumn

from hub import events
from hub.decision import Decision
from hub.errors import StoreError
from hub.events import Row

log = logging.getLogger(__name__)

SCHEMA: Final = 3
_BATCH_ROWS: Final = 500
_QUEUE_ROWS: Final = 20_000
_BUSY_MS: Final = 5_000
_LOCK: Final = 0x65646765  # "edge": the number by which hubs wait for each other in PostgreSQL

_metadata = sa.MetaData()
_schema = sa.Table("edgefleet_schema", _metadata, sa.Column("version", sa.Integer, nullable=False))
_questions = sa.Table(
    "questions",
    _metadata,
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
    sa.Column("decisions", sa.Text, nullable=False),  # JSON
    sa.Column("second", sa.String(16), nullable=False, server_default=""),
    sa.Column("second_won", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("answer_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("predicted_network_ms", sa.Float(53)),
    sa.Column("predicted_queue_ms", sa.Float(53)),
    sa.Column("predicted_prefill_ms", sa.Float(53)),
    sa.Column("predicted_decode_ms", sa.Float(53)),
    sa.Column("overhead_ms", sa.Float(53), nullable=False, server_default="0"),
    sa.Column("node_epoch", sa.BigInteger),
    sa.Column("node_number", sa.BigInteger),
    sa.Column("partial", sa.Boolean, nullable=False, server_default=sa.false()),
)
_ADDED: Final[dict[int, tuple[str, ...]]] = {
    3: tuple(column.name for column in list(_questions.columns)[-11:])
}  # columns of `questions` that came with each version


_decisions_decoder = msgspec.json.Decoder(tuple[Decision, ...])
_encoder = msgspec.json.Encoder()


def store_url(store: str) -> str:
    """The SQLAlchemy URL of what `--store` says: a URL as it is, a plain path as SQLite.

    >>> store_url("fleet.db"), store_url("/var/lib/fleet.db"), store_url("postgresql+psycopg://h/d")
    ('sqlite:///fleet.db', 'sqlite:////var/lib/fleet.db', 'postgresql+psycopg://h/d')
    """
    return store if "://" in store else f"sqlite:///{store}"


class Records:
    """The writer. Rows are kept in the order of `store`; `lost` counts those that were not."""

    def __init__(self, store: str) -> None:
        """Open or create the store. Raises StoreError."""
        self._shown_url, self._engine = _engine(store, writing=True)
        self._lost = 0
        self._written = 0
        self._lock = threading.Lock()
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_QUEUE_ROWS)
        try:
            _prepare(self._engine, self._shown_url)
        except BaseException:
            self._engine.dispose()
            raise
        self._thread = threading.Thread(target=self._write_batches, name="records", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Records that could not be kept."""
        with self._lock:
            return self._lost

    @property
    def written(self) -> int:
        """Records that came into the store."""
        with self._lock:
            return self._written

    def store(self, record: events.Record, wall_time_s: float) -> None:
        """Keep one record; never waits."""
        try:
            self._queue.put_nowait(_values(record, wall_time_s))
        except queue.Full:
            self._lose(1, "the queue of records is full")

    def close(self) -> None:
        """Write what is queued, then end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._engine.dispose()

    def _write_batches(self) -> None:
        for batch in self._batches():
            try:
                self._write(batch)
            except (sa.exc.DataError, sa.exc.ProgrammingError):  # one row that the database cannot hold
                for row in batch:
                    self._write_or_lose([row])
            except sa.exc.SQLAlchemyError as error:
                self._lose(len(batch), _first_line(error))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._engine.begin() as connection:
            if new := _new_rows(connection, rows):
                connection.execute(_questions.insert(), new)
        with self._lock:
            self._written += len(new)

    def _write_or_lose(self, rows: list[dict[str, Any]]) -> None:
        try:
            self._write(rows)
        except sa.exc.SQLAlchemyError as error:
            self._lose(len(rows), _first_line(error))

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        """What has come while the batch before was written, until `close`."""
        while (row := self._queue.get()) is not None:
            batch = [row]
            while len(batch) < _BATCH_ROWS:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    yield batch
                    return
                batch.append(following)
            yield batch

    def _lose(self, rows: int, why: str) -> None:
        with self._lock:
            self._lost += rows
            lost = self._lost
        log.warning("%d records lost so far: %s", lost, why)


def read_rows(store: str, *, since_s: float | None = None) -> list[Row]:
    """All rows that ended at or after `since_s` (wall clock), oldest first. Raises StoreError."""

    def query(columns: list[sa.Column[Any]]) -> sa.Select[Any]:
        found = sa.select(*columns).order_by(_questions.c.seq)
        return found if since_s is None else found.where(_questions.c.wall_time_s >= since_s)

    return _read(store, query)


def read_question(store: str, question_id: str | None) -> Row | None:
    """The latest row of a question, or of all where no id is given. Raises StoreError."""

    def query(columns: list[sa.Column[Any]]) -> sa.Select[Any]:
        found = sa.select(*columns).order_by(_questions.c.seq.desc()).limit(1)
        return found if question_id is None else found.where(_questions.c.id == question_id)

    return next(iter(_read(store, query)), None)


def _read(store: str, query: Callable[[list[sa.Column[Any]]], sa.Select[Any]]) -> list[Row]:
    shown, engine = _engine(store, writing=False)
    path = engine.url.database if engine.dialect.name == "sqlite" else None
    try:
        if path and not Path(path).is_file():
            raise StoreError(f"there is no record store at {path}: give --store what `edge-hub serve` was given")
        with engine.connect() as connection:
            missing = _missing_columns(_version(connection, shown))
            columns = [column for column in _questions.columns if column.name not in missing]
            return [_row(values) for values in connection.execute(query(columns)).mappings()]
    except (sa.exc.SQLAlchemyError, msgspec.DecodeError) as error:
        raise StoreError(f"cannot read the record store {shown}: {_first_line(error)}") from None
    finally:
        engine.dispose()


def _engine(store: str, *, writing: bool) -> tuple[str, sa.Engine]:
    """The URL without its password, and the engine. Raises StoreError."""
    try:
        engine = sa.create_engine(store_url(store), connect_args=_connect_args(store_url(store)))
    except (sa.exc.ArgumentError, ImportError, ValueError) as error:
        raise StoreError(f"--store {store.split('@')[-1]!r} is no store: {_first_line(error)}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite if writing else _only_read_sqlite)
    return engine.url.render_as_string(hide_password=True), engine


def _connect_args(url: str) -> dict[str, Any]:
    return {"timeout": _BUSY_MS / 1000} if url.startswith("sqlite") else {}


def _tune_sqlite(connection: Any, _: Any) -> None:
    """Readers never block the writer (WAL), and a commit does not wait for the platter."""
    with contextlib.closing(connection.cursor()) as cursor:
        _switch_to_wal(cursor)
        cursor.execute("PRAGMA synchronous=NORMAL")


def _switch_to_wal(cursor: Any) -> None:
    """It needs the whole file for a moment, and SQLite does not wait for others who open it: so it is tried again."""
    until = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(_BUSY_MS / 100_000)


def _only_read_sqlite(connection: Any, _: Any) -> None:
    """Whoever reads changes nothing, least of all a file that is no store of ours."""
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("PRAGMA query_only=ON")


def _prepare(engine: sa.Engine, shown: str) -> None:
    """Create the tables where there are none, add the columns that older ones lack. Raises StoreError."""
    try:
        with engine.begin() as connection:
            _wait_for_others(connection)
            if not sa.inspect(connection).has_table(_schema.name):
                _metadata.create_all(connection)
                connection.execute(_schema.insert().values(version=SCHEMA))
            _update(connection, _version(connection, shown))
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"cannot open the record store {shown}: {_first_line(error)}") from None


def _wait_for_others(connection: sa.Connection) -> None:
    """Hubs that share a store may start together: one creates the tables, the others wait and find them."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _update(connection: sa.Connection, version: int) -> None:
    for name in _missing_columns(version):
        column = CreateColumn(_questions.columns[name]).compile(dialect=connection.dialect)
        connection.execute(sa.text(f"ALTER TABLE {_questions.name} ADD COLUMN {column}"))
    if version != SCHEMA:
        connection.execute(_schema.update().values(version=SCHEMA))


def _missing_columns(version: int) -> list[str]:
    return [name for since, names in _ADDED.items() if since > version for name in names]


def _version(connection: sa.Connection, shown: str) -> int:
    if not sa.inspect(connection).has_table(_schema.name):
        raise StoreError(f"{shown} holds no records of edgefleet: give --store what `edge-hub serve` was given")
    version = connection.execute(sa.select(_schema.c.version)).scalar()
    if version is None or not 1 <= version <= SCHEMA:
        raise StoreError(
            f"the record store {shown} has schema {version}, this edgefleet knows {SCHEMA}: "
            "use the version of edgefleet that wrote it, or another --store"
        )
    return int(version)


def _new_rows(connection: sa.Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but those that nodes told of their own and that are here already: a hub that died may not have said so."""
    own = [row["id"] for row in rows if _is_own(row)]
    if not own:
        return rows
    columns = _questions.c
    query = sa.select(columns.node, columns.id).where(columns.id.in_(own), columns.attempts == 0)
    known = {tuple(found) for found in connection.execute(query)}
    return [row for row in rows if not _is_own(row) or (row["node"], row["id"]) not in known]


def _is_own(row: dict[str, Any]) -> bool:
    """No hub sent it anywhere, and yet a node has answered it."""
    return row["attempts"] == 0 and row["node"] is not None


def _values(record: events.Record, wall_time_s: float) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in events.Record.__struct_fields__}
    values["decisions"] = _encoder.encode(record.decisions).decode()
    return {**values, "wall_time_s": wall_time_s}


def _row(values: sa.RowMapping) -> Row:
    fields = {name: values[name] for name in Row.__struct_fields__ if name in values}
    fields["decisions"] = _decisions_decoder.decode(fields["decisions"])
    return Row(**fields)


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
