"""The first tables: executions, steps, attempts, tasks, schedules, pauses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "conductor_attempts",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("crash", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('failed', 'crashed', 'cancelled', 'released', 'stopped', 'lost')",
            name="known_outcome",
        ),
        sa.PrimaryKeyConstraint("execution_id", "claim"),
    )
    op.create_table(
        "conductor_executions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("scheduled_for", sa.BigInteger(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("dedupe_key", sa.Text(), nullable=True),
        sa.Column("firing_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.Column("supervisor", sa.Text(), nullable=True),
        sa.Column("lost", sa.SmallInteger(), nullable=False),
        sa.Column("waiting_for", sa.Text(), nullable=True),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.CheckConstraint("(state = 'completed') = (result IS NOT NULL)", name="completed_has_result"),
        sa.CheckConstraint("(state = 'running') = (supervisor IS NOT NULL)", name="running_has_supervisor"),
        sa.CheckConstraint(
            "(state = 'scheduled') = (waiting_for IS NOT NULL)", name="scheduled_waits_for_something"
        ),
        sa.CheckConstraint(
            "(state = 'completed' OR state = 'failed' OR state = 'cancelled') = (finished_at IS NOT NULL)",
            name="finished_has_end",
        ),
        sa.CheckConstraint(
            "cancel_requested_at IS NULL OR (state <> 'scheduled' AND state <> 'ready')",
            name="waiting_is_cancelled_at_once",
        ),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_error"),
        sa.CheckConstraint(
            "state <> 'running' OR (started_at IS NOT NULL AND claim > 0)", name="running_was_claimed"
        ),
        sa.CheckConstraint(
            "state = 'scheduled' OR state = 'ready' OR state = 'running'"
            " OR state = 'completed' OR state = 'failed' OR state = 'cancelled'",
            name="known_state",
        ),
        sa.CheckConstraint(
            "waiting_for = 'delay' OR waiting_for = 'retry' OR waiting_for = 'window'",
            name="known_reason_to_wait",
        ),
        sa.CheckConstraint("attempt >= 0 AND claim >= 0 AND lost >= 0", name="counts_from_zero"),
        sa.CheckConstraint("expires_at IS NULL OR finished_at IS NOT NULL", name="only_finished_expires"),
        sa.CheckConstraint("priority BETWEEN -32768 AND 32767", name="priority_in_range"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "conductor_cancel_requested",
        "conductor_executions",
        ["supervisor"],
        unique=False,
        sqlite_where=sa.text("state = 'running' AND cancel_requested_at IS NOT NULL"),
        postgresql_where=sa.text("state = 'running' AND cancel_requested_at IS NOT NULL"),
    )
    op.create_index(
        "conductor_dedupe",
        "conductor_executions",
        ["task", "dedupe_key"],
        unique=True,
        sqlite_where=sa.text("dedupe_key IS NOT NULL AND finished_at IS NULL"),
        postgresql_where=sa.text("dedupe_key IS NOT NULL AND finished_at IS NULL"),
    )
    op.create_index(
        "conductor_expiring",
        "conductor_executions",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("expires_at IS NOT NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "conductor_finished",
        "conductor_executions",
        ["task", "state", "id"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "conductor_firing",
        "conductor_executions",
        ["firing_key"],
        unique=True,
        sqlite_where=sa.text("firing_key IS NOT NULL"),
        postgresql_where=sa.text("firing_key IS NOT NULL"),
    )
    op.create_index(
        "conductor_ready",
        "conductor_executions",
        ["task", sa.literal_column("priority DESC"), "due_at", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "conductor_running",
        "conductor_executions",
        ["task"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "conductor_scheduled",
        "conductor_executions",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("state = 'scheduled'"),
        postgresql_where=sa.text("state = 'scheduled'"),
    )
    op.create_table(
        "conductor_pauses",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('task', 'queue')", name="known_kind"),
        sa.PrimaryKeyConstraint("kind", "name"),
    )
    op.create_table(
        "conductor_schedules",
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("expression", sa.Text(), nullable=False),
        sa.Column("tz", sa.Text(), nullable=True),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task", "name"),
    )
    op.create_table(
        "conductor_steps",
        sa.Column(
            "position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), nullable=False
        ),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("execution_id", "name", name="conductor_step_once"),
    )
    op.create_index("conductor_steps_in_order", "conductor_steps", ["execution_id", "position"], unique=False)
    op.create_table(
        "conductor_tasks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("declared_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    """Undo this revision."""
    op.drop_table("conductor_pauses")
    op.drop_table("conductor_schedules")
    op.drop_table("conductor_tasks")
    op.drop_table("conductor_attempts")
    op.drop_table("conductor_steps")
    op.drop_table("conductor_executions")
