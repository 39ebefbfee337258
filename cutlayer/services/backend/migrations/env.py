"""Alembic's entry: the connection is given by ``cutlayer.services.backend.database``; there is no alembic.ini."""

from alembic import context

from cutlayer.services.backend.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
