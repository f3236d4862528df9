"""The moves of an execution, from insert to removal.

How its attempts end is told in :mod:`conductor_supervisor.store.attempts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from sqlalchemy import (
    Connection,
    TextClause,
    and_,
    bindparam,
    delete,
    func,
    select,
    text,
    update,
)
from uuid_utils import uuid7

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import LONGEST_KEY, is_key, is_storable, key_in
from conductor_protocol.manifest import TASK_NAME
from conductor_protocol.operations import (
    FINISHED,
    Invoked,
    NewExecution,
    ProgressView,
    State,
)
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.store.dialect import (
    Executor,
    InsertSet,
    as_list,
    as_objects,
    insert_rows,
    one_of,
)
from conductor_supervisor.store.queue import still, tasks_with
from conductor_supervisor.store.schema import (
    FIRST_PRIORITY,
    LAST_PRIORITY,
    attempts,
    executions,
    output,
    steps,
)
from conductor_supervisor.store.tasks import key_paths

LATEST: Instant = 253_402_300_799 * MICROSECONDS
"""The end of the year 9999, where Python's calendar ends."""

COUNTED_AT_MOST = 10_000
"""Where :func:`counts` stops counting finished executions of one task and state."""

PORTION_ROWS = 1000
PORTION_SIZE = 8 * 1024 * 1024
"""What one statement inserts at most, where keys may be taken: rows, and characters of payload."""

_encode = msgspec.json.Encoder().encode


UNFINISHED: tuple[State, ...] = ("scheduled", "ready", "running")


def in_state(state: State) -> TextClause:
    """Return the condition on the state, as literal text: only so does a partial index match it."""
    return text(f"state = '{state}'")


is_scheduled = in_state("scheduled")
is_running = in_state("running")
is_to_be_cancelled = text("state = 'running' AND cancel_requested_at IS NOT NULL")
_finished = text("finished_at IS NOT NULL")
_unfinished = text("finished_at IS NULL")


def new_id() -> str:
    """Return an id. Ids grow with time, and strictly within a process, so their order is that of creation."""
    return str(uuid7())


# Coming in


def insert(connection: Executor, new: Sequence[NewExecution], now: Instant) -> Invoked:
    """Create executions, all or none.

    While an execution of the same task with the same dedupe key is unfinished, be it from this very call,
    its id is given back instead.

    :raises UsageError: if one of them cannot be stored; nothing is written then.
    """
    paths = key_paths(connection, {execution.task for execution in new if execution.concurrency_key is None})
    rows = [_new_row(execution, paths.get(execution.task), now) for execution in new]
    ids = [str(row["id"]) for row in rows]
    if plain := [row for row in rows if row["dedupe_key"] is None]:
        insert_rows(connection, executions, plain)
    owners = _insert_deduplicated(connection, [row for row in rows if row["dedupe_key"] is not None])
    return Invoked(
        ids=[owners.get(key, key) for key in ids],
        created=[key not in owners for key in ids],
    )


_Value = str | int | None
_INSERT_UNLESS_THERE = InsertSet(executions)
_OWNERS = select(executions.c.dedupe_key, executions.c.id).where(
    executions.c.task == bindparam("task"),
    one_of(executions.c.dedupe_key, "keys"),
    _unfinished,
)


def _new_row(new: NewExecution, key_path: str | None, now: Instant) -> dict[str, _Value]:
    if not TASK_NAME.fullmatch(new.task):
        raise UsageError(f"task: expected letters, digits, '-', '_', '.' (at most 200), got {new.task!r}")
    if not LAST_PRIORITY <= new.priority <= FIRST_PRIORITY:
        raise UsageError(f"priority: expected {LAST_PRIORITY} to {FIRST_PRIORITY}, got {new.priority}")
    if new.dedupe_key is not None and not is_storable(new.dedupe_key):
        raise UsageError(
            f"dedupe_key: expected text that can be written as UTF-8, without zeros, got {new.dedupe_key!r}"
        )
    due = _due(new, now)
    return new_row(
        task=new.task,
        priority=new.priority,
        event=new.event,
        payload=bytes(new.payload).decode(),
        metadata=None if new.metadata is None else bytes(new.metadata).decode(),
        dedupe_key=new.dedupe_key,
        concurrency_key=_concurrency_key(new, key_path),
        state="scheduled" if due > now else "ready",
        waiting_for="delay" if due > now else None,
        created_at=now,
        due_at=due,
    )


def _concurrency_key(new: NewExecution, declared_path: str | None) -> str | None:
    """Return what an execution is counted under; None: nobody has declared a limit by key for its task."""
    if new.concurrency_key is None:
        path = declared_path or new.key_path
        return None if path is None else key_in(bytes(new.payload), path)
    if not (new.concurrency_key and is_key(new.concurrency_key)):
        raise UsageError(
            f"concurrency_key: expected 1 to {LONGEST_KEY} characters of text that can be written as UTF-8, "
            f"without zeros, got {new.concurrency_key!r}"
        )
    return new.concurrency_key


def _due(new: NewExecution, now: Instant) -> Instant:
    if new.run_at is None:
        if not 0 <= new.delay <= (LATEST - now) / MICROSECONDS:
            raise UsageError(
                f"delay: expected zero or more seconds, at most to the year 9999, got {new.delay}"
            )
        return now + round(new.delay * MICROSECONDS)
    if not 0 <= new.run_at <= LATEST:
        raise UsageError(f"run_at: expected a moment from 1970 to 9999 in microseconds, got {new.run_at}")
    return max(new.run_at, now)


def new_row(**values: _Value) -> dict[str, _Value]:
    """Return a row of ``executions``: a fresh id, what every new execution has, and these values. All other
    columns are NULL.
    """
    return {"id": new_id(), "priority": 0, "attempt": 0, "claim": 0, "lost": 0, "suspect": 0, **values}


def insert_firings(connection: Connection, rows: Sequence[Mapping[str, _Value]]) -> int:
    """Insert rows whose ``firing_key`` nobody has used; return how many."""
    if not rows:
        return 0
    return len(_insert_unless_there(connection, rows))


def _insert_deduplicated(connection: Executor, rows: list[dict[str, _Value]]) -> dict[str, str]:
    """Insert rows that carry a dedupe key; return the owner's id for each that was not inserted."""
    owners: dict[str, str] = {}
    # In one order for all, so that two who insert the same keys never wait for each other.
    rows = sorted(rows, key=_task_and_key)
    while rows:
        inserted = _insert_unless_there(connection, rows)
        refused = [row for row in rows if row["id"] not in inserted]
        taken = _owners(connection, refused)
        owners.update((str(row["id"]), taken[key]) for row in refused if (key := _task_and_key(row)) in taken)
        # An owner may have finished between the two statements; then the key is free again.
        rows = [row for row in refused if row["id"] not in owners]
    return owners


def _task_and_key(row: Mapping[str, _Value]) -> tuple[str, str]:
    return str(row["task"]), str(row["dedupe_key"])


def _insert_unless_there(connection: Executor, rows: Sequence[Mapping[str, _Value]]) -> set[str]:
    """Insert rows in their order, but for those whose unique keys are taken; return the ids of the others."""
    inserted: set[str] = set()
    for some in _in_portions(rows):
        inserted.update(connection.scalars(_INSERT_UNLESS_THERE, {"rows": as_objects(some)}))
    return inserted


def _in_portions(rows: Sequence[Mapping[str, _Value]]) -> Iterator[list[Mapping[str, _Value]]]:
    """Give rows in portions that one statement takes well."""
    some: list[Mapping[str, _Value]] = []
    size = 0
    for row in rows:
        some.append(row)
        size += len(str(row["payload"]))
        if len(some) == PORTION_ROWS or size >= PORTION_SIZE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _owners(connection: Executor, rows: Sequence[Mapping[str, _Value]]) -> dict[tuple[str, str], str]:
    """Return by task and dedupe key the unfinished executions that hold the keys of these rows."""
    keys: dict[str, set[str]] = {}
    for task, key in map(_task_and_key, rows):
        keys.setdefault(task, set()).add(key)
    return {
        (task, key): owner
        for task, of_task in keys.items()
        for key, owner in connection.execute(_OWNERS, {"task": task, "keys": as_list(sorted(of_task))})
    }


def owner_of_key(connection: Executor, task: str, dedupe_key: str) -> str | None:
    """Return the unfinished execution of this task that holds the dedupe key."""
    owners = _owners(connection, [{"task": task, "dedupe_key": dedupe_key}])
    return owners.get((task, dedupe_key))


# Becoming ready


def promote(connection: Connection, now: Instant, limit: int = 5000) -> int:
    """Make scheduled executions that are due ready; return how many. Call again if it was ``limit``.

    What somebody has locked, such as a client that cancels it, is passed over.
    """
    due = connection.scalars(_DUE, {"now": now, "most": limit}).all()
    if due:
        connection.execute(_PROMOTE, {"ids": as_list(due)})
    return len(due)


_DUE = (
    select(executions.c.id)
    .where(is_scheduled, executions.c.due_at <= bindparam("now"))
    .order_by(executions.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(key_share=True, skip_locked=True)
)
_PROMOTE = (
    update(executions)
    .where(one_of(executions.c.id, "ids"), is_scheduled)
    .values(state="ready", waiting_for=None)
)


def reopen_windows(connection: Connection) -> int:
    """Make executions that wait for a window ready: at start the windows may be others than before."""
    return connection.execute(_REOPEN_WINDOWS).rowcount


_REOPEN_WINDOWS = (
    update(executions)
    .where(is_scheduled, executions.c.waiting_for == "window")
    .values(state="ready", waiting_for=None)
)


def next_due(connection: Connection, after: Instant = -1) -> Instant | None:
    """Return when the next scheduled execution is due, of those due after a moment; None if there is none."""
    due: Instant | None = connection.scalar(_NEXT_DUE, {"after": after})
    return due


_NEXT_DUE = select(func.min(executions.c.due_at)).where(
    is_scheduled, executions.c.due_at > bindparam("after")
)


# While it runs


def live(connection: Connection, held: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return which of these (execution, claim) still stand: running, under that very claim."""
    rows = connection.execute(_LIVE, {"ids": as_list([execution for execution, _ in held])})
    return {(execution, claim) for execution, claim in rows}.intersection(held)


_LIVE = select(executions.c.id, executions.c.claim).where(one_of(executions.c.id, "ids"), still("running"))
is_held = and_(
    executions.c.id == bindparam("execution"), executions.c.claim == bindparam("held"), still("running")
)


def running_under(connection: Connection, supervisor: str) -> set[tuple[str, int]]:
    """Return every (execution, claim) that is running under a supervisor's name."""
    return {(execution, claim) for execution, claim in connection.execute(_RUNNING_UNDER, {"by": supervisor})}


_RUNNING_UNDER = select(executions.c.id, executions.c.claim).where(
    is_running, executions.c.supervisor == bindparam("by")
)


def set_progress(connection: Connection, progress: Sequence[tuple[str, int, ProgressView]]) -> None:
    """Note what handlers say of their progress; late voices are ignored."""
    rows = [
        {"execution": execution, "held": claim, "progress": _encode(said).decode()}
        for execution, claim, said in progress
    ]
    if rows:
        connection.execute(_SET_PROGRESS, rows)


_SET_PROGRESS = update(executions).where(is_held).values(progress=bindparam("progress"))


def cancel_requests(connection: Connection, supervisor: str) -> list[tuple[str, int, str | None]]:
    """Return what this supervisor runs and somebody wants cancelled: (execution, claim, reason)."""
    return list(connection.execute(_CANCEL_REQUESTS, {"by": supervisor}))


_CANCEL_REQUESTS = select(executions.c.id, executions.c.claim, executions.c.cancel_reason).where(
    is_to_be_cancelled, executions.c.supervisor == bindparam("by")
)


# Going out


def remove_expired(connection: Connection, now: Instant, limit: int = 1000) -> int:
    """Remove finished executions whose time has come, with all that is theirs; return how many."""
    expired = {"ids": as_list(list(connection.scalars(_EXPIRED, {"now": now, "most": limit})))}
    connection.execute(_REMOVE_STEPS, expired)
    connection.execute(_REMOVE_ATTEMPTS, expired)
    connection.execute(_REMOVE_OUTPUT, expired)
    return connection.execute(_REMOVE, expired).rowcount


_EXPIRED = (
    select(executions.c.id)
    .where(executions.c.expires_at <= bindparam("now"))
    .order_by(executions.c.expires_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_REMOVE_STEPS = delete(steps).where(one_of(steps.c.execution_id, "ids"))
_REMOVE_ATTEMPTS = delete(attempts).where(one_of(attempts.c.execution_id, "ids"))
_REMOVE_OUTPUT = delete(output).where(one_of(output.c.execution_id, "ids"))
_REMOVE = delete(executions).where(one_of(executions.c.id, "ids"))


# Looking


def counts(connection: Connection) -> dict[str, dict[State, int]]:
    """Return how many executions each task has in each state; states without any are left out.

    Unfinished ones are counted exactly. Of finished ones at most :data:`COUNTED_AT_MOST` are counted for
    each task and state ("10,000 or more"), so a long history costs no more than that.
    """
    counted: dict[str, dict[State, int]] = {}
    for state in UNFINISHED:
        for task, number in connection.execute(_COUNT_UNFINISHED[state]):
            counted.setdefault(task, {})[state] = number
    for task in connection.scalars(_TASKS_FINISHED):
        for state in sorted(FINISHED):
            number = connection.scalar(_COUNT_FINISHED, {"task": task, "which": state})
            if number:
                counted.setdefault(task, {})[state] = number
    return counted


_COUNT_UNFINISHED = {
    state: select(executions.c.task, func.count()).where(in_state(state)).group_by(executions.c.task)
    for state in UNFINISHED
}
_TASKS_FINISHED = tasks_with(_finished)
_COUNT_FINISHED = select(func.count()).select_from(
    select(executions.c.id)
    .where(
        _finished,
        executions.c.task == bindparam("task"),
        executions.c.state == bindparam("which"),
    )
    .limit(COUNTED_AT_MOST)
    .subquery()
)
