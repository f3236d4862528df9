"""The queue: which executions are ready, and in which order they stand."""

from __future__ import annotations

from sqlalchemy import ColumnElement, TextClause, bindparam, select, text, true

from conductor_protocol.operations import State
from conductor_supervisor.store.dialect import AnyRow, sql
from conductor_supervisor.store.schema import executions

# Conditions as literal text: only so does a partial index match them.
is_ready = text("state = 'ready'")


def still(state: State) -> TextClause:
    """Return the condition on the state of rows that are named by their ids, which no partial index matches.

    The planner would like to go through all that is ready or running instead. That is little by its
    statistics, but while somebody holds a transaction open, those indexes fill with what has left them.
    """
    return text(f"state || '' = '{state}'")


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

FIRST_READY = {
    suspects: READY_OF_TASK.where(suspicion).order_by(*IN_ORDER).limit(1)
    for suspects, suspicion in SUSPICION.items()
}
"""The first in the queue, locked or not, where suspects are wanted, or are not."""


def tasks_with(condition: TextClause) -> sql:
    """Return a query for the tasks that have rows for which this holds, where an index begins with the task.

    It jumps from one task to the next along the index: its cost is the number of tasks, not of rows.
    """
    return sql(
        f"""
        WITH RECURSIVE found(task) AS (
            SELECT min(task) FROM conductor_executions WHERE {condition}
            UNION ALL
            SELECT (SELECT min(task) FROM conductor_executions WHERE {condition} AND task > found.task)
            FROM found WHERE found.task IS NOT NULL
        )
        SELECT task FROM found WHERE task IS NOT NULL
        """  # noqa: S608 - conditions of this module
    )


TASKS_READY = tasks_with(is_ready)
"""The tasks that have ready executions."""


def place(row: AnyRow) -> tuple[int, int, str]:
    """Return what puts rows of one task, as :data:`READY_OF_TASK` selects them, into the queue's order."""
    return (-row.priority, row.due_at, row.id)
