"""What user code leaves behind costs its runner, and nobody else: a worn runner is recycled."""

from __future__ import annotations

import textwrap

import pytest

from conductor_protocol.operations import ExecutionView
from harness import Project

pytestmark = pytest.mark.together

BYSTANDER = """
    @app.task
    def bystander(event, ctx):
        for n in range(10):
            ctx.step(f"step-{n}", note, f"{event.payload} {n}")
            time.sleep(0.01)
"""


def with_bystanders(project: Project, source: str) -> None:
    """Write tasks.py with a task for bystanders."""
    project.tasks(textwrap.dedent(source) + textwrap.dedent(BYSTANDER))


def check_bystanders(project: Project, bystanders: list[str]) -> None:
    """They lost nothing, repeated no step, and were charged nothing."""
    for execution in bystanders:
        view = project.view(execution)
        assert (view.state, view.attempt, len(view.attempts)) == ("completed", 0, 1)
    noted = sorted(line for line in project.diary() if line[0].isdigit())
    assert noted == sorted(f"{b} {n}" for b in range(len(bystanders)) for n in range(10))


def runners(project: Project) -> list[dict[str, object]]:
    """Return what ``status`` tells of the runners."""
    supervisor = project.json("status")["supervisor"]
    assert isinstance(supervisor, dict)
    found = supervisor["runners"]
    assert isinstance(found, list)
    return found


def crash_of(view: ExecutionView) -> str:
    """Return the cause of the crash of the only attempt, which was charged."""
    assert (view.state, view.attempt, len(view.attempts)) == ("failed", 1, 1)
    crash = view.attempts[0].crash
    assert crash is not None
    return crash.cause


def test_a_runner_with_a_closed_stdout_is_recycled(project: Project) -> None:
    """At once, with one line that names the task; it counts as a restart and not as a failure."""
    with_bystanders(
        project,
        """
        @app.task
        def closes(event, ctx):
            os.close(1)
            return os.getpid()

        @app.task
        def prints(event, ctx):
            print("here I am")
            return os.getpid()
        """,
    )
    closes = project.invoke("closes")
    bystanders = project.invoke_many("bystander", [0, 1, 2])
    supervisor = project.start(runners=1)
    worn = project.until_state(closes, "completed")
    assert worn.attempt == 0
    for execution in bystanders:
        project.until_state(execution, "completed")
    prints = project.until_state(project.invoke("prints"), "completed")
    assert prints.result != worn.result
    check_bystanders(project, bystanders)
    assert [runner["restarts"] for runner in runners(project)] == [1]
    assert supervisor.stop() == 0
    output = supervisor.output()
    assert output.count("runner 1 is recycled: its stdout was closed by task closes") == 1
    assert "here I am" in output
    assert "WARNING" not in output


def test_short_executions_behind_a_worn_one_run_elsewhere(project: Project) -> None:
    """Each runs once, whatever was in the hands of the worn runner."""
    project.config("recycle_executions = 7\n")
    project.tasks("""
        @app.task
        def short(event, ctx):
            note(f"{event.payload} {os.getpid()}")
            return event.payload
    """)
    executions = project.invoke_many("short", list(range(100)))
    supervisor = project.drain()
    views = [project.view(e) for e in executions]
    assert [(v.state, v.attempt, len(v.attempts), v.result) for v in views] == [
        ("completed", 0, 1, n) for n in range(100)
    ]
    ran = [line.split() for line in project.diary()]
    assert sorted(int(number) for number, _ in ran) == list(range(100))
    by_process = [sum(pid == other for _, other in ran) for pid in {pid for _, pid in ran}]
    assert max(by_process) == 7
    assert "recycled: it has run 7 executions (recycle_executions)" in supervisor.output()


def test_after_a_leak_the_next_execution_runs_in_a_new_process(project: Project) -> None:
    """The lifespan is torn down and set up again."""
    project.config('recycle_memory = "200MiB"\n')
    project.tasks("""
        @app.lifespan
        def resources():
            note("set up")
            yield []
            note("torn down")

        @app.task
        def leaks(event, ctx):
            ctx.state.append(b"x" * 500 * 1024**2)
            return os.getpid()

        @app.task
        def modest(event, ctx):
            return [os.getpid(), len(ctx.state)]
    """)
    leaks = project.invoke("leaks")
    modest = project.invoke_many("modest", [None] * 2)
    supervisor = project.drain(runners=1)
    assert [project.view(e).result[1] for e in modest] == [0, 0]  # type: ignore[index]
    assert {project.view(e).result[0] for e in modest} != {project.view(leaks).result}  # type: ignore[index]
    assert "more than 200 MiB (recycle_memory)" in supervisor.output()
    assert sorted(project.diary()) == ["set up", "set up", "torn down", "torn down"]


def test_a_runner_that_cannot_end_is_killed(project: Project) -> None:
    """C code that holds the GIL at exit stops every timer of the runner's own."""
    project.config('end_grace = "0.1s"\n')
    project.tasks("""
        import atexit

        @app.task
        def stubborn(event, ctx):
            atexit.register(ctypes.PyDLL(None).sleep, 3600)
            return "done"
    """)
    stubborn = project.invoke("stubborn")
    supervisor = project.drain(runners=1)
    assert project.view(stubborn).result == "done"
    assert "runner 1 had nothing in hand and has not ended within 100 ms; it is killed" in supervisor.output()


@pytest.mark.parametrize(("status", "words"), [(0, "exited with status 0"), (3, "exited with status 3")])
def test_an_exit_without_a_word_is_a_crash(project: Project, status: int, words: str) -> None:
    """Also with the status of success: the handler has not returned."""
    with_bystanders(
        project,
        f"""
        @app.task(max_attempts=1)
        def exits(event, ctx):
            ctx.step("leaving", os._exit, {status})
        """,
    )
    bystanders = project.invoke_many("bystander", [0, 1, 2])
    exits = project.invoke("exits")
    project.drain()
    assert f'{words} in step "leaving"' in crash_of(project.view(exits))
    check_bystanders(project, bystanders)


@pytest.mark.parametrize("raised", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_what_ends_a_program_elsewhere_is_an_ordinary_failure_here(project: Project, raised: str) -> None:
    """The runner lives on."""
    project.tasks(f"""
        @app.task(max_attempts=1)
        def leaves(event, ctx):
            note(f"pid {{os.getpid()}}")
            raise {raised}

        @app.task
        def stays(event, ctx):
            note(f"pid {{os.getpid()}}")
    """)
    leaves = project.invoke("leaves")
    supervisor = project.start(runners=1)
    view = project.until_state(leaves, "failed")
    assert (view.attempts[0].outcome, view.attempts[0].crash) == ("failed", None)
    project.until_state(project.invoke("stays"), "completed")
    assert len(set(project.diary())) == 1
    assert supervisor.stop() == 0


# Abuse: the supervisor survives, blames the execution, replaces the runner

ABUSE = {
    "all descriptors closed": "os.closerange(3, 4096); time.sleep(3600)",
    "a recorder cut off": "os.truncate(recorder(), 0); ctx.step('one', note, 'never')",
    "a recorder gone": "path = recorder(); os.unlink(path); os.mkdir(path); os._exit(1)",
    "a recorder of noise": "page()[:] = os.urandom(65536); os._exit(1)",
    "a recorder that names another": "forge(); os._exit(1)",
}


@pytest.mark.parametrize("what", ABUSE)
def test_the_supervisor_survives_what_is_done_to_its_runner(project: Project, what: str) -> None:
    """The execution that did it is blamed, once; status goes on telling of the others."""
    with_bystanders(
        project,
        f"""
        import gc, mmap

        def page():
            return next(thing for thing in gc.get_objects() if isinstance(thing, mmap.mmap))

        def recorder():
            for line in Path("/proc/self/maps").read_text().splitlines():
                if "/runner-" in line:
                    return line.split(None, 5)[5]

        def forge():
            from conductor_protocol.recorder import Recorder
            mine = next(thing for thing in gc.get_objects() if isinstance(thing, Recorder))
            mine.begin("0" * 36, 1)
            mine.begin_step("somebody else's")

        @app.task(max_attempts=1)
        def victim(event, ctx):
            note("begun")
            wait_for("go")
            {ABUSE[what]}
        """,
    )
    victim = project.invoke("victim")
    supervisor = project.start(runners=2)
    project.until_noted("begun")
    bystanders = project.invoke_many("bystander", [0, 1, 2])
    project.let_go("go")
    while project.view(victim).state == "running":
        assert len(runners(project)) == 2
    assert crash_of(project.view(victim))
    for execution in bystanders:
        project.until_state(execution, "completed")
    check_bystanders(project, bystanders)
    assert "never" not in project.diary()
    assert supervisor.stop() == 0


def test_a_forked_process_that_leaves_the_handler_disturbs_nobody(project: Project) -> None:
    """Nor one that uses ctx."""
    with_bystanders(
        project,
        """
        @app.task
        def forks(event, ctx):
            if os.fork() == 0 and event.payload == "uses ctx":
                ctx.step("child", note, "child")
            os.wait()
            return ctx.step("parent", os.getpid)
        """,
    )
    forks = project.invoke_many("forks", ["uses ctx", "leaves"] * 3)
    bystanders = project.invoke_many("bystander", [0, 1, 2])
    supervisor = project.drain()
    for execution in forks:
        view = project.view(execution)
        assert (view.state, view.attempt, [s.name for s in view.steps]) == ("completed", 0, ["parent"])
    check_bystanders(project, bystanders)
    assert "child" not in project.diary()
    assert supervisor.output().count("this is a process that the handler forked") == 3
