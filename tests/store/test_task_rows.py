"""What the running code declares, and what operators have paused."""

from __future__ import annotations

from store_moves import NOW, SECOND, invoke

from conductor_protocol.manifest import RetrySpec, ScheduleSpec, TaskSpec, WindowSpec
from conductor_supervisor.store import tasks
from conductor_supervisor.store.database import Database


def test_declared_tasks_are_read_back_whole(database: Database) -> None:
    """By name, and in place of those declared before."""
    full = TaskSpec(
        name="b",
        schedules=(ScheduleSpec("nightly", "0 2 * * *", payload=b'{"a":1}'),),
        windows=(WindowSpec("22:00", "06:00", days=("mon",)),),
        retry=RetrySpec(delays=None),
        concurrency=3,
        keep_failed=None,
    )
    with database.writing() as connection:
        tasks.declare(connection, [full, TaskSpec(name="a")], NOW)
        assert tasks.declared(connection) == [TaskSpec(name="a"), full]
        tasks.declare(connection, [TaskSpec(name="c")], NOW)
        assert tasks.declared(connection) == [TaskSpec(name="c")]
        tasks.declare(connection, [], NOW)
        assert tasks.declared(connection) == []


def test_pauses_tell_whether_they_changed_anything(database: Database) -> None:
    """A task and a queue of the same name are two things."""
    with database.writing() as connection:
        assert tasks.pause(connection, "task", "x", NOW)
        assert not tasks.pause(connection, "task", "x", NOW)
        assert tasks.pause(connection, "queue", "x", NOW)
        assert tasks.paused(connection) == {("task", "x"), ("queue", "x")}
        assert tasks.resume(connection, "task", "x")
        assert not tasks.resume(connection, "task", "x")
        assert tasks.paused(connection) == {("queue", "x")}


def test_how_long_a_finished_execution_is_kept(database: Database) -> None:
    """As its task says; as the defaults say if nobody declares the task."""
    (known, forever, unknown) = invoke(database, "known", "forever", "unknown")
    with database.writing() as connection:
        tasks.declare(
            connection,
            [
                TaskSpec(name="known", keep_completed=1, keep_failed=2),
                TaskSpec(name="forever", keep_completed=None),
            ],
            NOW,
        )
        assert tasks.expiry(connection, known, "cancelled", NOW) == NOW + SECOND
        assert tasks.expiry(connection, known, "failed", NOW) == NOW + 2 * SECOND
        assert tasks.expiry(connection, forever, "completed", NOW) is None
        assert tasks.expiry(connection, unknown, "completed", NOW) == NOW + 7 * 86400 * SECOND
