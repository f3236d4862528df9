"""What Alembic runs: the revisions, on the connection and in the transaction that the caller gives."""

from alembic import context

from conductor_supervisor.store.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
