"""Which version has a record store, and how does an older one become today's? By alembic, in `migrations`.

An older store is brought up to date by whoever writes into it, all of it in one transaction; a newer one is refused,
so that nobody writes into what he does not know. Stores of before alembic say their version in a table of their own.
"""

from __future__ import annotations

import logging
from typing import Final

import sqlalchemy as sa

from hub.errors import StoreAway, StoreError
from hub.store.database import Database, first_line

log = logging.getLogger(__name__)

VERSIONS: Final = ("0001", "0002", "0003")  # of `migrations`; alembic itself is loaded only where there is work for it
VERSION_TABLE: Final = "edgefleet_revision"
_EARLY_TABLE: Final = "edgefleet_schema"
_LOCK: Final = 0x65646765  # "edge": the number by which hubs wait for each other in PostgreSQL


def bring_up_to_date(database: Database) -> None:
    """Create the tables where there are none, change those of an older version.

    Raises StoreError; StoreAway where there is a server that does not answer.
    """
    try:
        with database.engine.connect() as connection:
            if _revision(connection) == VERSIONS[-1]:
                return  # what every start but the first one finds
        with database.engine.begin() as connection:
            _wait_for_others(connection)
            _upgrade(connection, database.shown)
    except sa.exc.OperationalError as error:
        kind = StoreAway if database.is_away(error) else StoreError
        raise kind(f"cannot open the record store {database.shown}: {first_line(error)}") from None
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"cannot open the record store {database.shown}: {first_line(error)}") from None


def is_up_to_date(connection: sa.Connection, shown: str) -> bool:
    """Whether the store is of today's version. Raises StoreError where it is none, or of an unknown version."""
    revision = _revision(connection) or _early_revision(connection)
    if revision is None:
        raise StoreError(f"{shown} holds no records of edgefleet: give --store what `edge-hub serve` was given")
    _check_known(revision, shown)
    return revision == VERSIONS[-1]


def _upgrade(connection: sa.Connection, shown: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "hub.store:migrations")
    config.attributes["connection"] = connection
    before, early = _revision(connection), _early_revision(connection)
    if before is None and early is not None:
        _check_known(early, shown)
        command.stamp(config, early)
        before = early
    if before is not None:
        _check_known(before, shown)
        log.info("record store %s: bringing it from version %s to %s", shown, before, VERSIONS[-1])
    command.upgrade(config, "head")


def _check_known(revision: str, shown: str) -> None:
    if revision not in VERSIONS:
        raise StoreError(
            f"the record store {shown} has version {revision}, this edgefleet knows {VERSIONS[-1]}: "
            "use the version of edgefleet that wrote it, or another --store"
        )


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    query: sa.Select[tuple[str]] = sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
    return str(connection.execute(query).scalar())


def _early_revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(_EARLY_TABLE):
        return None
    version = connection.execute(sa.select(sa.column("version")).select_from(sa.table(_EARLY_TABLE))).scalar()
    return f"{version:04}" if isinstance(version, int) else str(version)


def _wait_for_others(connection: sa.Connection) -> None:
    """Hubs that share a store may start together: one creates the tables, the others wait and find them."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
