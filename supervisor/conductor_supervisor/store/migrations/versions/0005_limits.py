"""Limits over all supervisors: keys of concurrency, and the starts that rates count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("conductor_executions", sa.Column("concurrency_key", sa.Text()))
    op.create_index(
        "conductor_keys",
        "conductor_executions",
        ["task", "concurrency_key", sa.literal_column("priority DESC"), "due_at", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'ready' AND concurrency_key IS NOT NULL"),
        postgresql_where=sa.text("state = 'ready' AND concurrency_key IS NOT NULL"),
    )
    op.create_table(
        "conductor_starts",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("execution_id", "claim"),
    )
    op.create_index("conductor_starts_in_order", "conductor_starts", ["task", "at"], unique=False)


def downgrade() -> None:
    """Undo this revision."""
    op.drop_table("conductor_starts")
    op.drop_index("conductor_keys", "conductor_executions")
    op.drop_column("conductor_executions", "concurrency_key")
