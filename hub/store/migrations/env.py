"""What alembic runs: the steps go over the connection, and in the transaction, of `hub.store.migrate`."""

from __future__ import annotations

from alembic import context

from hub.store.migrate import VERSION_TABLE
from hub.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
