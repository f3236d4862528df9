"""Triggers: which of them each supervisor wants, so that another leaves them in place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("conductor_supervisors", sa.Column("triggers", sa.Text()))


def downgrade() -> None:
    """Undo this revision."""
    op.drop_column("conductor_supervisors", "triggers")
