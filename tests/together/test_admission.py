"""What starts when: concurrency, priority, delays, retries, cron, queues, pauses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from conductor_protocol.units import instant
from harness import Project

pytestmark = pytest.mark.together

OVERLAP = """
    @app.task(concurrency=3)
    def limited(event, ctx):
        note("+")
        time.sleep(0.02)
        note("-")

    @app.task
    def free(event, ctx):
        note("free")
"""


def most_at_once(diary: list[str]) -> int:
    """Return how many ran at once at most, as the tasks noted it themselves."""
    running = most = 0
    for line in diary:
        running += {"+": 1, "-": -1}.get(line, 0)
        most = max(most, running)
    return most


def test_no_task_runs_above_its_concurrency_while_others_go_on(project: Project) -> None:
    """Measured by the tasks themselves."""
    project.tasks(OVERLAP)
    project.invoke_many("limited", [None] * 40)
    project.invoke_many("free", [None] * 40)
    project.drain(runners=6)
    diary = project.diary()
    assert diary.count("+") == 40
    assert most_at_once(diary) <= 3
    assert diary.index("free") < len(diary) - 40


def test_operators_win_over_code(project: Project) -> None:
    """``[tasks.limited] concurrency = 1`` in conductor.toml."""
    project.tasks(OVERLAP)
    project.config("""
        [tasks.limited]
        concurrency = 1
    """)
    project.invoke_many("limited", [None] * 20)
    project.drain(runners=4)
    assert project.diary().count("+") == 20
    assert most_at_once(project.diary()) == 1


def test_higher_priority_starts_first(project: Project) -> None:
    """Then due time, then age."""
    project.tasks("""
        @app.task(concurrency=1)
        def job(event, ctx):
            note(event.payload)
    """)
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 5)):
        project.invoke("job", name, priority=priority)
    project.drain(runners=1)
    assert project.diary() == ["high", "first", "second", "low"]


def test_failures_are_tried_again_after_the_backoff(project: Project) -> None:
    """15 s, 30 s, 60 s by default: here the test moves the clock."""
    project.tasks("""
        @app.task(max_attempts=4)
        def flaky(event, ctx):
            note(f"attempt {ctx.attempt}")
            raise ValueError("as asked")
    """)
    clock = project.clock()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    clock.set(instant(now))
    execution = project.invoke("flaky")
    for number, delay in enumerate((15, 30, 60), start=1):
        project.drain()
        view = project.view(execution)
        assert (view.state, view.waiting_for, view.attempt) == ("scheduled", "retry", number)
        assert view.due == now + timedelta(seconds=delay)
        now += timedelta(seconds=delay)
        clock.set(instant(now))
    project.drain()
    view = project.view(execution)
    assert (view.state, view.attempt) == ("failed", 4)
    assert view.error is not None
    assert (view.error.type, view.error.message) == ("ValueError", "as asked")
    assert project.diary() == [f"attempt {n}" for n in (1, 2, 3, 4)]


def test_fail_and_retry_after_say_what_happens_next(project: Project) -> None:
    """``Fail`` ends at once; ``RetryAfter`` sets the wait."""
    project.tasks("""
        @app.task
        def fails(event, ctx):
            raise Fail("no use")

        @app.task
        def later(event, ctx):
            raise RetryAfter("30m")
    """)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    project.clock().set(instant(now))
    fails, later = project.invoke("fails"), project.invoke("later")
    project.drain()
    assert (project.view(fails).state, project.view(fails).attempt) == ("failed", 1)
    assert project.view(later).due == now + timedelta(minutes=30)


def test_cron_fires_once_and_catches_up_after_downtime(project: Project) -> None:
    """``catch_up="latest"`` by default: one run for all that was missed."""
    project.tasks("""
        @app.task(cron={"early": "0 2 * * *", "late": Cron("0 22 * * *", catch_up="all")})
        def nightly(event, ctx):
            note(f"{event.name} {event.scheduled_for.isoformat()}")
    """)
    clock = project.clock()
    clock.set(instant(datetime(2026, 1, 1, 12, tzinfo=UTC)))
    project.drain()
    assert project.diary() == []
    clock.set(instant(datetime(2026, 1, 4, 12, tzinfo=UTC)))
    project.drain()
    project.drain()
    assert sorted(project.diary()) == [
        "early 2026-01-04T02:00:00+00:00",
        "late 2026-01-01T22:00:00+00:00",
        "late 2026-01-02T22:00:00+00:00",
        "late 2026-01-03T22:00:00+00:00",
    ]


def test_cron_fires_in_a_running_supervisor(project: Project) -> None:
    """When the clock gets there."""
    project.tasks("""
        @app.task(cron="*/5 * * * *")
        def often(event, ctx):
            note(event.scheduled_for.isoformat())
    """)
    clock = project.clock()
    clock.set(instant(datetime(2026, 1, 1, 12, 1, tzinfo=UTC)))
    supervisor = project.start()
    project.until(lambda: "started" in supervisor.output(), "it has started")
    clock.set(instant(datetime(2026, 1, 1, 12, 5, tzinfo=UTC)))
    project.until_noted("2026-01-01T12:05:00+00:00")
    clock.set(instant(datetime(2026, 1, 1, 12, 10, tzinfo=UTC)))
    project.until_noted("2026-01-01T12:10:00+00:00")
    assert supervisor.stop() == 0
    assert len(project.diary()) == 2


def test_a_handler_invokes_other_tasks_through_its_supervisor(project: Project) -> None:
    """A runner never opens the database."""
    project.tasks("""
        @app.task
        def parent(event, ctx):
            handles = child.invoke_many([1, 2, 3])
            assert "sqlalchemy" not in sys.modules
            return [handle.id for handle in handles]

        @app.task
        async def async_parent(event, ctx):
            handle = await child.invoke_async(4)
            return await handle.result_async(timeout=30)

        @app.task
        def child(event, ctx):
            return event.payload * 10
    """)
    parent, waiter = project.invoke("parent"), project.invoke("async-parent")
    project.drain()
    ids = project.view(parent).result
    assert isinstance(ids, list)
    assert [project.view(i).result for i in ids] == [10, 20, 30]
    assert project.view(waiter).result == 40


def test_executions_of_a_task_that_the_code_does_not_know_wait(project: Project) -> None:
    """They are never dropped: the next code may know the task."""
    project.tasks("""
        @app.task
        def known(event, ctx): ...
    """)
    execution = project.invoke("renamed")
    project.drain()
    assert project.view(execution).state == "ready"
    project.tasks("""
        @app.task
        def renamed(event, ctx): ...
    """)
    project.drain()
    assert project.view(execution).state == "completed"


def test_a_queue_with_runners_of_its_own_is_not_held_up(project: Project) -> None:
    """``[queues.media] runners = 1``: the default runners leave it alone, and it leaves them alone."""
    project.tasks("""
        @app.task(queue="media")
        def media(event, ctx):
            note("media")

        @app.task
        def slow(event, ctx):
            note("slow")
            wait_for("go")
    """)
    project.config("""
        [queues.media]
        runners = 1
    """)
    supervisor = project.start(runners=1)
    project.invoke("slow")
    project.until_noted("slow")
    project.invoke("media")
    project.until_noted("media")
    project.let_go("go")
    assert supervisor.stop() == 0


def test_a_short_task_that_turns_out_long_does_not_hold_up_what_stands_behind_it(project: Project) -> None:
    """What was prefetched behind it is recalled and goes to another runner."""
    project.tasks("""
        @app.task
        def quick(event, ctx):
            if event.payload == "long":
                note("long begun")
                wait_for("go")
            else:
                note("quick")
    """)
    project.invoke_many("quick", ["warm up"] * 50)
    project.drain(runners=2)
    project.invoke_many("quick", ["x"] * 20 + ["long"] + ["y"] * 100)
    supervisor = project.start(runners=2)
    project.until_noted("quick", times=50 + 120)
    assert "long begun" in project.diary()
    project.let_go("go")
    assert supervisor.stop() == 0
