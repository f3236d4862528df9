"""Recorded steps: the results that are never computed twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from sqlalchemy import BigInteger, Connection, Text, bindparam, exists, func, select

from conductor_protocol.messages import RecordedStep
from conductor_protocol.units import Instant
from conductor_supervisor.store.dialect import JsonRows, as_list, as_rows, one_of, sql
from conductor_supervisor.store.executions import live
from conductor_supervisor.store.queue import still
from conductor_supervisor.store.schema import executions, steps

_ENVELOPE = 11
"""Bytes at most that MessagePack adds to a name and a result of any size."""

SMALL_ENOUGH = 64 * 1024
"""Bytes of results that one statement takes: the database takes it apart for each field of each step."""


class NewStep(Struct, frozen=True):
    """A step that a handler has just done."""

    execution: str
    claim: int
    name: str
    result: bytes
    """JSON."""
    started: Instant
    ended: Instant
    attempt: int
    """Counted from 1."""


def record(connection: Connection, new: Sequence[NewStep]) -> list[NewStep]:
    """Record steps. Return the late voices, which have changed nothing.

    A step that is recorded already keeps its first result: a resent step changes nothing and is not late.
    """
    if not new:
        return []
    together = len(new) > 1 and sum(len(step.result) for step in new) <= SMALL_ENOUGH
    if (_record_together if together else _record_each)(connection, new) == len(new):
        return []
    # Some were there already, or came too late: only then is it worth a question which.
    standing = live(connection, [(step.execution, step.claim) for step in new])
    return [step for step in new if (step.execution, step.claim) not in standing]


def _record_together(connection: Connection, new: Sequence[NewStep]) -> int:
    """Insert all by one statement; return how many were inserted."""
    rows = [
        (
            number,
            step.execution,
            step.claim,
            step.name,
            step.result.decode(),
            step.started,
            step.ended,
            step.attempt,
        )
        for number, step in enumerate(new)
    ]
    return connection.execute(_RECORD_ALL, {"rows": as_rows(rows)}).rowcount


def _record_each(connection: Connection, new: Sequence[NewStep]) -> int:
    """Do the same by one statement for each."""
    rows = [
        {
            "execution": step.execution,
            "held": step.claim,
            "step": step.name,
            "value": step.result.decode(),
            "started": step.started,
            "ended": step.ended,
            "number": step.attempt,
        }
        for step in new
    ]
    return connection.execute(_RECORD_ONE, rows).rowcount


_RECORD_ONE = sql(
    """
    INSERT INTO conductor_steps (execution_id, name, result, started_at, ended_at, attempt)
    SELECT :execution, :step, :value, :started, :ended, :number
    WHERE EXISTS (
        SELECT 1 FROM conductor_executions WHERE id = :execution AND claim = :held AND state = 'running'
    )
    ON CONFLICT DO NOTHING
    """
)
_new = JsonRows("rows", BigInteger, Text, BigInteger, Text, Text, BigInteger, BigInteger, BigInteger)
_RECORD_ALL = steps.insert().from_select(
    ["execution_id", "name", "result", "started_at", "ended_at", "attempt"],
    select(_new[1], _new[3], _new[4], _new[5], _new[6], _new[7])
    .where(exists().where(executions.c.id == _new[1], executions.c.claim == _new[2], still("running")))
    .order_by(_new[0])  # the order in which they are recorded
    .suffix_with("ON CONFLICT DO NOTHING"),  # SQLAlchemy has this only in the INSERT of one dialect
)


def first_page(
    connection: Connection, ids: Sequence[str], max_bytes: int
) -> dict[str, tuple[list[RecordedStep], int]]:
    """Return for each execution its first recorded steps, and how many it has in all.

    :param max_bytes: bytes of names and results for all pages together.
    """
    counted = connection.execute(_TOTALS, {"ids": as_list(ids)})
    totals: dict[str, int] = dict(counted.all())
    pages: dict[str, tuple[list[RecordedStep], int]] = {}
    room = max_bytes
    for execution in ids:
        total = totals.get(execution, 0)
        page = _page(connection, execution, 0, room, at_least=0) if total else []
        room -= sum(size(step) for step in page)
        pages[execution] = (page, total)
    return pages


def page_after(
    connection: Connection, execution: str, name: str | None, max_bytes: int
) -> list[RecordedStep]:
    """Return the steps recorded after the one of this name, or from the first; [] if there are none.

    The first of them comes however large it is; the others while all fit into ``max_bytes``.

    :raises LookupError: if no step of this name is recorded.
    """
    first = 0
    if name is not None:
        last: int | None = connection.scalar(_POSITION, {"execution": execution, "step": name})
        if last is None:
            raise LookupError(f"execution {execution} has no recorded step {name!r}")
        first = last + 1
    return _page(connection, execution, first, max_bytes, at_least=1)


def size(step: RecordedStep) -> int:
    """Return how many bytes a step adds to a message: a name may be larger than its result."""
    return len(step.name.encode()) + len(step.result) + _ENVELOPE


_TOTALS = (
    select(steps.c.execution_id, func.count())
    .where(one_of(steps.c.execution_id, "ids"))
    .group_by(steps.c.execution_id)
)
_POSITION = select(steps.c.position).where(
    steps.c.execution_id == bindparam("execution"), steps.c.name == bindparam("step")
)
_FROM_POSITION = (
    select(steps.c.name, steps.c.result)
    .where(steps.c.execution_id == bindparam("execution"), steps.c.position >= bindparam("first"))
    .order_by(steps.c.position)
)


def _page(
    connection: Connection, execution: str, first: int, max_bytes: int, at_least: int
) -> list[RecordedStep]:
    with connection.execute(_FROM_POSITION, {"execution": execution, "first": first}) as rows:
        return _while_they_fit(rows, max_bytes, at_least)


def _while_they_fit(rows: Iterable[tuple[str, str]], max_bytes: int, at_least: int) -> list[RecordedStep]:
    page: list[RecordedStep] = []
    for name, recorded in rows:
        step = RecordedStep(name, recorded.encode())
        max_bytes -= size(step)
        if max_bytes < 0 and len(page) >= at_least:
            break
        page.append(step)
    return page
