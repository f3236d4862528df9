"""``replay``: a handler runs again in the foreground, its recorded steps answered, nothing written."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from harness import PATIENCE, Project

pytestmark = pytest.mark.together

TASKS = """
@app.lifespan
def resources():
    note("up")
    yield "a resource"
    note("down")

def work(name):
    note(name)
    return name.upper()

@app.task(max_attempts=1)
def shop(event, ctx):
    done = [ctx.step("one", work, "one"), ctx.step("two", work, "two")]
    ctx.checkpoint()
    if event.payload == "fail":
        too_wide = 4711
        raise ValueError(f"too wide: {too_wide}")
    print("printed by the handler")
    return [done, ctx.state, ctx.attempt, event.name, event.scheduled_for and event.scheduled_for.hour]

@app.task(max_attempts=2, retry=Retry([0]))
def fall(event, ctx):
    ctx.step("good", work, "good")
    ctx.step("bad", ctypes.string_at, 0)

@app.task(max_attempts=1)
async def gather(event, ctx):
    async def half(name):
        note(name)
        await asyncio.sleep(0)
        return len(name)
    halves = await asyncio.gather(ctx.step("left", half, "left"), ctx.step("right", half, "right"))
    if event.payload == "fail":
        raise LookupError(f"halves: {halves}")
    return sum(halves)

@app.task(max_attempts=1)
def ask(event, ctx):
    before = app.get(ctx.execution_id).state
    if event.payload == "write":
        app.invoke("shop")
    if event.payload == "lend":
        import sqlite3
        from contextlib import closing
        with closing(sqlite3.connect("conductor.db")) as connection, connection:
            app.invoke("shop", connection=connection)
    return before
"""


class Replays:
    """A project in which tasks have run, and ``replay`` in it."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``replay`` as a user would, its output piped, and these lines on its stdin."""
        return subprocess.run(
            [sys.executable, "-m", "conductor_supervisor", "replay", *arguments],
            cwd=self.project.folder,
            env=self.project.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def run(self, *arguments: str, status: int = 0, app: str = "tasks:app", stdin: str = "") -> str:
        """Replay; it must end with this status. Return what it prints to stdout."""
        done = self.command(*arguments, "--app", app, stdin=stdin)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Replay with ``--json``; return what it prints."""
        return json.loads(self.run(*arguments, "--json", status=status))

    def error(self, *arguments: str, status: int, app: str = "tasks:app") -> str:
        """Replay, which must fail so and answer nothing; return what it says, on one line."""
        done = self.command(*arguments, "--app", app)
        assert (done.returncode, done.stdout) == (status, ""), f"{done.stdout}\n{done.stderr}"
        return " ".join(done.stderr.split())

    def new_in_diary(self, *arguments: str, **options: Any) -> list[str]:
        """Replay; return what tasks noted meanwhile."""
        before = len(self.project.diary())
        self.run(*arguments, **options)
        return self.project.diary()[before:]

    def ran(self, task: str, payload: object = None) -> str:
        """Invoke a task and run what is due; return the execution's id."""
        execution = self.project.invoke(task, payload)
        self.project.drain(runners=1)
        return execution

    def rows(self) -> list[str]:
        """Return all that is in the database."""
        with closing(sqlite3.connect(self.project.folder / "conductor.db")) as connection:
            return list(connection.iterdump())


@pytest.fixture
def replays(project: Project) -> Iterator[Replays]:
    """Tasks that note what they do."""
    project.tasks(TASKS)
    return Replays(project)


def test_recorded_steps_are_answered_and_nothing_is_written(replays: Replays) -> None:
    """The handler runs, with its lifespan; its steps do not; every row of the database stays."""
    execution = replays.ran("shop")
    rows = replays.rows()
    before = len(replays.project.diary())
    done = replays.command(execution, "--app", "tasks:app")
    assert replays.project.diary()[before:] == ["up", "down"]
    assert replays.rows() == rows
    assert done.stdout.splitlines() == [
        "printed by the handler",
        'the handler returned [["ONE","TWO"],"a resource",1,"conductor.invoke",null]',
        "steps answered from the record: 2; steps that ran: none",
    ]
    assert f"replaying attempt 1 of execution {execution}, task shop; nothing is written" in done.stderr
    assert done.returncode == 0


def test_an_execution_that_never_ran_runs_for_real(replays: Replays) -> None:
    """It says so before; ``--stop-at-new`` stops instead; the execution stays as it was."""
    execution = replays.project.invoke("shop")
    rows = replays.rows()
    done = replays.command(execution, "--app", "tasks:app")
    assert "steps that are not recorded run for real, with their side effects" in done.stderr
    assert replays.project.diary() == ["up", "one", "two", "down"]
    view = replays.json(execution)
    assert (view["ended"], view["answered"], view["ran"]) == ("returned", 0, ["one", "two"])
    assert view["result"][0] == ["ONE", "TWO"]
    assert replays.new_in_diary(execution, "--stop-at-new") == ["up", "down"]
    assert replays.run(execution, "--stop-at-new").splitlines() == [
        'the handler was stopped before step "one", which is not recorded',
        "steps answered from the record: 0; steps that ran: none",
    ]
    assert replays.rows() == rows


def test_event_and_attempt_are_those_of_the_last_run(replays: Replays) -> None:
    """A firing of a schedule, whose second attempt failed."""
    execution = replays.project.invoke("shop", event="nightly")
    with closing(sqlite3.connect(replays.project.folder / "conductor.db")) as connection, connection:
        connection.execute("UPDATE conductor_executions SET attempt = 1, scheduled_for = 7200000000")
    replays.project.drain(runners=1)
    view = replays.json(execution)
    assert view["attempt"] == 2
    assert view["result"][2:] == [2, "nightly", 2]


def test_a_handler_that_raises_is_told_with_its_traceback(replays: Replays) -> None:
    """Without the frames of Conductor; exit status 1."""
    execution = replays.ran("shop", "fail")
    shown = replays.run(execution[-12:], status=1)
    assert shown.startswith(
        "the handler raised ValueError: too wide: 4711\nTraceback (most recent call last):"
    )
    assert "tasks.py" in shown
    assert "conductor/child" not in shown
    view = replays.json(execution, status=1)
    assert (view["ended"], view["error"]["type"], view["answered"]) == ("raised", "ValueError", 2)


@pytest.mark.parametrize(
    ("task", "look", "seen"),
    [("shop", "p event.payload, too_wide", "('fail', 4711)"), ("gather", "p halves", "[4, 5]")],
    ids=["sync", "async"],
)
def test_pdb_stops_at_the_failing_line(replays: Replays, task: str, look: str, seen: str) -> None:
    """In the handler's own frame, below which there is nothing; commands come from stdin."""
    execution = replays.ran(task, "fail")
    done = replays.command(execution, "--app", "tasks:app", "--pdb", stdin=f"{look}\nup\nq\n")
    line = next(line for line in done.stdout.splitlines() if line.startswith("-> "))
    assert line.startswith("-> raise ")
    assert f"(Pdb) {seen}" in done.stdout
    assert "*** Oldest frame" in done.stdout
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "the handler raised" in done.stdout
    assert done.returncode == 1


def test_a_segfault_is_reported_by_name(replays: Replays) -> None:
    """With the stacks on stderr; before, it says in which step the attempt died; the step runs again."""
    execution = replays.ran("fall")
    attempts = replays.project.view(execution).attempts
    assert [attempt.outcome for attempt in attempts] == ["crashed", "crashed"]
    rows = replays.rows()
    before = len(replays.project.diary())
    done = replays.command(execution, "--app", "tasks:app")
    assert replays.project.diary()[before:] == ["up"]
    assert done.returncode == 1
    assert re.match(
        r'the process of the handler died of SIGSEGV in step "bad", [\d.]+ m?s into it\n'
        "steps answered from the record: 1; steps that ran: bad\n",
        done.stdout,
    )
    assert 'side effects: first "bad", in which the attempt died' in done.stderr
    assert "Segmentation fault" in done.stderr
    view = replays.json(execution, status=1)
    assert (view["ended"], view["signal"], view["step"], view["attempt"]) == ("died", "SIGSEGV", "bad", 2)
    assert replays.rows() == rows


def test_break_stops_before_a_step(replays: Replays) -> None:
    """In the line of the handler; from there it can be left without the step's being run."""
    execution = replays.ran("fall")
    shown = replays.run(execution, "--break", "bad", stdin="p ctx.attempt\nup\nq\n")
    assert '-> ctx.step("bad", ctypes.string_at, 0)' in shown
    assert "(Pdb) 2\n" in shown
    assert "*** Oldest frame" in shown
    assert "the handler was stopped from the debugger\n" in shown
    assert "steps answered from the record: 1; steps that ran: none" in shown


def test_from_a_break_one_can_step_into_the_step_and_go_on(replays: Replays) -> None:
    """``s`` leads into the step's function, ``n`` over it; a recorded step can be stopped at as well."""
    execution = replays.project.invoke("shop")
    shown = replays.run(execution, "--break", "one", stdin="s\np name\nc\n")
    assert "--Call--" in shown
    assert "(Pdb) 'one'" in shown
    assert "the handler returned" in shown
    replays.project.drain(runners=1)
    shown = replays.run(execution, "--break", "two", stdin="n\np done\nc\n")
    assert "(Pdb) ['ONE', 'TWO']" in shown
    assert "steps answered from the record: 2; steps that ran: none" in shown


def test_break_works_in_an_async_handler(replays: Replays) -> None:
    """Where steps run beside each other."""
    execution = replays.project.invoke("gather")
    shown = replays.run(execution, "--break", "right", stdin="s\np name\nc\n")
    assert "(Pdb) 'right'" in shown
    assert "the handler returned 9" in shown


def test_async_steps_are_answered_from_the_record(replays: Replays) -> None:
    """As sync ones are."""
    execution = replays.ran("gather")
    assert replays.new_in_diary(execution) == ["up", "down"]
    assert replays.json(execution)["result"] == 9


def test_a_client_may_read_and_not_write(replays: Replays) -> None:
    """What would write raises NotInReplay, whatever the command's database is, and on whatever connection."""
    reading, *writing = replays.project.invoke_many("ask", [None, "write", "lend"])
    assert replays.json(reading)["result"] == "ready"
    rows = replays.rows()
    for execution in writing:
        view = replays.json(execution, status=1)
        assert view["error"]["type"] == "conductor.errors.NotInReplay"
        assert "a replay writes nothing, and this is a call to invoke shop" in view["error"]["message"]
    assert replays.rows() == rows


def test_with_json_stdout_is_the_answer_alone(replays: Replays) -> None:
    """What the handler prints goes to stderr."""
    execution = replays.project.invoke("shop")
    done = replays.command(execution, "--app", "tasks:app", "--json")
    assert json.loads(done.stdout)["ended"] == "returned"
    assert "printed by the handler" in done.stderr


def test_a_running_execution_can_be_replayed_beside_its_run(replays: Replays) -> None:
    """Under a supervisor; it is said that it runs."""
    replays.project.tasks(
        """
        @app.task
        def slow(event, ctx):
            ctx.step("begin", note, "begun")
            if ctx.attempt == 1 and not sys.stdin.read():
                wait_for("go")
            return "done"
        """
    )
    execution = replays.project.invoke("slow")
    supervisor = replays.project.start(runners=1)
    replays.project.until(lambda: replays.project.view(execution).steps_recorded, "the step is recorded")
    done = replays.command(execution, "--app", "tasks:app", stdin="x")
    assert "this execution is running at this moment" in done.stderr
    assert 'the handler returned "done"\nsteps answered from the record: 1;' in done.stdout
    assert replays.project.view(execution).state == "running"
    replays.project.let_go("go")
    replays.project.until_state(execution, "completed")
    assert supervisor.stop() == 0
    assert replays.project.diary() == ["begun"]


def test_what_cannot_be_replayed_is_one_message(replays: Replays) -> None:
    """Wrong use is exit status 2, all else 1; nothing of the handler runs."""
    project = replays.project
    execution = project.invoke("shop", {"id": 1})
    assert "no app is named, and the handler is in it" in project.command("replay", execution).stderr
    assert project.command("replay", execution).returncode == 2
    assert "no execution 00000000-" in replays.error("0" * 8 + execution[8:], status=1)
    assert 'there is no module "nowhere"' in replays.error(execution, app="nowhere:app", status=2)
    project.tasks("@app.task\ndef shopp(event, ctx): ...")
    assert "app tasks:app has no task 'shop'; did you mean shopp?" in replays.error(execution, status=2)
    project.tasks("@app.task\ndef shop(event: Event[int], ctx): ...")
    assert "the payload does not fit what task shop expects, int" in replays.error(execution, status=2)
    project.tasks("raise RuntimeError('not today')")
    message = replays.error(execution, status=1)
    assert "app tasks:app cannot be imported: RuntimeError: not today Traceback" in message
    project.tasks("os.kill(os.getpid(), signal.SIGSEGV)")
    assert "app tasks:app died of SIGSEGV before the handler could be called" in replays.error(
        execution, status=1
    )
    project.tasks(
        """
        @app.lifespan
        def resources():
            raise OSError("no such pool")
            yield
        @app.task
        def shop(event, ctx): ...
        """
    )
    message = replays.error(execution, status=1)
    assert "the lifespan of app tasks:app raised OSError: no such pool" in message
    assert project.diary() == []


def test_a_death_between_steps_is_told_as_such(replays: Replays) -> None:
    """After a step that ran, and one that was answered."""
    replays.project.tasks(
        """
        @app.task
        def leave(event, ctx):
            ctx.step("one", note, "one")
            os._exit(3)
        """
    )
    view = replays.json(replays.project.invoke("leave"), status=1)
    assert (view["ended"], view["exit_code"], view["step"], view["ran"]) == ("died", 3, None, ["one"])
    assert view["cause"].startswith("exited with status 3 between steps, ")


def test_a_death_at_the_end_of_the_lifespan_is_told_as_such(replays: Replays) -> None:
    """The handler had returned; the replay has failed all the same."""
    replays.project.tasks(
        """
        @app.lifespan
        def resources():
            yield
            os._exit(3)
        @app.task
        def shop(event, ctx): ...
        """
    )
    view = replays.json(replays.project.invoke("shop"), status=1)
    assert (view["ended"], view["exit_code"]) == ("died", 3)
    assert view["cause"].startswith("exited with status 3 after the handler had ended")


def test_an_interrupt_is_the_handlers(replays: Replays) -> None:
    """A terminal sends Ctrl-C to command and handler: the handler unwinds, and the status is 130."""
    replays.project.tasks(
        """
        @app.task
        def endless(event, ctx):
            try:
                note("begun")
                wait_for("nothing")
            finally:
                note("unwound")
        """
    )
    execution = replays.project.invoke("endless")
    with subprocess.Popen(
        [sys.executable, "-m", "conductor_supervisor", "replay", execution, "--app", "tasks:app"],
        cwd=replays.project.folder,
        env=replays.project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    ) as process:
        replays.project.until_noted("begun")
        os.killpg(process.pid, signal.SIGINT)
        shown, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "the handler raised KeyboardInterrupt" in shown
    assert replays.project.diary() == ["begun", "unwound"]


def test_many_large_results_reach_the_handler(replays: Replays) -> None:
    """Each is read when it is wanted."""
    replays.project.tasks(
        """
        @app.task
        def heap(event, ctx):
            return sum(len(ctx.step(f"block {n}", lambda: "x" * 500_000)) for n in range(40))
        """
    )
    view = replays.json(replays.ran("heap"))
    assert (view["result"], view["answered"], view["ran"]) == (20_000_000, 40, [])


def test_the_last_run_is_the_one_that_ended_last(replays: Replays) -> None:
    """After a retry by hand the attempts count anew; until it runs, the last one that ran is replayed."""
    execution = replays.ran("fall")
    replays.project.command("retry", execution)
    assert replays.project.view(execution).attempt == 0
    assert replays.json(execution, "--stop-at-new")["attempt"] == 2
