"""A supervisor that cannot keep its lease: nothing runs when others may take its work; nothing is charged."""

from __future__ import annotations

import signal
import sys

import pytest

from conductor_protocol.uptime import uptime
from harness import Project, gone

pytestmark = pytest.mark.together

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a timer")

LOST = "all runners are killed"

LEASE = 3.0
"""Seconds, of :meth:`Project.lease`."""

WAYS = """
    def begin(ctx):
        '''Go on only in the second attempt; before, tell who we are.'''
        ctx.step("once", note, "once")
        if Path("go").exists():
            return True
        note(f"pid {os.getpid()}")
        return False

    @app.task(max_attempts=1)
    def sleeps(event, ctx):
        if not begin(ctx):
            time.sleep(600)

    @app.task(max_attempts=1)
    def holds_the_interpreter(event, ctx):
        if not begin(ctx):
            ctypes.PyDLL(None).sleep(600)

    @app.task(max_attempts=1)
    def is_stopped(event, ctx):
        if not begin(ctx):
            os.kill(os.getpid(), signal.SIGSTOP)

    @app.task(max_attempts=1)
    def starts_others(event, ctx):
        if not begin(ctx):
            import subprocess
            note(f"pid {subprocess.Popen(['sleep', '600']).pid}")
            if (forked := os.fork()) == 0:
                time.sleep(600)
            note(f"pid {forked}")
            time.sleep(600)

    @app.task(max_attempts=1, isolation="fresh")
    def fresh(event, ctx):
        if not begin(ctx):
            ctypes.PyDLL(None).sleep(600)

    @app.task(max_attempts=1, isolation="shared")
    async def shared(event, ctx):
        await ctx.step("once", note, "once")
        if not Path("go").exists():
            note(f"pid {os.getpid()}")
            ctypes.PyDLL(None).sleep(600)
"""


def pids(project: Project) -> list[int]:
    """Return the processes that tasks have noted."""
    return [int(line.removeprefix("pid ")) for line in project.diary() if line.startswith("pid ")]


@only_linux
@pytest.mark.parametrize(
    ("task", "processes"),
    [
        ("sleeps", 1),
        ("holds-the-interpreter", 1),
        ("is-stopped", 1),
        ("starts-others", 3),
        ("fresh", 1),
        ("shared", 1),
    ],
)
def test_runners_of_a_stopped_supervisor_end_by_themselves(
    project: Project, task: str, processes: int
) -> None:
    """With all that they have started. When it goes on, so does the work: uncharged, its steps kept."""
    project.lease()
    project.tasks(WAYS)
    execution = project.invoke(task)
    supervisor = project.start()
    project.until(lambda: len(pids(project)) == processes, "the task runs")
    supervisor.signal(signal.SIGSTOP)
    stopped = uptime()
    for pid in pids(project):
        project.until(lambda: gone(pid), f"process {pid} has ended")  # noqa: B023
    project.until(lambda: uptime() > stopped + LEASE, "the lease has ended, whatever was told last")
    project.let_go("go")
    supervisor.signal(signal.SIGCONT)
    view = project.until_state(execution, "completed", "failed")
    assert (view.state, view.attempt) == ("completed", 0)
    assert [(a.outcome, a.reason) for a in view.attempts] == [("stopped", "lease"), ("completed", None)]
    assert project.diary().count("once") == 1
    assert supervisor.stop() == 0
    assert supervisor.output().count(LOST) == 1
    assert "nothing in hand" not in supervisor.output()


def test_without_renewals_everything_is_killed_and_nothing_begins_until_they_come_back(
    project: Project,
) -> None:
    """As when the database cannot be reached, or takes nothing: one line says so, and one that it is over."""
    renewals = project.lease()
    project.tasks(WAYS)
    first = project.invoke("sleeps")
    supervisor = project.start()
    project.until(lambda: pids(project), "the task runs")
    renewals.unlink()
    view = project.until_state(first, "ready")
    assert (view.attempt, [(a.outcome, a.reason) for a in view.attempts]) == (0, [("stopped", "lease")])
    project.until(lambda: not supervisor.runners(), "no runner is left")
    project.let_go("go")
    second = project.invoke("sleeps")
    lost_at = uptime()
    project.until(lambda: uptime() > lost_at + 2, "another lease is almost over")
    assert {project.view(execution).state for execution in (first, second)} == {"ready"}
    assert not supervisor.runners()
    renewals.touch()
    for execution in (first, second):
        assert project.until_state(execution, "completed").attempt == 0
    assert supervisor.stop() == 0
    assert supervisor.output().count(LOST) == 1
    assert supervisor.output().count("work goes on") == 1


def test_a_supervisor_without_its_lease_can_be_stopped(project: Project) -> None:
    """It does not wait for a renewal."""
    renewals = project.lease()
    project.tasks(WAYS)
    project.invoke("sleeps")
    supervisor = project.start()
    project.until(lambda: pids(project), "the task runs")
    renewals.unlink()
    project.until(lambda: LOST in supervisor.output(), "the lease is lost")
    assert supervisor.stop() == 0
    assert [view.state for view in project.views()] == ["ready"]


def test_while_it_is_renewed_nobody_is_disturbed(project: Project) -> None:
    """Longer than a lease: neither who works, nor who waits for work."""
    project.lease()
    project.tasks("""
        @app.task(max_attempts=1)
        def waits(event, ctx):
            note(f"pid {os.getpid()}")
            wait_for("go")
    """)
    execution = project.invoke("waits")
    supervisor = project.start()
    project.until(lambda: pids(project), "the task runs")
    runners = project.until(lambda: len(supervisor.runners()) == 2 and supervisor.runners(), "two runners")
    began = uptime()
    project.until(lambda: uptime() > began + 4, "a lease is over")
    assert supervisor.runners() == runners
    project.let_go("go")
    assert project.until_state(execution, "completed").attempt == 0
    assert supervisor.stop() == 0
    assert "WARNING" not in supervisor.output()


@only_linux
def test_a_runner_that_cannot_hear_a_supervisor_that_lives_is_charged(project: Project) -> None:
    """The report says why, for nothing else tells."""
    project.lease()
    project.tasks(WAYS)
    execution = project.invoke("holds-the-interpreter")
    project.start()
    view = project.until_state(execution, "failed")
    (attempt,) = view.attempts
    assert attempt.outcome == "crashed"
    assert attempt.crash is not None
    assert "dead-man's timer" in attempt.crash.cause
    assert gone(pids(project)[0])


@only_linux
def test_a_crash_of_which_a_stopped_supervisor_hears_late_is_charged(project: Project) -> None:
    """The signal that ended it is not that of the timer."""
    project.lease("12s")
    project.tasks("""
        @app.task(max_attempts=1)
        def crashes(event, ctx):
            note(f"pid {os.getpid()}")
            wait_for("crash")
            ctypes.string_at(0)
    """)
    execution = project.invoke("crashes")
    supervisor = project.start()
    project.until(lambda: pids(project), "the task runs")
    supervisor.signal(signal.SIGSTOP)
    stopped = uptime()
    project.let_go("crash")
    project.until(lambda: gone(pids(project)[0]), "it has crashed")
    project.until(lambda: uptime() > stopped + 8, "its time to live is over")
    supervisor.signal(signal.SIGCONT)
    view = project.until_state(execution, "failed")
    assert view.attempts[0].crash is not None
    assert view.attempts[0].crash.signal == "SIGSEGV"
