"""Cron schedules: when each fired last, and the executions that their firings make."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from conductor_protocol.limits import key_in
from conductor_protocol.manifest import TaskSpec
from conductor_protocol.units import Instant
from conductor_supervisor.store.executions import insert_firings, new_row
from conductor_supervisor.store.schema import schedules
from conductor_supervisor.store.tasks import key_paths


def declare(connection: Connection, specs: Sequence[TaskSpec], now: Instant) -> None:
    """Write down the schedules of these tasks, in place of those declared before.

    A schedule that is new, or whose expression or zone is another now, counts its firings from this moment;
    any other goes on from where it was.
    """
    before = {
        (row.task, row.name, row.expression, row.tz): row.last_at
        for row in connection.execute(select(schedules))
    }
    connection.execute(delete(schedules))
    rows = [
        {
            "task": spec.name,
            "name": schedule.name,
            "expression": schedule.expression,
            "tz": schedule.tz,
            "last_at": before.get((spec.name, schedule.name, schedule.expression, schedule.tz), now),
        }
        for spec in specs
        for schedule in spec.schedules
    ]
    if rows:
        connection.execute(insert(schedules), rows)


def last_firings(connection: Connection) -> dict[tuple[str, str], Instant]:
    """Return for each (task, schedule) its last firing, or the moment since which it counts."""
    rows = connection.execute(select(schedules.c.task, schedules.c.name, schedules.c.last_at))
    return {(task, name): last_at for task, name, last_at in rows}


class Firing(Struct, frozen=True):
    """A moment at which a schedule calls for an execution."""

    task: str
    schedule: str
    at: Instant
    payload: bytes = b"null"
    """JSON."""

    @property
    def key(self) -> str:
        """What makes the firing the same for every supervisor."""
        return f"{self.task}/{self.schedule}/{self.at}"


def fire(connection: Connection, firings: Sequence[Firing], now: Instant) -> int:
    """Create an execution for each firing that has none yet; return how many are new."""
    if not firings:
        return 0
    paths = key_paths(connection, {firing.task for firing in firings})
    created = insert_firings(connection, [_row(firing, paths.get(firing.task), now) for firing in firings])
    connection.execute(
        _NOTE_FIRING,
        [{"of_task": firing.task, "of_name": firing.schedule, "at": firing.at} for firing in firings],
    )
    return created


_NOTE_FIRING = (
    update(schedules)
    .where(
        schedules.c.task == bindparam("of_task"),
        schedules.c.name == bindparam("of_name"),
        schedules.c.last_at < bindparam("at"),
    )
    .values(last_at=bindparam("at"))
)


def _row(firing: Firing, key_path: str | None, now: Instant) -> dict[str, str | int | None]:
    return new_row(
        task=firing.task,
        state="ready",
        event=firing.schedule,
        scheduled_for=firing.at,
        payload=firing.payload.decode(),
        firing_key=firing.key,
        concurrency_key=None if key_path is None else key_in(firing.payload, key_path),
        created_at=now,
        due_at=firing.at,
    )
