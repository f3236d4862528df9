"""What clients may ask, answered: the one place where operations meet the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args

import msgspec
from msgspec import Raw
from sqlalchemy import Connection, Select, bindparam, func, select, update
from sqlalchemy.exc import IntegrityError

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import is_storable
from conductor_protocol.operations import (
    FINISHED,
    LIST_AT_MOST,
    MAX_PAYLOAD,
    Answer,
    AttemptView,
    CancelExecution,
    Changed,
    CrashReport,
    ExecutionView,
    Failure,
    Found,
    GetExecution,
    GetOutcome,
    GetOutput,
    InvokeMany,
    Listed,
    ListExecutions,
    NotFound,
    Operation,
    Outcome,
    OutputPiece,
    Printed,
    ProgressView,
    Refused,
    RetryExecution,
    State,
    StepView,
    TooLarge,
)
from conductor_protocol.units import Instant, moment, size_in_words
from conductor_supervisor.store import output, tasks
from conductor_supervisor.store.dialect import AnyRow, ByteLength, Executor
from conductor_supervisor.store.executions import in_state, insert, owner_of_key
from conductor_supervisor.store.schema import attempts, executions, steps

OUTPUT_PAGE = 512 * 1024
"""Bytes of output in one answer."""

_failure: msgspec.json.Decoder[Failure] = msgspec.json.Decoder(Failure)
_crash: msgspec.json.Decoder[CrashReport] = msgspec.json.Decoder(CrashReport)
_progress: msgspec.json.Decoder[ProgressView] = msgspec.json.Decoder(ProgressView)


def is_write(operation: Operation) -> bool:
    """Tell whether the operation needs a writing transaction."""
    return isinstance(operation, InvokeMany | CancelExecution | RetryExecution)


def perform(
    connection: Connection,
    operation: Operation,
    now: Instant,
    max_payload: int = MAX_PAYLOAD,
    max_answer: int | None = None,
) -> Answer:
    """Perform one operation and answer it.

    :param max_payload: bytes that a payload may have.
    :param max_answer: bytes that executions which are read may have together: more is refused unread.
    """
    match operation:
        case InvokeMany():
            return invoke(connection, operation, now, max_payload)
        case GetExecution():
            return _get(connection, operation.id, max_answer)
        case GetOutcome():
            return _outcome(connection, operation.id)
        case GetOutput():
            return _output(connection, operation.id, operation.after)
        case ListExecutions():
            return _list(connection, operation, max_answer)
        case CancelExecution():
            return _cancel(connection, operation.id, operation.reason, now)
        case RetryExecution():
            return _retry(connection, operation.id, now)


# Writing


def invoke(connection: Executor, operation: InvokeMany, now: Instant, max_payload: int) -> Answer:
    """Create executions, all or none."""
    largest = max((len(bytes(new.payload)) for new in operation.executions), default=0)
    if largest > max_payload:
        return TooLarge(
            f"a payload has {largest:,} bytes as JSON; at most {max_payload:,} "
            f"({size_in_words(max_payload)}) are allowed. Store it elsewhere, as a file or an object, and "
            "pass a reference to it; or raise max_payload in conductor.toml and, for clients, "
            "CONDUCTOR_MAX_PAYLOAD in their environment"
        )
    try:
        return insert(connection, operation.executions, now)
    except UsageError as error:
        return Refused(str(error))


def _cancel(connection: Connection, execution: str, reason: str | None, now: Instant) -> Answer:
    if reason is not None and not is_storable(reason):
        return Refused(f"reason: expected text that can be written as UTF-8, without zeros, got {reason!r}")
    state: State | None = connection.scalar(_STATE_TO_CHANGE, {"execution": execution})
    if state is None:
        return NotFound(execution)
    if state == "running":
        connection.execute(_ASK_TO_CANCEL, {"execution": execution, "now": now, "why": reason})
    elif state not in FINISHED:
        expires = tasks.expiry(connection, execution, "cancelled", now)
        connection.execute(_CANCEL, {"execution": execution, "now": now, "why": reason, "expires": expires})
    return Changed(state, changed=state not in FINISHED)


def _retry(connection: Connection, execution: str, now: Instant) -> Answer:
    row = connection.execute(_KEY, {"execution": execution}).one_or_none()
    if row is None:
        return NotFound(execution)
    if row.state not in ("failed", "cancelled"):
        return Changed(row.state, changed=False)
    owner = None if row.dedupe_key is None else owner_of_key(connection, row.task, row.dedupe_key)
    if owner is None:
        try:
            with connection.begin_nested():
                connection.execute(_RETRY, {"execution": execution, "now": now})
            return Changed(row.state, changed=True)
        except IntegrityError:  # somebody has just committed another with its key
            owner = owner_of_key(connection, row.task, row.dedupe_key)
    return Refused(
        f"execution {execution} has the dedupe key {row.dedupe_key!r}, and so has {owner}, "
        "which is not finished; wait for that one or cancel it, then retry"
    )


_this = executions.c.id == bindparam("execution")
_STATE = select(executions.c.state).where(_this)
_STATE_TO_CHANGE = _STATE.with_for_update(key_share=True)
_KEY = (
    select(executions.c.state, executions.c.task, executions.c.dedupe_key)
    .where(_this)
    .with_for_update(key_share=True)
)
_ASK_TO_CANCEL = (
    update(executions)
    .where(_this, in_state("running"), executions.c.cancel_requested_at.is_(None))
    .values(cancel_requested_at=bindparam("now"), cancel_reason=bindparam("why"))
)
_CANCEL = (
    update(executions)
    .where(_this, executions.c.finished_at.is_(None))
    .values(
        state="cancelled",
        waiting_for=None,
        cancel_requested_at=bindparam("now"),
        cancel_reason=bindparam("why"),
        finished_at=bindparam("now"),
        expires_at=bindparam("expires"),
    )
)
_RETRY = (
    update(executions)
    .where(_this, executions.c.finished_at.is_not(None))
    .values(
        state="ready",
        attempt=0,
        lost=0,
        suspect=0,
        error=None,
        progress=None,
        due_at=bindparam("now"),
        finished_at=None,
        expires_at=None,
        cancel_requested_at=None,
        cancel_reason=None,
    )
)


# Reading


def _outcome(connection: Connection, execution: str) -> Answer:
    row = connection.execute(_OUTCOME, {"execution": execution}).one_or_none()
    if row is None:
        return NotFound(execution)
    result = Raw((row.result or "null").encode())
    return Outcome(row.state, result, _read(_failure, row.error), row.cancel_reason)


def _output(connection: Connection, execution: str, after: int) -> Answer:
    state: State | None = connection.scalar(_STATE, {"execution": execution})
    if state is None:
        return NotFound(execution)
    page = output.page(connection, execution, after, OUTPUT_PAGE)
    pieces = [
        OutputPiece(
            attempt=row.attempt,
            stream=row.stream,
            time=moment(row.time),
            text=row.text,
            dropped=dropped,
        )
        for row, dropped in page.rows
    ]
    return Printed(state, pieces, page.last, page.complete)


def _get(connection: Connection, execution: str, max_answer: int | None) -> Answer:
    if max_answer is not None:
        size = connection.scalar(_SIZE_WITH_STEPS, {"execution": execution}) or 0
        if size > max_answer:
            return too_much(size, max_answer)
    row = connection.execute(_EXECUTION, {"execution": execution}).one_or_none()
    if row is None:
        return NotFound(execution)
    recorded = [_step_view(step) for step in connection.execute(_STEPS, {"execution": execution})]
    ended = connection.execute(_ATTEMPTS, {"execution": execution}).all()
    return Found(_view(row, _attempt_views(row, ended), recorded))


def _list(connection: Connection, asked: ListExecutions, max_answer: int | None) -> Answer:
    if not 1 <= asked.limit <= LIST_AT_MOST:
        return Refused(f"limit: expected 1 to {LIST_AT_MOST}, got {asked.limit}")
    if asked.state is not None and asked.state not in get_args(State):
        return Refused(f"state: expected one of {', '.join(get_args(State))}, got {asked.state!r}")
    if max_answer is not None:
        sizes = _asked_for(asked, select(_SIZE.label("size"))).subquery()
        size = connection.scalar(select(func.sum(sizes.c.size))) or 0
        if size > max_answer:
            return too_much(size, max_answer)
    return Listed([_view(row, [], []) for row in connection.execute(_asked_for(asked, _EXECUTIONS))])


def _asked_for(asked: ListExecutions, statement: Select[Any]) -> Select[Any]:
    """Return a query for the executions that are asked for, newest first."""
    statement = statement.order_by(executions.c.id.desc()).limit(asked.limit)
    if asked.task is not None:
        statement = statement.where(executions.c.task == asked.task)
    if asked.state is not None:
        statement = statement.where(in_state(asked.state))
        if asked.state in FINISHED:
            # Says nothing new, but lets the index of finished executions serve.
            statement = statement.where(executions.c.finished_at.is_not(None))
    if asked.before is not None:
        statement = statement.where(executions.c.id < asked.before)
    return statement


def too_much(size: int, most: int) -> Refused:
    """Return what is said of an answer that has too many bytes."""
    return Refused(
        f"the answer has {size:,} bytes, and a runner may get {most:,} at once; "
        "ask for less, such as list(limit=10)"
    )


_SIZE = (
    ByteLength(executions.c.payload)
    + ByteLength(executions.c.metadata)
    + ByteLength(executions.c.result)
    + ByteLength(executions.c.error)
    + ByteLength(executions.c.progress)
)
_SIZE_WITH_STEPS = select(
    _SIZE
    + select(func.coalesce(func.sum(ByteLength(steps.c.result)), 0))
    .where(steps.c.execution_id == executions.c.id)
    .correlate(executions)
    .scalar_subquery()
).where(_this)
_OUTCOME = select(
    executions.c.state, executions.c.result, executions.c.error, executions.c.cancel_reason
).where(_this)
_EXECUTIONS = select(
    executions,
    select(func.count())
    .where(steps.c.execution_id == executions.c.id)
    .correlate(executions)
    .scalar_subquery()
    .label("steps_recorded"),
)
_EXECUTION = _EXECUTIONS.where(_this)
_STEPS = select(steps).where(steps.c.execution_id == bindparam("execution")).order_by(steps.c.position)
_ATTEMPTS = (
    select(attempts).where(attempts.c.execution_id == bindparam("execution")).order_by(attempts.c.claim)
)


def _view(row: AnyRow, attempts: list[AttemptView], steps: list[StepView]) -> ExecutionView:
    return ExecutionView(
        id=row.id,
        task=row.task,
        state=row.state,
        payload=_json(row.payload),
        result=_json(row.result),
        error=_read(_failure, row.error),
        event=row.event,
        scheduled_for=_moment(row.scheduled_for),
        priority=row.priority,
        dedupe_key=row.dedupe_key,
        concurrency_key=row.concurrency_key or None,
        metadata=_json(row.metadata),
        created=moment(row.created_at),
        due=moment(row.due_at),
        started=_moment(row.started_at),
        finished=_moment(row.finished_at),
        attempt=row.attempt,
        waiting_for=row.waiting_for,
        cancel_requested=row.cancel_requested_at is not None,
        cancel_reason=row.cancel_reason,
        progress=_read(_progress, row.progress),
        steps_recorded=row.steps_recorded,
        attempts=attempts,
        steps=steps,
    )


def _attempt_views(row: AnyRow, ended: Sequence[AnyRow]) -> list[AttemptView]:
    views = [
        AttemptView(
            number=attempt.number,
            outcome=attempt.outcome,
            started=moment(attempt.started_at),
            ended=moment(attempt.ended_at),
            error=_read(_failure, attempt.error),
            crash=_read(_crash, attempt.crash),
            reason=attempt.reason,
        )
        for attempt in ended
    ]
    # No row tells of these two: the execution itself does.
    if row.state in ("running", "completed"):
        views.append(
            AttemptView(
                number=row.attempt + 1,
                outcome=row.state,
                started=moment(row.started_at),
                ended=_moment(row.finished_at),
            )
        )
    return views


def _step_view(row: AnyRow) -> StepView:
    return StepView(
        name=row.name,
        started=moment(row.started_at),
        ended=moment(row.ended_at),
        attempt=row.attempt,
        result=_json(row.result),
    )


def _moment(instant: Instant | None) -> datetime | None:
    return None if instant is None else moment(instant)


def _json(text: str | None) -> object:
    """Return what is stored. What is no JSON is shown as it is: one bad row must not hide all others."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _read(decoder: msgspec.json.Decoder[Any], text: str | None) -> Any:
    return None if text is None else decoder.decode(text)
