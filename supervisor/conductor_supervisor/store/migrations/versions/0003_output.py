"""What executions print: output."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "conductor_output",
        sa.Column(
            "position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), nullable=False
        ),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("printed_before", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("stream IN ('stdout', 'stderr')", name="known_stream"),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index(
        "conductor_output_in_order",
        "conductor_output",
        ["execution_id", "position", "size"],
        unique=False,
    )


def downgrade() -> None:
    """Undo this revision."""
    op.drop_table("conductor_output")
