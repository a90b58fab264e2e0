"""The tables are what the migrations make."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from hub.store.database import Database
from hub.store.migrate import VERSION_TABLE
from hub.store.tables import metadata
from tests.hub.store.kept import keep


def test_migrations_end_at_todays_tables(store: str) -> None:
    """But for the table of versions that was there before alembic."""
    keep(store)
    database = Database(store, writing=False)
    with database.engine.connect() as connection:
        options = {
            "version_table": VERSION_TABLE,
            "compare_type": True,
            "include_name": lambda name, kind, _: (kind, name) != ("table", "edgefleet_schema"),
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    database.engine.dispose()
