"""Shutdown, windows and cancellation: what runs is interrupted where it asks, and loses nothing."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta

import pytest

from conductor_protocol.units import instant
from harness import Project

pytestmark = pytest.mark.together

COUNTING = """
    @app.task
    def counting(event, ctx):
        for n in range(event.payload):
            ctx.step(f"step-{n}", note, f"step {n}")
            time.sleep(0.02)
            ctx.checkpoint()
        return "done"

    @app.task(name="counting-async")
    async def counting_async(event, ctx):
        for n in range(event.payload):
            await ctx.step(f"step-{n}", note, f"step {n}")
            await asyncio.sleep(0.02)
            await ctx.checkpoint()
        return "done"
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("task", ["counting", "counting-async"])
def test_a_deploy_loses_nothing(project: Project, number: signal.Signals, task: str) -> None:
    """The signal releases at the next checkpoint, uncharged; a restart carries on."""
    project.tasks(COUNTING)
    execution = project.invoke(task, 60)
    supervisor = project.start()
    project.until_noted("step 5")
    supervisor.signal(number)
    assert supervisor.wait() == 0, supervisor.output()
    view = project.view(execution)
    assert (view.state, view.attempt) == ("ready", 0)
    assert [a.outcome for a in view.attempts] == ["released"]
    assert 5 < len(view.steps) < 60
    assert not list((project.folder).glob("*-runner*"))
    project.drain()
    assert project.view(execution).result == "done"
    assert project.diary() == [f"step {n}" for n in range(60)]


def test_finally_blocks_run_and_a_swallowed_release_comes_again(project: Project) -> None:
    """``except Exception`` cannot swallow a release; ``except BaseException`` only until the next call."""
    project.tasks("""
        @app.task
        def stubborn(event, ctx):
            try:
                while True:
                    try:
                        ctx.checkpoint()
                        note("going on")
                        time.sleep(0.02)
                    except Exception:
                        note("swallowed by Exception")
                    except BaseException:
                        note("swallowed by BaseException")
            finally:
                note("finally")

        @app.task
        def swallower(event, ctx):
            stopped = 0
            while stopped < 2:
                try:
                    ctx.checkpoint()
                    time.sleep(0.02)
                    note("going on too")
                except BaseException:
                    stopped += 1
                    note(f"stopped {stopped}")
            ctx.step("never", note, "never")
    """)
    first = project.invoke("swallower")
    supervisor = project.start(runners=1)
    project.until_noted("going on too")
    assert supervisor.stop() == 0
    assert project.view(first).state == "ready"
    assert "never" not in project.diary()
    assert project.diary()[-2:] == ["stopped 1", "stopped 2"]


def test_what_does_not_ask_is_killed_after_the_grace_uncharged(project: Project) -> None:
    """The grace is bounded, and nothing is lost."""
    project.tasks("""
        @app.task
        def deaf(event, ctx):
            note("begun")
            if len(Path("diary").read_text().splitlines()) == 1:
                time.sleep(3600)
            return "done"
    """)
    execution = project.invoke("deaf")
    supervisor = project.start("--shutdown-grace", "0.2s")
    project.until_noted("begun")
    assert supervisor.stop() == 0
    view = project.view(execution)
    assert (view.state, view.attempt) == ("ready", 0)
    assert [a.outcome for a in view.attempts] == ["stopped"]
    project.drain()
    assert project.view(execution).result == "done"


def test_a_second_signal_does_not_wait(project: Project) -> None:
    """Nothing is lost either way, and it is told why the attempt ended."""
    project.tasks("""
        @app.task
        def deaf(event, ctx):
            note("begun")
            time.sleep(3600)
    """)
    execution = project.invoke("deaf")
    supervisor = project.start("--shutdown-grace", "1h")
    project.until_noted("begun")
    supervisor.signal(signal.SIGTERM)
    project.until(lambda: "shutting down" in supervisor.output(), "the shutdown has begun")
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    view = project.view(execution)
    assert (view.state, view.attempt) == ("ready", 0)
    (attempt,) = view.attempts
    assert attempt.crash is not None
    assert "the supervisor was told again to stop" in attempt.crash.cause


def test_work_pauses_when_its_window_closes_and_resumes_when_it_opens(project: Project) -> None:
    """At the ask; the steps stay; the opening comes from the same function."""
    project.tasks("""
        @app.task(window=("22:00", "06:00"))
        def nightly(event, ctx):
            for n in range(2000):
                ctx.step(f"step-{n}", note, f"step {n}")
                time.sleep(0.01)
                if Path("enough").exists():
                    return n
    """)
    clock = project.clock()
    evening = datetime(2026, 3, 1, 23, 0, tzinfo=UTC)
    clock.set(instant(evening))
    supervisor = project.start()
    execution = project.invoke("nightly")
    project.until_noted("step 3")
    clock.set(instant(evening + timedelta(hours=7)))
    view = project.until_state(execution, "scheduled")
    assert view.waiting_for == "window"
    assert view.due == evening + timedelta(hours=23)
    assert [a.outcome for a in view.attempts] == ["released"]
    noted = len(project.diary())
    clock.set(instant(evening + timedelta(hours=22)))
    assert project.view(execution).state == "scheduled"
    assert len(project.diary()) == noted
    clock.set(instant(evening + timedelta(hours=23)))
    project.until(lambda: len(project.diary()) > noted, "it goes on")
    project.let_go("enough")
    view = project.until_state(execution, "completed")
    assert view.attempt == 0
    diary = project.diary()
    assert diary == [f"step {n}" for n in range(len(diary))]
    assert supervisor.stop() == 0


def test_nothing_new_starts_outside_its_window(project: Project) -> None:
    """It waits as ready, and a drain does not wait for it."""
    project.tasks("""
        @app.task(window=("22:00", "06:00"))
        def nightly(event, ctx):
            note("ran")
    """)
    project.clock().set(instant(datetime(2026, 3, 1, 12, 0, tzinfo=UTC)))
    execution = project.invoke("nightly")
    project.drain()
    assert project.view(execution).state == "ready"
    assert project.diary() == []


def test_a_handler_that_does_not_ask_is_stopped_after_its_windows_grace(project: Project) -> None:
    """Uncharged, and back at the next opening."""
    project.tasks("""
        @app.task(window=Window("22:00", "06:00", grace="5m"))
        def deaf(event, ctx):
            note("begun")
            time.sleep(3600)
    """)
    clock = project.clock()
    closing = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
    clock.set(instant(closing - timedelta(hours=1)))
    supervisor = project.start()
    execution = project.invoke("deaf")
    project.until_noted("begun")
    clock.set(instant(closing + timedelta(minutes=6)))
    view = project.until_state(execution, "scheduled")
    assert (view.attempt, view.due) == (0, closing + timedelta(hours=16))
    assert [a.outcome for a in view.attempts] == ["stopped"]
    assert supervisor.stop() == 0


def test_a_running_execution_is_cancelled_at_its_next_ask(project: Project) -> None:
    """Pushed to the runner: ``should_stop`` sees it too."""
    project.tasks("""
        @app.task
        def polite(event, ctx):
            note("begun")
            while not ctx.should_stop:
                time.sleep(0.01)
            note("saw it")
            ctx.checkpoint()
            note("never")
    """)
    supervisor = project.start()
    execution = project.invoke("polite")
    project.until_noted("begun")
    project.cancel(execution)
    view = project.until_state(execution, "cancelled")
    assert view.attempts[-1].outcome == "cancelled"
    assert project.diary() == ["begun", "saw it"]
    assert supervisor.stop() == 0


def test_a_cancelled_handler_that_does_not_ask_is_stopped_after_a_grace(project: Project) -> None:
    """Also when it hangs in a system call."""
    project.config("""cancel_grace = "0.2s" """)
    project.tasks("""
        @app.task
        def deaf(event, ctx):
            note("begun")
            time.sleep(3600)
    """)
    supervisor = project.start()
    execution = project.invoke("deaf")
    project.until_noted("begun")
    project.cancel(execution)
    view = project.until_state(execution, "cancelled")
    assert view.attempt == 0
    assert supervisor.stop() == 0


def test_a_waiting_execution_is_cancelled_without_a_supervisor(project: Project) -> None:
    """Clients work while it is down."""
    project.tasks("""
        @app.task
        def never(event, ctx):
            note("ran")
    """)
    execution = project.invoke("never")
    project.cancel(execution)
    project.drain()
    assert project.view(execution).state == "cancelled"
    assert project.diary() == []


def test_a_window_that_opens_again_lets_the_handler_go_on(project: Project) -> None:
    """It had not asked while the window was closed: ``should_stop`` takes back what it said, each time."""
    project.tasks(
        """
        @app.task(window=("10:00", "11:00"))
        def polls(event, ctx):
            for round in ("first", "second"):
                while not ctx.should_stop:
                    time.sleep(0.002)
                note(f"{round} time closed")
                while ctx.should_stop:
                    time.sleep(0.002)
                note(f"{round} time open again")
            ctx.step("asks", note, "asked")
        """
    )
    clock = project.clock()
    clock.set(instant(datetime(2026, 1, 1, 10, 30, tzinfo=UTC)))
    execution = project.invoke("polls")
    project.start(runners=1)
    project.until(lambda: project.view(execution).state == "running", "it runs")
    for day, which in ((1, "first"), (2, "second")):
        clock.set(instant(datetime(2026, 1, day, 11, 30, tzinfo=UTC)))
        project.until_noted(f"{which} time closed")
        clock.set(instant(datetime(2026, 1, day + 1, 10, 30, tzinfo=UTC)))
        project.until_noted(f"{which} time open again")
    assert project.until_state(execution, "completed").attempts[0].outcome == "completed"
    assert project.diary()[-1] == "asked"
