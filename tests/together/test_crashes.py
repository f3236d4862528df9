"""A crash costs one attempt of one execution, and whoever looks afterwards knows what happened."""

from __future__ import annotations

import os
import signal

import pytest

from harness import Project

pytestmark = pytest.mark.together

DEATHS = {
    "SIGSEGV": "ctypes.string_at(0)",
    "SIGBUS": "os.kill(os.getpid(), signal.SIGBUS)",
    "SIGFPE": "os.kill(os.getpid(), signal.SIGFPE)",
    "SIGILL": "os.kill(os.getpid(), signal.SIGILL)",
    "SIGABRT": "os.abort()",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit 7": "os._exit(7)",
    "exit 0": "os._exit(0)",
    "SIGSEGV of a C stack that is full": "overflow()",
    "SIGABRT of a fatal error": "ctypes.pythonapi.Py_FatalError(b'as asked')",
}
"""By its signal or status: how a process is made to die."""


@pytest.mark.parametrize("death", DEATHS)
def test_a_dead_runner_is_blamed_by_name_and_nobody_else_notices(project: Project, death: str) -> None:
    """The report names signal, step and last output; bystanders are charged nothing."""
    project.tasks(f"""
        def overflow():
            sys.setrecursionlimit(1 << 30)
            nested = []
            for _ in range(500_000):
                nested = [nested]
            repr(nested)

        def die():
            print("last words", file=sys.stderr, flush=True)
            {DEATHS[death]}

        @app.task(max_attempts=2, retry=Retry(delays=[0]))
        def victim(event, ctx):
            ctx.step("before", note, "before")
            ctx.step("resize-41", die)

        @app.task
        def bystander(event, ctx):
            for n in range(20):
                ctx.step(f"step-{{n}}", note, f"{{event.payload}} {{n}}")
                time.sleep(0.01)
    """)
    bystanders = project.invoke_many("bystander", [0, 1, 2, 3])
    victim = project.invoke("victim")
    project.drain()

    view = project.view(victim)
    assert view.state == "failed"
    assert [(a.number, a.outcome) for a in view.attempts] == [(1, "crashed"), (2, "crashed")]
    for attempt in view.attempts:
        crash = attempt.crash
        assert crash is not None
        assert crash.step == "resize-41"
        assert 'in step "resize-41"' in crash.cause
        assert "last words" in crash.stderr
        how = death.split()
        if how[0] == "exit":
            assert (crash.signal, crash.exit_code) == (None, int(how[1]))
            assert f"exited with status {how[1]}" in crash.cause
        else:
            assert (crash.signal, crash.exit_code) == (how[0], None)
            assert f"died of {how[0]}" in crash.cause
    assert project.diary().count("before") == 1
    for execution in bystanders:
        bystander = project.view(execution)
        assert (bystander.state, bystander.attempt, len(bystander.attempts)) == ("completed", 0, 1)
    assert sorted(project.diary()) == sorted(["before", *(f"{b} {n}" for b in range(4) for n in range(20))])


def test_short_executions_handed_out_together_are_blamed_exactly(project: Project) -> None:
    """One poison among two hundred: the ones before it are done, those after it run elsewhere."""
    project.tasks("""
        @app.task(max_attempts=1)
        def maybe(event, ctx):
            note(str(event.payload))
            if event.payload == 120:
                ctypes.string_at(0)
            return event.payload
    """)
    executions = project.invoke_many("maybe", list(range(200)))
    project.drain()
    views = {e: project.view(e) for e in executions}
    failed = [v.payload for v in views.values() if v.state == "failed"]
    assert failed == [120]
    assert all(v.attempt == 0 and v.result == v.payload for v in views.values() if v.payload != 120)
    assert sorted(project.diary(), key=int) == [str(n) for n in range(200)]


def test_what_has_ended_does_not_wait_for_c_code_that_holds_the_interpreter(project: Project) -> None:
    """Reports of short executions travel together; the next may let no thread of its runner send them."""
    project.tasks("""
        @app.task
        def quick(event, ctx):
            if event.payload == "hold":
                note("holds")
                ctypes.PyDLL(None).open(b"gate", os.O_RDONLY)  # until somebody opens its other end
    """)
    os.mkfifo(project.folder / "gate")
    supervisor = project.start(runners=1)
    for one in project.invoke_many("quick", list(range(300))):
        project.until_state(one, "completed")
    *before, hold, after = project.invoke_many("quick", [0, 1, 2, "hold", 4])
    project.until_noted("holds")
    for one in before:
        project.until_state(one, "completed")
    assert project.view(hold).state == "running"
    with (project.folder / "gate").open("w"):
        for one in (hold, after):
            project.until_state(one, "completed")
    assert supervisor.stop() == 0
    assert "not in its hands" not in supervisor.output()


def test_a_runner_killed_from_outside_is_noticed_at_once_and_replaced(project: Project) -> None:
    """Not by polling, and not by a heartbeat that stays out: the kernel tells."""
    project.tasks("""
        @app.task(retry=Retry(delays=[0]))
        def stubborn(event, ctx):
            note(f"pid {os.getpid()}")
            if ctx.attempt == 1:
                time.sleep(3600)
            return "done"
    """)
    supervisor = project.start(runners=1)
    execution = project.invoke("stubborn")
    (line,) = project.until(project.diary, "the handler runs")
    pid = int(line.split()[1])
    import os

    os.kill(pid, signal.SIGKILL)
    view = project.until_state(execution, "completed")
    assert view.attempts[0].crash is not None
    assert view.attempts[0].crash.signal == "SIGKILL"
    assert supervisor.stop() == 0


def test_what_a_dead_runner_started_dies_with_it(project: Project) -> None:
    """A grandchild is in the runner's process group."""
    project.tasks("""
        import subprocess

        @app.task(max_attempts=1)
        def parent(event, ctx):
            child = subprocess.Popen(["sleep", "3600"])
            note(f"grandchild {child.pid}")
            os._exit(1)
    """)
    project.invoke("parent")
    project.drain()
    import psutil

    pid = int(project.diary()[0].split()[1])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_runners_die_with_a_supervisor_that_is_killed(project: Project) -> None:
    """And the next start returns what they ran, uncharged."""
    project.tasks("""
        @app.task
        def busy(event, ctx):
            note(f"pid {os.getpid()}")
            if not Path("second").exists():
                time.sleep(3600)
            return ctx.attempt
    """)
    supervisor = project.start(runners=1)
    execution = project.invoke("busy")
    (line,) = project.until(project.diary, "the handler runs")
    supervisor.kill()
    import psutil

    pid = int(line.split()[1])
    project.until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        "the runner died too",
    )
    project.let_go("second")
    project.drain()
    view = project.view(execution)
    assert (view.state, view.attempt, view.result) == ("completed", 0, 1)
    assert [a.outcome for a in view.attempts] == ["lost", "completed"]


def test_an_execution_running_at_three_supervisor_deaths_in_a_row_is_charged(project: Project) -> None:
    """It cannot take a machine down for ever."""
    project.tasks("""
        @app.task(max_attempts=1)
        def deadly(event, ctx):
            note("again")
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(3600)
    """)
    execution = project.invoke("deadly")
    for _ in range(3):
        assert project.start(runners=1).wait() == -signal.SIGKILL
    project.drain(runners=1)
    view = project.view(execution)
    assert (view.state, view.attempt) == ("failed", 1)
    assert project.diary() == ["again"] * 3


def test_an_app_that_segfaults_at_import_is_a_clear_error(project: Project) -> None:
    """Exit status 1 and one message, not a dead supervisor and no loop of restarts."""
    project.tasks("ctypes.string_at(0)")
    supervisor = project.start()
    assert supervisor.wait() == 1
    assert "SIGSEGV while it was imported" in supervisor.output()


def test_a_handler_over_its_timeout_is_stopped_and_charged(project: Project) -> None:
    """Also one that never asks."""
    project.tasks("""
        @app.task(timeout=0.3, max_attempts=1)
        def slow(event, ctx):
            while True:
                pass
    """)
    execution = project.invoke("slow")
    project.drain()
    view = project.view(execution)
    assert view.state == "failed"
    assert view.attempts[0].crash is not None
    assert "over its timeout of 300 ms" in view.attempts[0].crash.cause


ORDINARY = {
    "SystemExit": "sys.exit(3)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "RecursionError": "forever = lambda: forever(); forever()",
}


@pytest.mark.parametrize("error", ORDINARY)
def test_an_exception_of_any_kind_is_an_ordinary_failure(project: Project, error: str) -> None:
    """The runner lives on: the next execution runs in the same process."""
    project.tasks(f"""
        @app.task(max_attempts=1)
        def victim(event, ctx):
            note(str(os.getpid()))
            {ORDINARY[error]}

        @app.task
        def after(event, ctx):
            return str(os.getpid())
    """)
    project.start(runners=1)
    view = project.until_state(project.invoke("victim"), "failed")
    assert view.error is not None
    assert view.error.type == error
    assert [a.outcome for a in view.attempts] == ["failed"]
    after = project.until_state(project.invoke("after"), "completed")
    assert project.diary() == [after.result]


MOMENTS = {
    "while the result is being sent": """
        def dies(self, parcel):
            kept = keep(self, parcel)
            os.kill(os.getpid(), signal.SIGKILL)
        keep, Recorder.keep = Recorder.keep, dies
        """,
    "after the last step, before the end is reported": """
        def dies(self, report):
            os.kill(os.getpid(), signal.SIGKILL)
        DataLink.report = dies
        """,
    "between two executions": """
        def dies(self):
            idle(self)
            os.kill(os.getpid(), signal.SIGKILL)
        idle, Recorder.idle = Recorder.idle, dies
        """,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_death_around_the_end_of_an_execution_is_blamed_exactly(project: Project, moment: str) -> None:
    """What was handed over counts, what was not is charged; no acknowledged step runs again."""
    project.tasks(
        """
        from conductor.child.link import DataLink
        from conductor_protocol.recorder import Recorder

        def set_the_trap():"""
        + MOMENTS[moment].replace("\n", "\n    ")
        + """
            return None

        @app.task(max_attempts=2, retry=Retry(delays=[0]))
        def victim(event, ctx):
            ctx.step("one", note, "one")
            ctx.step("two", note, "two")
            if ctx.attempt == 1 and not Path("sprung").exists():
                Path("sprung").touch()
                set_the_trap()
            return "done"

        @app.task
        def bystander(event, ctx):
            return event.payload
    """
    )
    victim = project.invoke("victim")
    bystanders = project.invoke_many("bystander", list(range(20)))
    project.drain(runners=1)
    view = project.view(victim)
    assert (view.state, view.result) == ("completed", "done")
    charged = {"after the last step, before the end is reported": 1}.get(moment, 0)
    assert view.attempt == charged
    assert [a.outcome for a in view.attempts] == ["crashed"] * charged + ["completed"]
    assert project.diary() == ["one", "two"]
    views = [project.view(b) for b in bystanders]
    assert [(v.state, v.attempt, v.result) for v in views] == [("completed", 0, n) for n in range(20)]


def test_a_task_that_always_kills_its_runner_ends_as_failed_with_every_report(project: Project) -> None:
    """The rest of the machine's work goes on."""
    project.tasks("""
        @app.task(max_attempts=5, retry=Retry(delays=[0]))
        def poison(event, ctx):
            os._exit(ctx.attempt)

        @app.task
        def bystander(event, ctx):
            return event.payload
    """)
    poison = project.invoke("poison")
    bystanders = project.invoke_many("bystander", list(range(50)))
    project.drain(runners=1)
    view = project.view(poison)
    assert (view.state, view.attempt) == ("failed", 5)
    assert [a.crash and a.crash.exit_code for a in view.attempts] == [1, 2, 3, 4, 5]
    assert [project.view(b).result for b in bystanders] == list(range(50))


def test_runners_that_die_before_they_are_ready_are_started_again_later_and_later(project: Project) -> None:
    """The reason is in ``status``; once the app imports again, work goes on."""
    project.tasks("""
        if Path("broken").exists() and os.environ.get("CONDUCTOR_RUNNER"):
            print("no licence found", file=sys.stderr)
            os._exit(9)

        @app.task
        def job(event, ctx):
            return "done"
    """)
    project.let_go("broken")
    supervisor = project.start(runners=1)
    execution = project.invoke("job")
    project.until(lambda: "next try in 1.0 s" in supervisor.output(), "the delays grow")
    (runner,) = project.json("status")["supervisor"]["runners"]  # type: ignore[misc,call-overload,index]
    assert runner["state"] in ("waiting", "starting")
    assert "exited with status 9 before it was ready: no licence found" in runner["note"]
    (project.folder / "broken").unlink()
    assert project.until_state(execution, "completed").attempt == 0
    assert supervisor.stop() == 0


def test_a_drain_gives_up_when_no_runner_can_become_ready(project: Project) -> None:
    """With status 1 and the reason; what is due stays so."""
    project.tasks("""
        @app.lifespan
        def pool():
            raise RuntimeError("no pool")
            yield

        @app.task
        def job(event, ctx):
            return "done"
    """)
    execution = project.invoke("job")
    supervisor = project.start("--drain", runners=2)
    assert supervisor.wait() == 1
    last = supervisor.output().splitlines()[-1]
    assert "no runner could become ready, so nothing was run: exited with status 1" in last
    assert f"RuntimeError: no pool ({project.folder / 'tasks.py'}:" in last
    assert project.view(execution).state == "ready"
