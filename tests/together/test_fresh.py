"""A new process for each attempt, forked from a template that has imported the app."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from harness import Project, Supervisor, command

pytestmark = [
    pytest.mark.together,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux hands orphans to the supervisor"),
]

SEVERAL = """
import itertools
runs = itertools.count(1)

@app.task(isolation="fresh", retry=Retry(delays=[0]))
def count(event, ctx):
    return [os.getpid(), next(runs)]
"""


def children(supervisor: Supervisor) -> list[psutil.Process]:
    return psutil.Process(supervisor.process.pid).children(recursive=True)


def template(project: Project, supervisor: Supervisor) -> psutil.Process:
    """Wait until the template has forked a runner, which has its command line; return the older of them."""

    def found() -> psutil.Process | None:
        processes = [child for child in children(supervisor) if "template" in command(child)]
        return min(processes, key=lambda child: child.create_time()) if len(processes) > 1 else None

    process = project.until(found, "the template has forked a runner")
    assert process is not None
    return process


def runners(project: Project) -> list[dict[str, object]]:
    supervisor = project.json("status")["supervisor"]
    assert isinstance(supervisor, dict)
    return list(supervisor["runners"])


def test_each_attempt_has_a_process_of_its_own_in_the_state_after_the_import(project: Project) -> None:
    """Fifty of them, with the default handling of everything else."""
    project.tasks(SEVERAL)
    executions = project.invoke_many("count", [None] * 50)
    supervisor = project.drain()
    results = [project.view(execution).result for execution in executions]
    assert len({pid for pid, _ in results}) == 50  # type: ignore[misc, union-attr]
    assert {runs for _, runs in results} == {1}  # type: ignore[misc, union-attr]
    assert "started anew" not in supervisor.output()
    assert "WARNING" not in supervisor.output()


def test_an_attempt_after_a_failed_one_begins_anew_too(project: Project) -> None:
    """An attempt, not an execution, has a process of its own."""
    project.tasks("""
        seen = []

        @app.task(isolation="fresh", retry=Retry(delays=[0]))
        def fails_once(event, ctx):
            seen.append(os.getpid())
            note(json.dumps(seen))
            if ctx.attempt == 1:
                raise ValueError
    """)
    execution = project.invoke("fails-once")
    project.drain()
    assert project.view(execution).state == "completed"
    (first,), (second,) = map(json.loads, project.diary())
    assert first != second


def test_a_crash_costs_one_attempt_and_warm_runners_are_not_disturbed(project: Project) -> None:
    """The report is as exact as that of a runner that was started in the ordinary way."""
    project.tasks("""
        @app.task(isolation="fresh", max_attempts=2, retry=Retry(delays=[0]))
        def victim(event, ctx):
            ctx.step("before", note, "before")
            print("last words", file=sys.stderr, flush=True)
            ctx.step("resize-41", ctypes.string_at, 0)

        @app.task
        def warm(event, ctx):
            for n in range(20):
                ctx.step(f"step-{n}", note, f"{event.payload} {n}")
            return os.getpid()

        @app.task(isolation="fresh")
        def cold(event, ctx):
            return os.getpid()
    """)
    warm, cold = project.invoke_many("warm", [0, 1, 2, 3]), project.invoke_many("cold", [None] * 5)
    victim = project.invoke("victim")
    project.drain()
    view = project.view(victim)
    assert [(a.number, a.outcome) for a in view.attempts] == [(1, "crashed"), (2, "crashed")]
    for attempt in view.attempts:
        crash = attempt.crash
        assert crash is not None
        assert (crash.signal, crash.step) == ("SIGSEGV", "resize-41")
        assert "last words" in crash.stderr
        assert "Current thread" in crash.stacks or "Fatal Python error" in crash.stacks
        assert crash.peak_memory is not None
        assert crash.peak_memory > 1_000_000
    assert project.diary().count("before") == 1
    for execution in warm + cold:
        bystander = project.view(execution)
        assert (bystander.state, bystander.attempt, len(bystander.attempts)) == ("completed", 0, 1)
    assert len({project.view(execution).result for execution in warm}) <= 2


def test_async_handlers_steps_and_lifespan_work_in_a_forked_runner(project: Project) -> None:
    """What is shared is made in each runner after the fork, and taken down before it ends."""
    project.tasks("""
        import atexit
        atexit.register(lambda: note(f"atexit {os.getpid()}"))

        @app.lifespan
        async def shared():
            note(f"up {os.getpid()}")
            yield os.getpid()
            note(f"down {os.getpid()}")

        async def value():
            await asyncio.sleep(0)
            return os.getpid()

        @app.task(isolation="fresh")
        async def ask(event, ctx):
            return [await ctx.step("value", value), ctx.state, os.getpid()]
    """)
    executions = project.invoke_many("ask", [None] * 3)
    project.drain(runners=1)
    pids = []
    for execution in executions:
        made, shared, here = project.view(execution).result  # type: ignore[misc]
        assert made == shared == here
        pids.append(here)
    diary = project.diary()
    for pid in pids:
        life = [line for line in diary if line.endswith(f" {pid}")]
        assert life == [f"up {pid}", f"down {pid}", f"atexit {pid}"]


def test_a_fresh_runner_is_stopped_by_timeout_and_by_cancellation(project: Project) -> None:
    """Charged, and not charged, as everywhere."""
    project.tasks("""
        @app.task(isolation="fresh", timeout=0.3, max_attempts=1)
        def slow(event, ctx):
            while True:
                pass

        @app.task(isolation="fresh")
        def waits(event, ctx):
            note("waits")
            while True:
                ctx.checkpoint()
                time.sleep(0.01)
    """)
    slow, waits = project.invoke("slow"), project.invoke("waits")
    supervisor = project.start()
    project.until_noted("waits")
    assert project.command("cancel", waits).returncode == 0
    assert project.until_state(waits, "cancelled").attempt == 0
    view = project.until_state(slow, "failed")
    assert view.attempts[0].crash is not None
    assert "over its timeout of 300 ms" in view.attempts[0].crash.cause
    assert supervisor.stop() == 0


def test_a_spare_runner_waits_and_normal_ends_are_no_restarts(project: Project) -> None:
    """``status`` shows a process that is ready, and counts deaths only."""
    project.tasks(
        SEVERAL
        + """
@app.task(isolation="fresh", max_attempts=1)
def dies(event, ctx):
    os._exit(0)
"""
    )
    supervisor = project.start(runners=1)
    for execution in project.invoke_many("count", [None] * 5):
        project.until_state(execution, "completed")
    ready = project.until(
        lambda: [r for r in runners(project) if (r["isolation"], r["state"]) == ("fresh", "idle")], "a spare"
    )
    assert (ready[0]["restarts"], ready[0]["note"]) == (0, "")
    project.until_state(project.invoke("dies"), "failed")
    project.until(lambda: [r for r in runners(project) if r["restarts"] == 1], "the death is counted")
    assert supervisor.stop() == 0


def test_after_sigterm_no_process_is_left(project: Project) -> None:
    """Template, spare runners and those at work end with the supervisor; the execution goes back."""
    project.tasks("""
        @app.task(isolation="fresh")
        def waits(event, ctx):
            note("waits")
            while True:
                ctx.checkpoint()
                time.sleep(0.01)
    """)
    execution = project.invoke("waits")
    supervisor = project.start(runners=2)
    project.until_noted("waits")
    template(project, supervisor)
    family = children(supervisor)
    assert supervisor.stop() == 0
    assert [process for process in family if process.is_running()] == []
    view = project.view(execution)
    assert (view.state, view.attempt) == ("ready", 0)


def test_all_die_with_a_supervisor_that_is_killed(project: Project) -> None:
    """Also those whose parent the supervisor is only by adoption."""
    project.tasks("""
        @app.task(isolation="fresh")
        def busy(event, ctx):
            note("busy")
            while True:
                pass
    """)
    project.invoke("busy")
    supervisor = project.start(runners=2)
    project.until_noted("busy")
    template(project, supervisor)
    family = children(supervisor)
    supervisor.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_work_goes_on_when_the_template_is_lost(project: Project, how: signal.Signals) -> None:
    """It is replaced; what runs, runs on; nothing is charged."""
    project.tasks("""
        @app.task(isolation="fresh")
        def short(event, ctx):
            note("short")
            return os.getpid()

        @app.task(isolation="fresh")
        def long(event, ctx):
            note("long")
            wait_for("end")
            return os.getpid()
    """)
    long = project.invoke("long")
    supervisor = project.start(runners=2)
    project.until_noted("long")
    before = project.invoke_many("short", [None] * 3)
    for execution in before:
        project.until_state(execution, "completed")
    lost = template(project, supervisor)
    os.kill(lost.pid, how)
    executions = project.invoke_many("short", [None] * 20)
    for execution in executions:
        project.until_state(execution, "completed")
    project.until(lambda: "the template of fresh runners" in supervisor.output(), "it is said")
    project.until(lambda: not lost.is_running(), "it is reaped")
    project.let_go("end")
    project.until_state(long, "completed")
    views = [project.view(execution) for execution in [long, *before, *executions]]
    assert {(view.state, view.attempt, len(view.attempts)) for view in views} == {("completed", 0, 1)}
    assert len({view.result for view in views}) == 24
    assert template(project, supervisor).pid != lost.pid
    assert supervisor.stop() == 0
    said = "did not answer within 5.0 s" if how is signal.SIGSTOP else f"died of {how.name}"
    assert f"the template of fresh runners {said}" in supervisor.output()


def test_a_runner_that_does_not_end_after_its_execution_is_ended(project: Project) -> None:
    """Taking down what is shared may last as long as at a shutdown, and is not charged."""
    project.tasks("""
        @app.lifespan
        def shared():
            yield
            time.sleep(3600)

        @app.task(isolation="fresh")
        def quick(event, ctx):
            return os.getpid()
    """)
    executions = project.invoke_many("quick", [None] * 2)
    supervisor = project.start("--shutdown-grace", "0.3", runners=1)
    views = [project.until_state(execution, "completed") for execution in executions]
    assert [(view.attempt, len(view.attempts)) for view in views] == [(0, 1)] * 2
    assert views[0].result != views[1].result
    assert supervisor.stop() == 0


def test_runners_that_die_as_they_are_forked_are_retried_ever_more_seldom(project: Project) -> None:
    """Whether the supervisor hears first of the birth or of the death; ``status`` shows the reason."""
    project.tasks("""
        os.register_at_fork(after_in_child=lambda: os._exit(7))

        @app.task(isolation="fresh")
        def never(event, ctx):
            pass

        @app.task
        def warm(event, ctx):
            pass
    """)
    never = project.invoke("never")
    supervisor = project.start()
    project.until_state(project.invoke("warm"), "completed")
    why = "exited with status 7 before it was ready"
    seldom = f"{why}; next try in 1.0 s"
    project.until(lambda: seldom in supervisor.output(), "one has been tried several times")
    assert {r["note"] for r in runners(project) if r["isolation"] == "fresh"} == {why}
    assert supervisor.stop() == 0
    assert project.view(never).state == "ready"
    assert supervisor.output().count(seldom) <= 4


def test_threads_at_import_are_no_obstacle_but_are_said(project: Project) -> None:
    """Once in the log, and in ``status``; each attempt has its own process all the same."""
    project.tasks(
        SEVERAL
        + """
threading.Thread(target=threading.Event().wait, name="ticker", daemon=True).start()
"""
    )
    executions = project.invoke_many("count", [None] * 5)
    supervisor = project.start(runners=1)
    results = [project.until_state(execution, "completed").result for execution in executions]
    assert len({pid for pid, _ in results}) == 5  # type: ignore[misc, union-attr]
    assert {runs for _, runs in results} == {1}  # type: ignore[misc, union-attr]
    why = "the import of the app started threads: ticker"
    project.until(
        lambda: [
            r for r in runners(project) if r["isolation"] == "fresh" and r["note"] == f"not forked: {why}"
        ],
        "a note",
    )
    assert supervisor.stop() == 0
    assert supervisor.output().count(why) == 1


def test_a_handler_that_leaves_a_thread_or_a_process_does_not_keep_its_runner(project: Project) -> None:
    """A thread that never ends is given a moment; a process of its group is ended."""
    project.tasks("""
        import subprocess

        @app.task(isolation="fresh")
        def leaves(event, ctx):
            threading.Thread(target=threading.Event().wait).start()
            child = subprocess.Popen(["sleep", "3600"])
            return [os.getpid(), child.pid]
    """)
    executions = project.invoke_many("leaves", [None] * 2)
    project.drain(runners=1)
    for execution in executions:
        view = project.view(execution)
        assert (view.state, len(view.attempts)) == ("completed", 1)
        assert not any(map(psutil.pid_exists, view.result))  # type: ignore[arg-type]


def test_what_a_fresh_runner_has_forked_ends_with_it(project: Project) -> None:
    """Also in a session of its own; that of one that still runs goes on."""
    project.tasks("""
        @app.task(isolation="fresh", max_attempts=1)
        def leaves(event, ctx):
            if os.fork() == 0:
                os.setsid()
                Path(f"left-{event.payload}").write_text(str(os.getpid()))
                time.sleep(3600)
            wait_for(f"left-{event.payload}")
            note(event.payload)
            wait_for(f"go-{event.payload}")
            os._exit(1)
    """)
    supervisor = project.start(runners=2)
    executions = project.invoke_many("leaves", ["a", "b"])
    project.until_noted("a")
    project.until_noted("b")
    left = {name: int((project.folder / f"left-{name}").read_text()) for name in "ab"}
    project.let_go("go-a")
    project.until_state(executions[0], "failed")
    project.until(lambda: not psutil.pid_exists(left["a"]), "what the dead one left is ended")
    assert psutil.pid_exists(left["b"])
    project.let_go("go-b")
    project.until_state(executions[1], "failed")
    project.until(lambda: not psutil.pid_exists(left["b"]), "and so is the other's")
    assert supervisor.stop() == 0


def test_every_line_of_a_fresh_execution_is_in_its_logs(project: Project) -> None:
    """Marked in the forked process as in any other."""
    project.tasks("""
        @app.task(isolation="fresh")
        def says(event, ctx):
            print("begin", event.payload)
            ctx.step("one", int)
            print("end", event.payload)
    """)
    executions = project.invoke_many("says", list(range(5)))
    project.drain()
    for number, execution in enumerate(executions):
        lines = json.loads(project.command("logs", execution, "--json").stdout)
        assert [line["text"] for line in lines] == [f"begin {number}", f"end {number}"]
