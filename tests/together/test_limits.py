"""Limits on time, silence and memory are kept from outside, whatever the task does inside."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from conductor_protocol.birth import STACKS_SIGNAL
from conductor_protocol.operations import CrashReport, ExecutionView
from harness import Project

pytestmark = pytest.mark.together

BYSTANDER = """
        @app.task
        def bystander(event, ctx):
            for n in range(10):
                ctx.step(f"step-{n}", note, f"bystander {event.payload} {n}")
                time.sleep(0.05)
"""

STUCK = {
    "a loop in Python": "while True: pass",
    "C code that holds the GIL": "sum(range(1 << 60))",
    "a blocked system call": "os.read(os.pipe()[0], 1)",
    "with SIGTERM ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)",
}


def crash_of(view: ExecutionView, attempt: int = 0) -> CrashReport:
    """Return the report on an attempt that must have crashed."""
    assert view.attempts[attempt].outcome == "crashed", view.attempts
    crash = view.attempts[attempt].crash
    assert crash is not None
    return crash


def bystanders_notice_nothing(project: Project, executions: list[str]) -> None:
    """Assert that they lost nothing, repeated nothing and were charged nothing."""
    for execution in executions:
        view = project.view(execution)
        assert (view.state, view.attempt, len(view.attempts)) == ("completed", 0, 1)
    noted = [line for line in project.diary() if line.startswith("bystander")]
    assert sorted(noted) == sorted(f"bystander {b} {n}" for b in range(len(executions)) for n in range(10))


@pytest.mark.parametrize("stuck", STUCK)
def test_an_attempt_over_its_timeout_is_stopped_whatever_it_does(project: Project, stuck: str) -> None:
    """Charged, with the step and the stacks of that moment; its runner is replaced."""
    project.tasks(
        f"""
        def stuck_here():
            {STUCK[stuck]}

        @app.task(timeout="300ms", max_attempts=2, retry=Retry(delays=[0]))
        def victim(event, ctx):
            ctx.step("before", note, "before")
            ctx.step("stuck", stuck_here)
        """
        + BYSTANDER
    )
    project.config("""
        timeout_grace = "200ms"
        stop_grace = "300ms"
    """)
    victim = project.invoke("victim")
    bystanders = project.invoke_many("bystander", [0, 1])
    supervisor = project.drain()
    view = project.view(victim)
    assert (view.state, view.attempt) == ("failed", 2)
    for attempt in (0, 1):
        crash = crash_of(view, attempt)
        assert crash.step == "stuck"
        assert 'was killed: over its timeout of 300 ms; in step "stuck"' in crash.cause
        assert "stuck_here" in crash.stacks
    assert project.diary().count("before") == 1
    bystanders_notice_nothing(project, bystanders)
    assert supervisor.output().count("its runner was killed: over its timeout") == 2


def test_a_handler_that_looks_may_end_by_itself_when_its_time_is_over(project: Project) -> None:
    """It is told first: ``should_stop`` turns true, the next ask ends the attempt, the runner lives on."""
    project.tasks("""
        @app.task(timeout="200ms", max_attempts=1)
        def polite(event, ctx):
            note(f"pid {os.getpid()}")
            try:
                while not ctx.should_stop:
                    time.sleep(0.01)
                ctx.checkpoint()
            finally:
                note("cleaned up")

        @app.task
        def after(event, ctx):
            return os.getpid()
    """)
    project.config('timeout_grace = "1h"')
    polite = project.invoke("polite")
    project.start(runners=1)
    view = project.until_state(polite, "failed")
    assert view.error is not None
    assert (view.error.type, view.attempt) == ("conductor.TimedOut", 1)
    assert "over its timeout of 200 ms" in view.error.message
    assert view.attempts[0].outcome == "failed"
    after = project.until_state(project.invoke("after"), "completed")
    assert project.diary() == [f"pid {after.result}", "cleaned up"]


def test_a_step_over_its_timeout_is_named(project: Project) -> None:
    """The limit of the step, not of the attempt."""
    project.tasks("""
        @app.task(max_attempts=1)
        def victim(event, ctx):
            ctx.step("quick", note, "quick", timeout="1h")
            ctx.step("slow", time.sleep, 3600, timeout="200ms")
    """)
    project.config('timeout_grace = "100ms"')
    victim = project.invoke("victim")
    project.drain()
    crash = crash_of(project.view(victim))
    assert 'step "slow" took longer than its timeout' in crash.cause
    assert crash.step == "slow"


def test_a_silent_runner_is_killed_where_its_task_says_so(project: Project) -> None:
    """C code that holds the interpreter, and a process that something has stopped."""
    project.tasks(
        """
        @app.task(hang_after="500ms", max_attempts=1)
        def holds(event, ctx):
            ctx.step("hold", sum, range(1 << 60))

        @app.task(hang_after="500ms", max_attempts=1)
        def stops(event, ctx):
            ctx.step("stop", os.kill, os.getpid(), signal.SIGSTOP)

        @app.task(hang_after="3s")
        def computes(event, ctx):
            until = time.monotonic() + 4
            while time.monotonic() < until:
                pass
            return "done"
        """
        + BYSTANDER
    )
    project.config("""
        heartbeat = "50ms"
        stop_grace = "200ms"
    """)
    holds, stops, computes = (project.invoke(name) for name in ("holds", "stops", "computes"))
    bystanders = project.invoke_many("bystander", [0, 1])
    project.drain(runners=4)
    crash = crash_of(project.view(holds))
    assert "it gave no sign of life for 500 ms" in crash.cause
    assert crash.step == "hold"
    assert "in holds" in crash.stacks
    crash = crash_of(project.view(stops))
    assert "it gave no sign of life for 500 ms (something has stopped it with SIGSTOP)" in crash.cause
    assert project.view(computes).result == "done"
    bystanders_notice_nothing(project, bystanders)


def test_a_supervisor_that_was_stopped_blames_nobody_for_its_own_absence(project: Project) -> None:
    """SIGSTOP for longer than ``hang_after``, then SIGCONT."""
    project.tasks("""
        @app.task(hang_after="1s")
        def patient(event, ctx):
            note("begun")
            wait_for("go")
            return "done"
    """)
    project.config('heartbeat = "100ms"')
    supervisor = project.start(runners=1)
    execution = project.invoke("patient")
    project.until_noted("begun")
    process = psutil.Process(supervisor.process.pid)
    supervisor.signal(signal.SIGSTOP)
    project.until(lambda: process.status() == psutil.STATUS_STOPPED, "the supervisor is stopped")
    silent_since = time.monotonic()
    project.until(lambda: time.monotonic() - silent_since > 2, "it has been away for twice the limit")
    supervisor.signal(signal.SIGCONT)
    project.let_go("go")
    view = project.until_state(execution, "completed")
    assert (view.attempt, view.result) == (0, "done")


def test_an_idle_runner_that_is_stopped_is_replaced(project: Project) -> None:
    """And nobody waits for it: work goes to others, or to the one in its place."""
    project.tasks("""
        @app.task
        def where(event, ctx):
            return os.getpid()
    """)
    supervisor = project.start(runners=1)
    first = project.until_state(project.invoke("where"), "completed").result
    assert isinstance(first, int)
    os.kill(first, signal.SIGSTOP)
    view = project.until_state(project.invoke("where"), "completed")
    assert view.result != first
    assert (view.attempt, len(view.attempts)) == (0, 1)
    assert "runs nothing: it is killed" in supervisor.output()
    assert not psutil.pid_exists(first)


def test_a_runner_that_grows_over_its_memory_is_killed(project: Project) -> None:
    """Children count too."""
    project.tasks(
        """
        def grow():
            kept = []
            while True:
                kept.append(bytearray(4 << 20))
                time.sleep(0.01)

        @app.task(memory="150MiB", max_attempts=1)
        def grows(event, ctx):
            ctx.step("grow", grow)

        @app.task(memory="150MiB", max_attempts=1)
        def breeds(event, ctx):
            import subprocess
            code = "kept = b'x' * (70 << 20); import time; time.sleep(3600)"
            several = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
            ctx.step("breed", several[0].wait)
        """
        + BYSTANDER
    )
    grows, breeds = project.invoke("grows"), project.invoke("breeds")
    bystanders = project.invoke_many("bystander", [0, 1])
    project.drain(runners=3)
    # The kernel's limit may be met first: a MemoryError ends the step, and then the attempt.
    for execution, steps in ((grows, {"grow", None}), (breeds, {"breed"})):
        view = project.view(execution)
        if view.attempts[0].outcome == "failed":
            assert view.error is not None
            assert view.error.type == "MemoryError"
        else:
            crash = crash_of(view)
            assert "over its memory of 150 MiB" in crash.cause
            assert crash.step in steps
    bystanders_notice_nothing(project, bystanders)


def test_one_huge_allocation_fails_inside_the_runner(project: Project) -> None:
    """It gets MemoryError and not the machine's memory; the next execution in that runner has no limit."""
    project.tasks("""
        @app.task(memory="200MiB", max_attempts=1)
        def huge(event, ctx):
            note(f"pid {os.getpid()}")
            bytearray(20 << 30)

        @app.task
        def free(event, ctx):
            return len(bytearray(300 << 20)), os.getpid()
    """)
    huge = project.invoke("huge")
    project.start(runners=1)
    view = project.until_state(huge, "failed")
    assert view.error is not None
    assert view.error.type == "MemoryError"
    free = project.until_state(project.invoke("free"), "completed")
    assert project.diary() == [f"pid {free.result[1]}"]  # type: ignore[index]


CGROUP = Path("/sys/fs/cgroup/memory")
"""Where the memory controller of cgroup v1 is; that of v2 has another layout."""


@pytest.mark.skipif(not os.access(CGROUP, os.W_OK), reason="needs a writable cgroup v1 memory controller")
def test_a_kill_by_the_kernel_for_want_of_memory_is_called_so(project: Project) -> None:
    """The group of the supervisor has 200 MiB here, and the task takes more."""
    project.tasks("""
        @app.task(max_attempts=1)
        def greedy(event, ctx):
            ctx.step("take", len, b"x" * (event.payload << 20))
    """)
    supervisor = project.start(runners=1)
    project.until(supervisor.runners, "a runner has been started")
    group = CGROUP / f"conductor-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(200 << 20))
        for process in (psutil.Process(supervisor.process.pid), *supervisor.family()):
            (group / "cgroup.procs").write_text(str(process.pid))
        execution = project.invoke("greedy", 600)
        view = project.until_state(execution, "failed")
        assert supervisor.stop() == 0
    finally:
        supervisor.kill()
        project.until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()
    assert "was killed by the kernel, which was out of memory" in crash_of(view).cause


def test_what_a_dead_runner_left_behind_is_ended(project: Project) -> None:
    """Also a grandchild that has left the group and whose own parent is gone."""
    project.tasks("""
        def daemon():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    Path("left").write_text(str(os.getpid()))
                    time.sleep(3600)
                os._exit(0)
            os.wait()

        @app.task(max_attempts=1)
        def leaves(event, ctx):
            daemon()
            wait_for("left")
            while not Path("left").read_text():
                time.sleep(0.01)
            if event.payload == "crash":
                ctypes.string_at(0)
    """)
    supervisor = project.start(runners=1)
    for payload in ("crash", None):
        execution = project.invoke("leaves", payload)
        project.until_state(execution, "failed", "completed")
        left = int((project.folder / "left").read_text())
        if payload is None:  # it ended well: what it has started may go on while its runner lives
            assert psutil.pid_exists(left)
            assert supervisor.stop() == 0
        project.until(lambda left=left: not psutil.pid_exists(left), "the process is ended")  # type: ignore[misc]
        (project.folder / "left").unlink()


def test_what_a_dead_supervisor_left_behind_is_ended_by_the_next(project: Project) -> None:
    """Its runners die with it; what they had started is found by its mark."""
    project.tasks("""
        @app.task(max_attempts=1)
        def leaves(event, ctx):
            import subprocess
            if ctx.attempt == 1 and not Path("left").exists():
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"],
                                         start_new_session=True)
                Path("left").write_text(str(child.pid))
                note("left")
                time.sleep(3600)
            return "done"
    """)
    execution = project.invoke("leaves")
    supervisor = project.start(runners=1)
    project.until_noted("left")
    left = int((project.folder / "left").read_text())
    supervisor.kill()
    assert psutil.pid_exists(left)
    project.drain()
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE
    assert project.view(execution).result == "done"


def test_being_asked_for_stacks_does_not_interrupt_what_a_task_waits_for(project: Project) -> None:
    """C code such as ``sleep`` would return early, and its caller might take that for the end."""
    project.tasks("""
        @app.task
        def waits(event, ctx):
            note(f"pid {os.getpid()}")
            return ctypes.CDLL(None).sleep(2)
    """)
    supervisor = project.start(runners=1)
    execution = project.invoke("waits")
    (line,) = project.until(project.diary, "the handler waits")
    os.kill(int(line.split()[1]), STACKS_SIGNAL)
    project.until(lambda: "in waits" in supervisor.output(), "its stacks are printed")
    view = project.until_state(execution, "completed")
    assert view.result == 0  # seconds left


def test_a_hang_after_below_the_heartbeat_does_not_kill_what_is_well(project: Project) -> None:
    """The runner is heard more often then."""
    project.tasks("""
        @app.task(hang_after="2s")
        def well(event, ctx):
            time.sleep(4)
            return "done"
    """)
    project.config('heartbeat = "1h"')
    execution = project.invoke("well")
    project.drain(runners=1)
    view = project.view(execution)
    assert (view.result, view.attempt) == ("done", 0)


def test_what_an_import_leaves_running_does_not_hold_up_the_start(project: Project) -> None:
    """Though it holds the output; it is ended when the import is over."""
    project.tasks("""
        import subprocess
        sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
        helper = subprocess.Popen(sleeper, start_new_session=True)
        note(f"helper {helper.pid}")

        @app.task
        def job(event, ctx):
            return "done"
    """)
    execution = project.invoke("job")
    project.drain(runners=1)
    assert project.view(execution).result == "done"
    helpers = [int(line.split()[1]) for line in project.diary()]
    assert len(helpers) == 2  # of the description, and of the runner
    for pid in helpers:
        project.until(lambda pid=pid: not psutil.pid_exists(pid), "the helper is ended")  # type: ignore[misc]
