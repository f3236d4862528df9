"""The wall clock jumps by an hour, forward and back, while tasks run."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from conductor_protocol.units import instant
from harness import Project

pytestmark = pytest.mark.together

NOON = datetime(2026, 1, 1, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_nothing_is_lost_or_charged_when_the_clock_jumps(project: Project) -> None:
    """Timeouts and graces are measured by another clock; moments that are stored stay in order."""
    project.tasks(
        """
        @app.task(max_attempts=1, timeout="30s")
        def steps(event, ctx):
            for number in range(200):
                ctx.step(f"step {number}", note, f"{event.payload} {number}")
                time.sleep(0.005)
        """
    )
    clock = project.clock()
    clock.set(instant(NOON))
    ids = project.invoke_many("steps", ["a", "b"])
    supervisor = project.start(runners=2)
    for step, now in ((30, NOON + HOUR), (80, NOON - HOUR), (130, NOON)):
        project.until_noted(f"a {step}")
        clock.set(instant(now))
    for execution in ids:
        view = project.until_state(execution, "completed", "failed")
        assert (view.state, view.attempt) == ("completed", 0)
        assert all(step.started <= step.ended for step in view.steps)
        assert all(one.ended is None or one.started <= one.ended for one in view.attempts)
    assert supervisor.stop() == 0
    assert max(Counter(project.diary()).values()) == 1
    assert len(project.diary()) == 400


def test_schedules_fire_once_and_go_on_when_the_clock_jumps(project: Project) -> None:
    """What is skipped on the way forward is made up for by one; after the way back each fires in its time."""
    project.tasks(
        """
        @app.task(cron="*/5 * * * *", keep_completed=True)
        def often(event, ctx):
            note(event.scheduled_for.strftime("%H:%M"))
        """
    )
    clock = project.clock()
    clock.set(instant(NOON))
    supervisor = project.start(runners=1)
    project.until(lambda: "started:" in supervisor.output(), "it has started")
    for now, fired in (
        ("12:05", "12:05"),
        ("13:02", "13:00"),  # forward
        ("12:10", "12:10"),  # and back
        ("12:15", "12:15"),
        ("12:55", "12:55"),
        ("13:00", "13:00"),  # it has fired already
        ("13:05", "13:05"),
    ):
        hour, minute = map(int, now.split(":"))
        clock.set(instant(NOON.replace(hour=hour, minute=minute)))
        project.until_noted(fired)
    assert supervisor.stop() == 0
    assert project.diary() == ["12:05", "13:00", "12:10", "12:15", "12:55", "13:05"]


def test_windows_are_right_after_a_jump(project: Project) -> None:
    """A handler is released at its next ask outside, and goes on when the clock is inside again."""
    project.tasks(
        """
        @app.task(window=("12:00", "12:30"))
        def nightly(event, ctx):
            for number in range(10_000):
                if Path("enough").exists():
                    return "done"
                note("works")
                ctx.checkpoint()
                time.sleep(0.005)
        """
    )
    clock = project.clock()
    clock.set(instant(NOON))
    execution = project.invoke("nightly")
    supervisor = project.start(runners=1)
    project.until_noted("works")
    clock.set(instant(NOON + HOUR))
    assert project.until_state(execution, "scheduled").due == NOON.replace(day=2, minute=0)
    worked = len(project.diary())
    clock.set(instant(NOON))
    other = project.invoke("nightly")
    project.until(lambda: len(project.diary()) > worked, "what is invoked now runs")
    project.let_go("enough")
    project.until_state(other, "completed")
    assert supervisor.stop() == 0
    project.drain(runners=1)
    assert project.view(execution).state == "completed"
