"""Suspects: executions that were inside a shared runner when it died with several in it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column(
        "conductor_executions",
        sa.Column("suspect", sa.SmallInteger(), nullable=False, server_default=sa.text("0")),
    )
    op.create_index(
        "conductor_suspects",
        "conductor_executions",
        ["task", "suspect", sa.literal_column("priority DESC"), "due_at", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'ready' AND suspect = 1"),
        postgresql_where=sa.text("state = 'ready' AND suspect = 1"),
    )


def downgrade() -> None:
    """Undo this revision."""
    op.drop_index("conductor_suspects", "conductor_executions")
    op.drop_column("conductor_executions", "suspect")
