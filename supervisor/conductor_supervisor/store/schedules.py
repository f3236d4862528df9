"""Cron schedules: when each fired last, and the executions that their firings make."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, select, update

from conductor_protocol.limits import key_in
from conductor_protocol.manifest import TaskSpec
from conductor_protocol.units import Instant
from conductor_supervisor.store.dialect import as_list, insert_unless_there, one_of
from conductor_supervisor.store.executions import insert_firings, new_row
from conductor_supervisor.store.schema import schedules
from conductor_supervisor.store.tasks import key_paths


def declare(connection: Connection, specs: Sequence[TaskSpec], now: Instant) -> None:
    """Write down the schedules of these tasks, in place of those declared before.

    A schedule that is new, or whose expression or zone is another now, counts its firings from this moment;
    any other goes on from where it was. The caller has locked all tasks, so nobody else declares meanwhile;
    who fires waits, or is waited for.
    """
    rows = [
        {
            "task": spec.name,
            "name": schedule.name,
            "expression": schedule.expression,
            "tz": schedule.tz,
            "last_at": now,
        }
        for spec in specs
        for schedule in spec.schedules
    ]
    declared = {(row["task"], row["name"], row["expression"], row["tz"]) for row in rows}
    for row in connection.execute(_ALL_LOCKED).all():
        if (row.task, row.name, row.expression, row.tz) not in declared:
            connection.execute(_REMOVE, {"of_task": row.task, "of_name": row.name})
    if rows:
        connection.execute(_ADD, rows)


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
    expression: str | None = None
    """As the code that fires declares it; None: not known."""
    tz: str | None = None
    """As it is declared too."""

    @property
    def key(self) -> str:
        """What makes the firing the same for every supervisor."""
        return f"{self.task}/{self.schedule}/{self.at}"


def fire(connection: Connection, firings: Sequence[Firing], now: Instant) -> int:
    """Create an execution for each firing that has none yet; return how many are new.

    What the schedule's row says decides, for the execution of an earlier firing may have been removed
    already: whoever comes late, because it was stopped, would make it anew. A row that speaks of the future
    tells nothing: the clock has gone back since.

    :param firings: those of one schedule in their order.
    """
    last = _locked_last_firings(connection, {firing.task for firing in firings}) if firings else {}
    new = [one for one in firings if not _was_made(one, last.get((one.task, one.schedule)), now)]
    if not new:
        return 0
    paths = key_paths(connection, {firing.task for firing in new})
    _add_lost(connection, [firing for firing in new if (firing.task, firing.schedule) not in last])
    connection.execute(
        _NOTE_FIRING,
        [{"of_task": firing.task, "of_name": firing.schedule, "at": firing.at} for firing in new],
    )
    return insert_firings(connection, [_row(firing, paths.get(firing.task), now) for firing in new])


def _was_made(firing: Firing, last: Instant | None, now: Instant) -> bool:
    return last is not None and firing.at <= last <= now


def _add_lost(connection: Connection, firings: Sequence[Firing]) -> None:
    """Write down schedules that somebody has taken away whose code, an older one, does not know them.

    So the firings that are missed from here on are known, whichever code starts next.
    """
    rows = [
        {
            "task": firing.task,
            "name": firing.schedule,
            "expression": firing.expression,
            "tz": firing.tz,
            "last_at": firing.at,
        }
        for firing in firings
        if firing.expression is not None
    ]
    if rows:
        connection.execute(_ADD, rows)


def _locked_last_firings(connection: Connection, tasks: Collection[str]) -> dict[tuple[str, str], Instant]:
    """Return the last firings of these tasks' schedules, which nobody else moves until we are done."""
    rows = connection.execute(_LOCKED, {"tasks": as_list(sorted(tasks))})
    return {(row.task, row.name): row.last_at for row in rows}


# In one order for all, so that two who want several never wait for each other.
_ALL_LOCKED = select(schedules).order_by(schedules.c.task, schedules.c.name).with_for_update()
_LOCKED = _ALL_LOCKED.where(one_of(schedules.c.task, "tasks"))
_ADD = insert_unless_there(schedules, *schedules.c.keys())
_REMOVE = delete(schedules).where(
    schedules.c.task == bindparam("of_task"), schedules.c.name == bindparam("of_name")
)
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
