"""What the simulated app has: its tasks, its settings, and how long things may take."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from sqlalchemy import Connection, select

from conductor_protocol import messages as m
from conductor_protocol.manifest import (
    KeyLimitSpec,
    RateSpec,
    RetrySpec,
    ScheduleSpec,
    TaskSpec,
    WindowSpec,
)
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.generation import tasks_of
from conductor_supervisor.roster import Task
from conductor_supervisor.settings import QueueSettings, Settings
from conductor_supervisor.store.dialect import AnyRow
from conductor_supervisor.store.leases import Member
from conductor_supervisor.store.schema import executions

CHAOS = 4.0
"""Seconds in which things go wrong; after them everything goes well until all is settled."""

PATIENCE = 90.0
"""Seconds after which work that is not settled counts as lost."""

CLOSING = 2.0
BEGIN: Instant = 1_799_928_000 * MICROSECONDS - int(CLOSING * MICROSECONDS)
"""Two seconds before a noon in UTC, when the windows of the tasks below change."""

UNDER_WAY = 0.1
"""Seconds from a window's closing in which a handler may still begin, or go on: a message is under way."""

NOTICED = 0.35
"""The same where the wall clock has leapt, which is noticed at the next tick."""

LONGEST_WAIT = 0.6
"""Seconds for which an execution may lie in a runner's hands before it begins, or is recalled."""

LONGEST_UNPLACED = 0.3
"""Seconds for which an execution may be in the supervisor's hands and in no runner's."""

LONGEST_UNCLAIMED = 1.0
"""Seconds for which one that may begin may be ready while a runner that could take it has nothing to do."""

PAUSE_UNDER_WAY = 0.2
"""Seconds from when the supervisor knows of a pause in which a runner may still begin what it has in hand."""

LEASE = 0.9
"""Seconds. Without renewals it is lost before a client's mishap is over."""

SLOTS = 4
SHUTDOWN_GRACE = 0.6
CANCEL_GRACE = 0.2
TIMEOUT_GRACE = 0.1
STOP_GRACE = 0.1

Held: TypeAlias = tuple[str, int]
"""An execution and a claim."""

T = TypeVar("T")

_QUICK_RETRY = RetrySpec(delays=(0.0, 0.1, 0.5))
_NOON = WindowSpec(start="12:00", end="12:01")
_MORNING = WindowSpec(start="06:00", end="12:00")
_GRACE = WindowSpec(start="06:00", end="12:00", grace=0.1)

SPECS = {
    spec.name: spec
    for spec in (
        TaskSpec(name="short", retry=_QUICK_RETRY),
        TaskSpec(name="steps", retry=_QUICK_RETRY, concurrency=3),
        TaskSpec(name="mixed", retry=_QUICK_RETRY, concurrency=2),
        TaskSpec(name="noon", retry=_QUICK_RETRY, windows=(_NOON,)),
        TaskSpec(name="morning", retry=_QUICK_RETRY, windows=(_MORNING,)),
        TaskSpec(name="grace", retry=_QUICK_RETRY, windows=(_GRACE,)),
        TaskSpec(name="timed", retry=_QUICK_RETRY, timeout=0.25),
        TaskSpec(name="together", retry=_QUICK_RETRY, isolation="shared"),
        TaskSpec(
            name="limited", retry=_QUICK_RETRY, isolation="shared", concurrency=3, windows=(_GRACE, _NOON)
        ),
        TaskSpec(name="hurried", retry=_QUICK_RETRY, isolation="shared", timeout=0.25),
        TaskSpec(name="media", retry=_QUICK_RETRY, queue="media", concurrency=1),
        TaskSpec(name="keyed", retry=_QUICK_RETRY, concurrency_by_key=KeyLimitSpec(1, "tenant")),
        TaskSpec(name="rated", retry=_QUICK_RETRY, rate=RateSpec(4, 1.0)),
        TaskSpec(name="paced", retry=_QUICK_RETRY, isolation="shared", rate=RateSpec(6, 2.0)),
        TaskSpec(
            name="cron",
            retry=_QUICK_RETRY,
            schedules=(
                ScheduleSpec("noon", "0 12 * * *"),
                ScheduleSpec("later", "1 12 * * *", catch_up="all"),
            ),
        ),
    )
}
UNLIMITED = {
    name
    for name, spec in SPECS.items()
    if not (spec.concurrency or spec.concurrency_by_key or spec.rate or spec.windows)
}
"""Tasks whose executions nothing holds back but a pause."""

INVOCABLE = [name for name in SPECS if name != "cron"]

SETTINGS = Settings(
    app="world:app",
    runners=3,
    slots=SLOTS,
    queues={"media": QueueSettings(runners=1)},
    shutdown_grace=SHUTDOWN_GRACE,
    cancel_grace=CANCEL_GRACE,
    timeout_grace=TIMEOUT_GRACE,
    stop_grace=STOP_GRACE,
)

ME = Member(id="one", host="here", pid=1, app="world:app", started=0)


def known_tasks() -> dict[str, Task]:
    """Return the tasks as the supervisor knows them when it starts."""
    return tasks_of(list(SPECS.values()), "UTC", SETTINGS)


def held_by(assignment: m.Assignment) -> Held:
    """Return the execution of an assignment, and the claim on it."""
    return assignment.execution, assignment.claim


rows = executions.c


def unfinished(connection: Connection) -> list[AnyRow]:
    """Return the executions that have not ended."""
    which = select(rows.id, rows.task, rows.state, rows.claim, rows.due_at).where(rows.finished_at.is_(None))
    return list(connection.execute(which))
