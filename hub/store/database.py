"""Where is the record store, and how does one connect to it? URLs, SQLite's settings, errors in one line.

Knows nothing of tables.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import urllib.parse
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from hub.errors import StoreError

_BUSY_S: Final = 5
MAPPED_BYTES: Final = 2**31  # of an SQLite file that is read, where the system can: fewer calls
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {"timeout": _BUSY_S},
    "postgresql": {"connect_timeout": 5, "tcp_user_timeout": 5_000},  # seconds, milliseconds
}
# What a server of PostgreSQL says that is there, but cannot be used yet; another FATAL says that the URL is wrong.
_NOT_YET: Final = ("starting up", "shutting down", "recovery", "too many clients", "remaining connection slots")


def store_url(store: str) -> sa.URL:
    """The SQLAlchemy URL of what `--store` says: a URL as it is, a plain path as SQLite.

    `postgresql://` means the driver that the extra `postgres` installs.

    >>> store_url("fleet.db"), store_url("/var/lib/fleet.db"), store_url("postgresql://h/d")
    (sqlite:///fleet.db, sqlite:////var/lib/fleet.db, postgresql+psycopg://h/d)
    """
    if "://" not in store:
        return sa.URL.create("sqlite", database=store)
    url = sa.make_url(store)
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


class Database:
    """A store that can be connected to; `shown` is its URL without the password."""

    def __init__(self, store: str, *, writing: bool) -> None:
        """Nothing is connected yet. Raises StoreError where `store` is none."""
        try:
            url = store_url(store)
            options = _OPTIONS.get(url.get_backend_name(), {})
            self.engine = sa.create_engine(url, connect_args=options)
        except (sa.exc.ArgumentError, ImportError, ValueError) as error:
            shown = store.split("@")[-1]
            raise StoreError(f"--store {shown!r} is no store: {first_line(error)}{_how_to_mend(error)}") from None
        self.shown = self.engine.url.render_as_string(hide_password=True)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        if self.is_sqlite:
            event.listen(self.engine, "connect", _tune_sqlite if writing else _only_read_sqlite)
            if not writing:
                event.listen(self.engine, "do_connect", _connect_for_reading)

    def is_away(self, error: sa.exc.OperationalError) -> bool:
        """Whether the server may come back: it cannot be reached, or not yet."""
        said = str(error.orig)
        return not self.is_sqlite and ("FATAL" not in said or any(word in said for word in _NOT_YET))

    def check_is_there(self) -> None:
        """Raise StoreError for an SQLite file that does not exist: reading must not create it."""
        path = self.engine.url.database if self.is_sqlite else None
        if path and path != ":memory:" and not Path(path).is_file():
            raise StoreError(f"there is no record store at {path}: give --store what `edge-hub serve` was given")


def first_line(error: Exception) -> str:
    """What went wrong, in the database's words."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _how_to_mend(error: Exception) -> str:
    return ": install edgefleet[postgres]" if isinstance(error, ImportError) and "psycopg" in str(error) else ""


def uri_for_reading(path: str) -> str:
    """An SQLite file as a URI; one beside which nobody can write is read as it stands."""
    return f"file:{urllib.parse.quote(path)}?mode=ro{'&immutable=1' * _is_still(path)}"


def _is_still(path: str) -> bool:
    """Whether it is on a medium, or in a copy, that we cannot write to, and no hub has it open.

    Whoever reads a WAL file makes others beside it (https://sqlite.org/wal.html#readonly), or cannot read it.
    """
    return not os.access(Path(path).absolute().parent, os.W_OK) and not Path(f"{path}-wal").exists()


def _connect_for_reading(_: sa.Dialect, __: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    """SQLAlchemy hands over a path; of a file that is still, its URI takes its place."""
    if os.path.isfile(arguments[0]) and _is_still(arguments[0]):
        arguments[0] = uri_for_reading(arguments[0])
        options["uri"] = True


def _tune_sqlite(connection: Any, _: Any) -> None:
    """Readers never block the writer (WAL), and a commit does not wait for the platter."""
    with contextlib.closing(connection.cursor()) as cursor:
        _switch_to_wal(cursor)
        cursor.execute("PRAGMA synchronous=NORMAL")


def _switch_to_wal(cursor: Any) -> None:
    """It needs the whole file for a moment, and SQLite does not wait for others who open it: so it is tried again."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(_BUSY_S / 100)


def _only_read_sqlite(connection: Any, _: Any) -> None:
    """Whoever reads changes nothing, least of all a file that is no store of ours."""
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("PRAGMA query_only=ON")
        cursor.execute(f"PRAGMA mmap_size={MAPPED_BYTES}")
