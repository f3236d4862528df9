"""The queue: which executions are ready, and in which order they stand."""

from __future__ import annotations

from sqlalchemy import ColumnElement, TextClause, bindparam, select, text, true

from conductor_supervisor.store.dialect import AnyRow
from conductor_supervisor.store.schema import executions

# Conditions as literal text: only so does a partial index match them.
is_ready = text("state = 'ready'")

SUSPICION: dict[bool | None, ColumnElement[bool] | TextClause] = {
    None: true(),
    False: executions.c.suspect == 0,
    True: text("suspect = 1"),
}
"""The condition that an execution is a suspect, or is not; None: either."""

IN_ORDER = (executions.c.priority.desc(), executions.c.due_at, executions.c.id)
"""Highest priority first, then longest due, then oldest."""

READY_OF_TASK = select(executions.c.id, executions.c.priority, executions.c.due_at).where(
    is_ready, executions.c.task == bindparam("task")
)


def place(row: AnyRow) -> tuple[int, int, str]:
    """Return what puts rows, as :data:`READY_OF_TASK` selects them, into the queue's order."""
    return (-row.priority, row.due_at, row.id)
