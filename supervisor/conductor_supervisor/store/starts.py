"""What tasks with a rate have started of late. ``rules.rate`` says what counts.

A row is written with each claim, in its transaction and under the task's lock. It has no time until the
start is known: from the runner's word, or because the execution has ended. Until then it holds its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, text, update

from conductor_protocol.manifest import RateSpec
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.rules import rate as rules
from conductor_supervisor.store.schema import executions, starts

KEPT_FOR_OTHERS: Instant = 24 * 3600 * MICROSECONDS
"""How long the starts of tasks that our code does not know are kept."""


def room(connection: Connection, task: str, rate: RateSpec, now: Instant) -> int:
    """Return how many executions of a task may be claimed now. The caller holds the task's lock."""
    connection.execute(_SETTLE, {"of": task, "now": now, "ahead": rules.unbelievable(rate, now)})
    connection.execute(_FORGET, {"of": task, "past": rules.forgotten(rate, now)})
    return rules.room(rate, _counted(connection, task, rate, now))


def full_until(connection: Connection, task: str, rate: RateSpec, now: Instant) -> Instant | None:
    """Return when the next place under the rate can be free; None: there is one."""
    number = rules.in_the_way(rate, _counted(connection, task, rate, now))
    if number is None:
        return None
    values = {"of": task, "past": rules.forgotten(rate, now), "number": number}
    start: Instant | None = connection.scalar(_NTH, values)
    return rules.free_at(rate, start, now)


def note_claims(connection: Connection, claims: Sequence[tuple[str, str, int]]) -> None:
    """Write down what has been claimed: (task, execution, claim)."""
    if claims:
        rows = [
            {"task": task, "execution_id": execution, "claim": claim} for task, execution, claim in claims
        ]
        connection.execute(_NOTE_CLAIM, rows)


def note(connection: Connection, begun: Sequence[tuple[str, int]], now: Instant) -> None:
    """Write down that these (execution, claim) have started by now; the first word counts."""
    if begun:
        rows = [{"execution": execution, "held": claim, "now": now} for execution, claim in begun]
        connection.execute(_NOTE, rows)


def forget(connection: Connection, unbegun: Sequence[tuple[str, int]]) -> None:
    """Free the places of these (execution, claim), which have not begun and never will."""
    if unbegun:
        connection.execute(_FREE, [{"execution": execution, "held": claim} for execution, claim in unbegun])


def forget_others(connection: Connection, tasks: Sequence[str], now: Instant) -> None:
    """Forget the starts of all tasks but these, which nobody here counts.

    Those of the last day are kept: during a rollout others may run code that counts them.
    """
    others = starts.c.task.not_in(tasks)
    # What has no time would stay for ever.
    connection.execute(update(starts).where(others, starts.c.at.is_(None), ~_runs).values(at=now))
    connection.execute(delete(starts).where(others, starts.c.at <= now - KEPT_FOR_OTHERS))


def _counted(connection: Connection, task: str, rate: RateSpec, now: Instant) -> int:
    counted: int = connection.scalar(_COUNT, {"of": task, "past": rules.forgotten(rate, now)}) or 0
    return counted


_of_task = starts.c.task == bindparam("of")
_runs = (
    select(executions.c.id)
    .where(executions.c.id == starts.c.execution_id, executions.c.claim == starts.c.claim)
    .where(text("state = 'running'"))
    .exists()
)
# Whoever ended an execution has noted its start, unless that was another supervisor's death.
_SETTLE = (
    update(starts)
    .where(_of_task, or_(starts.c.at.is_(None) & ~_runs, starts.c.at > bindparam("ahead")))
    .values(at=bindparam("now"))
)
_FORGET = delete(starts).where(_of_task, starts.c.at <= bindparam("past"))
_counts = starts.c.at > bindparam("past")
# In one statement: starts become known without the lock, and two would miss one that does so between them.
_COUNT = select(func.count()).select_from(starts).where(_of_task, or_(_counts, starts.c.at.is_(None)))
_NTH = select(starts.c.at).where(_of_task, _counts).order_by(starts.c.at).limit(1).offset(bindparam("number"))
_NOTE_CLAIM = insert(starts).values(at=None)
_FREE = delete(starts).where(
    starts.c.execution_id == bindparam("execution"),
    starts.c.claim == bindparam("held"),
    starts.c.at.is_(None),
)
_NOTE = (
    update(starts)
    .where(
        starts.c.execution_id == bindparam("execution"),
        starts.c.claim == bindparam("held"),
        starts.c.at.is_(None),
    )
    .values(at=bindparam("now"))
)
