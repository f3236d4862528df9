"""What a replay needs of an execution: the run that it had last, and its recorded steps."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, select

from conductor_protocol.messages import Assignment, RecordedStep
from conductor_protocol.operations import CrashReport, State
from conductor_supervisor.store.schema import attempts, executions, steps

_crash: msgspec.json.Decoder[CrashReport] = msgspec.json.Decoder(CrashReport)


class LastRun(Struct, frozen=True):
    """The last run of an execution; of one that never ran, the one to come."""

    assignment: Assignment
    """Without the steps, but with their number."""
    state: State
    died_in: str | None
    """The step in which its runner died."""


def last_run(connection: Connection, execution: str) -> LastRun | None:
    """Return an execution's last run; None if there is no such execution."""
    row = connection.execute(_EXECUTION, {"execution": execution}).one_or_none()
    if row is None:
        return None
    ended = connection.execute(_LAST_ENDED, {"execution": execution}).first()
    # No attempt's row tells of a run that goes on, or that completed: the execution itself does.
    if row.state in ("running", "completed"):
        ended = None
    crash = None if ended is None or ended.crash is None else _crash.decode(ended.crash)
    return LastRun(
        Assignment(
            execution=execution,
            claim=row.claim,
            task=row.task,
            attempt=row.attempt + 1 if ended is None else ended.number,
            event=row.event,
            scheduled_for=row.scheduled_for,
            payload=row.payload.encode(),
            steps=[],
            steps_recorded=row.steps_recorded,
        ),
        row.state,
        None if crash is None else crash.step,
    )


def recorded_steps(connection: Connection, execution: str) -> Iterator[RecordedStep]:
    """Give all recorded steps, in recorded order, without holding them all."""
    with connection.execution_options(yield_per=100).execute(_STEPS, {"execution": execution}) as rows:
        for name, result in rows:
            yield RecordedStep(name, result.encode())


_EXECUTION = select(
    executions.c.state,
    executions.c.claim,
    executions.c.task,
    executions.c.attempt,
    executions.c.event,
    executions.c.scheduled_for,
    executions.c.payload,
    select(func.count())
    .where(steps.c.execution_id == executions.c.id)
    .correlate(executions)
    .scalar_subquery()
    .label("steps_recorded"),
).where(executions.c.id == bindparam("execution"))
_LAST_ENDED = (
    select(attempts.c.number, attempts.c.crash)
    .where(attempts.c.execution_id == bindparam("execution"))
    .order_by(attempts.c.claim.desc())
    .limit(1)
)
_STEPS = (
    select(steps.c.name, steps.c.result)
    .where(steps.c.execution_id == bindparam("execution"))
    .order_by(steps.c.position)
)
