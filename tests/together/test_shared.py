"""Executions that share a runner: all at once, and still each answers only for itself."""

from __future__ import annotations

from collections import Counter

import pytest

from harness import Project

pytestmark = pytest.mark.together

TWENTY = list(range(20))


def test_twenty_really_run_at_once_in_one_runner(project: Project) -> None:
    """Each waits until all have begun, all in one process."""
    project.tasks("""
        @app.task(isolation="shared")
        async def meets(event, ctx):
            note(f"begun {event.payload}")
            while len(Path("diary").read_text().splitlines()) < 20:
                await asyncio.sleep(0.01)
            return os.getpid()
    """)
    executions = project.invoke_many("meets", TWENTY)
    project.drain(runners=1)
    views = [project.view(execution) for execution in executions]
    assert {view.state for view in views} == {"completed"}
    assert len({view.result for view in views}) == 1


def test_no_more_run_at_once_than_there_are_slots(project: Project) -> None:
    """Three at a time, and the next when one has ended; the others are not claimed before."""
    project.config("slots = 3")
    project.tasks("""
        inside = 0

        @app.task(isolation="shared")
        async def counted(event, ctx):
            global inside
            inside += 1
            note(str(inside))
            if event.payload < 3:
                while not Path("go").exists():
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            inside -= 1
    """)
    executions = project.invoke_many("counted", list(range(10)))
    supervisor = project.start(runners=1)
    project.until_noted("3")
    assert Counter(project.view(e).state for e in executions) == {"running": 3, "ready": 7}
    project.let_go("go")
    for execution in executions:
        project.until_state(execution, "completed")
    assert supervisor.stop() == 0
    assert max(map(int, project.diary())) == 3


@pytest.mark.parametrize(
    ("death", "said"), [("os._exit(7)", "exited with status 7"), ("ctypes.string_at(0)", "died of SIGSEGV")]
)
def test_one_poison_among_twenty_is_found_and_alone_charged(project: Project, death: str, said: str) -> None:
    """The nineteen complete uncharged and repeat no step; the poison fails with a report on each death."""
    project.tasks(f"""
        @app.task(isolation="shared", max_attempts=2, retry=Retry(delays=[0]))
        async def maybe(event, ctx):
            await ctx.step("first", note, f"first {{event.payload}}")
            note("begun")
            if event.payload == 13:
                while Path("diary").read_text().count("begun") < 20:
                    await asyncio.sleep(0.01)
                await ctx.step("poison", die)
            while not Path("died").exists():
                await asyncio.sleep(0.01)
            await ctx.step("second", note, f"second {{event.payload}}")
            return event.payload

        def die():
            Path("died").touch()
            {death}
    """)
    executions = project.invoke_many("maybe", TWENTY)
    supervisor = project.drain(runners=1)
    views = {view.payload: view for view in map(project.view, executions)}
    poison = views.pop(13)
    assert poison.state == "failed"
    together, *alone = poison.attempts
    assert (together.outcome, together.reason) == ("stopped", "suspect")
    assert [(a.number, a.outcome) for a in alone] == [(1, "crashed"), (2, "crashed")]
    for attempt in alone:
        assert attempt.crash is not None
        assert attempt.crash.cause.startswith(f'{said} in step "poison"')
    assert together.crash is not None
    assert f"{said} with 20 executions in it" in together.crash.cause
    assert together.crash.step == "poison"
    for payload, view in views.items():
        assert (view.state, view.attempt, view.result) == ("completed", 0, payload)
        assert [a.outcome for a in view.attempts] == ["stopped", "completed"]
    steps = Counter(line for line in project.diary() if line != "begun")
    assert steps == Counter([f"first {n}" for n in TWENTY] + [f"second {n}" for n in TWENTY if n != 13])
    deaths = [line for line in supervisor.output().splitlines() if "shared runner 1" in line and said in line]
    assert len(deaths) == 3


def test_a_new_supervisor_still_runs_suspects_alone(project: Project) -> None:
    """The mark is in the database: what was found out is not forgotten."""
    project.tasks("""
        @app.task(isolation="shared", max_attempts=1)
        async def maybe(event, ctx):
            Path(f"inside-{event.payload}-{ctx.attempt}").touch()
            if not Path("second").exists():
                while len(list(Path().glob("inside-*"))) < 5:
                    await asyncio.sleep(0.01)
                os._exit(1)
            note(f"in {event.payload}")
            await asyncio.sleep(0.05)
            note(f"out {event.payload}")
    """)
    executions = project.invoke_many("maybe", list(range(5)))
    project.config('shutdown_grace = "0s"')
    supervisor = project.start(runners=1)
    project.until(
        lambda: any(a.reason == "suspect" for e in executions for a in project.view(e).attempts),
        "the runner died with five inside",
    )
    supervisor.kill()
    project.let_go("second")
    project.drain(runners=1)
    survivors = [view for view in map(project.view, executions) if view.state == "completed"]
    assert len(survivors) >= 4  # one may have been alone inside when the first supervisor was killed
    assert all(view.attempt == 0 for view in survivors)
    diary = project.diary()
    assert [line.split()[0] for line in diary] == ["in", "out"] * len(survivors)


def test_ordinary_work_and_suspects_both_go_on(project: Project) -> None:
    """A stream of ordinary executions, ten at once, does not keep a suspect waiting for ever."""
    project.config("slots = 10")
    project.tasks("""
        @app.task(isolation="shared", max_attempts=1)
        async def maybe(event, ctx):
            note(f"maybe {event.payload}")
            if not Path("died").exists():
                while Path("diary").read_text().count("maybe") < 2:
                    await asyncio.sleep(0.01)
                Path("died").touch()
                os._exit(1)

        @app.task(isolation="shared")
        async def again(event, ctx):
            await asyncio.sleep(0.05)
            if not Path("enough").exists():
                await app.invoke_async("again")
    """)
    suspects = project.invoke_many("maybe", [1, 2])
    supervisor = project.start(runners=1)
    project.until((project.folder / "died").exists, "the runner died")
    project.invoke_many("again", [None] * 20)
    for suspect in suspects:
        view = project.until_state(suspect, "completed")
        assert view.attempt == 0
    project.let_go("enough")
    assert supervisor.stop() == 0


def test_a_deaf_handler_over_its_timeout_ends_alone(project: Project) -> None:
    """It is interrupted where it awaits; the others, in the same process, do not notice."""
    project.tasks("""
        @app.task(isolation="shared", max_attempts=1, timeout=0.5)
        async def deaf(event, ctx):
            await ctx.step("endless", asyncio.Event().wait)

        @app.task(isolation="shared")
        async def other(event, ctx):
            note(f"begun {os.getpid()}")
            while not Path("go").exists():
                await asyncio.sleep(0.01)
            return os.getpid()
    """)
    others = project.invoke_many("other", [1, 2, 3])
    supervisor = project.start(runners=1)
    project.until(lambda: len(project.diary()) == 3, "the others run")
    view = project.until_state(project.invoke("deaf"), "failed")
    (attempt,) = view.attempts
    assert attempt.outcome == "crashed"
    assert attempt.crash is not None
    assert attempt.crash.cause.startswith("was interrupted: over its timeout of 500 ms; in step")
    assert (attempt.crash.step, attempt.crash.signal) == ("endless", None)
    assert "await ctx.step" in attempt.crash.stacks
    project.let_go("go")
    for execution in others:
        done = project.until_state(execution, "completed")
        assert len(done.attempts) == 1
        assert f"begun {done.result}" in project.diary()
    assert supervisor.stop() == 0


def test_one_that_ignores_its_interruption_is_charged_and_the_others_are_not_suspected(
    project: Project,
) -> None:
    """Then the runner is stopped; the culprit is known, so the others go on together."""
    project.config('stop_grace = "100ms"')
    project.tasks("""
        @app.task(isolation="shared", max_attempts=1, timeout=0.3)
        async def stubborn(event, ctx):
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    note("ignored")

        @app.task(isolation="shared")
        async def other(event, ctx):
            await ctx.step("begin", note, f"begun {event.payload}")
            if not Path("go").exists():
                await asyncio.Event().wait()
            note("again")
            while Path("diary").read_text().count("again") < 3:
                await asyncio.sleep(0.01)
    """)
    others = project.invoke_many("other", [1, 2, 3])
    supervisor = project.start(runners=1)
    project.until(lambda: len(project.diary()) == 3, "the others run")
    stubborn = project.invoke("stubborn")
    project.until_noted("ignored")
    project.let_go("go")
    (attempt,) = project.until_state(stubborn, "failed").attempts
    assert attempt.crash is not None
    assert "was killed: over its timeout of 300 ms" in attempt.crash.cause
    for execution in others:
        view = project.until_state(execution, "completed")
        assert (view.attempt, [(a.outcome, a.reason) for a in view.attempts]) == (
            0,
            [("stopped", "stopped"), ("completed", None)],
        )
    assert supervisor.stop() == 0
    assert [line for line in project.diary() if line.startswith("begun")] == [f"begun {n}" for n in (1, 2, 3)]


def test_a_graceful_shutdown_releases_all(project: Project) -> None:
    """Uncharged, at their next ask; the next start goes on."""
    project.tasks("""
        @app.task(isolation="shared")
        async def endless(event, ctx):
            note(f"begun {event.payload}")
            while not Path("second").exists():
                await asyncio.sleep(0.01)
                await ctx.checkpoint()
            return "done"
    """)
    executions = project.invoke_many("endless", TWENTY)
    supervisor = project.start(runners=1)
    project.until(lambda: len(project.diary()) == 20, "all run")
    assert supervisor.stop() == 0
    assert {project.view(e).state for e in executions} == {"ready"}
    project.let_go("second")
    project.drain(runners=1)
    for view in map(project.view, executions):
        assert (view.state, view.attempt) == ("completed", 0)
        assert [(a.outcome, a.reason) for a in view.attempts] == [
            ("released", "shutdown"),
            ("completed", None),
        ]


def test_a_shutdown_whose_grace_runs_out_returns_all_uncharged(project: Project) -> None:
    """Deaf ones are killed with their runner, and nobody becomes a suspect for it."""
    project.tasks("""
        @app.task(isolation="shared")
        async def deaf(event, ctx):
            note(f"begun {event.payload}")
            await asyncio.Event().wait()
    """)
    executions = project.invoke_many("deaf", [1, 2, 3])
    supervisor = project.start("--shutdown-grace", "200ms", runners=1)
    project.until(lambda: len(project.diary()) == 3, "all run")
    assert supervisor.stop() == 0
    for view in map(project.view, executions):
        assert (view.state, view.attempt) == ("ready", 0)
        assert [(a.outcome, a.reason) for a in view.attempts] == [("stopped", "shutdown")]


def test_one_of_many_is_cancelled(project: Project) -> None:
    """Whether it asks or not."""
    project.config('cancel_grace = "200ms"')
    project.tasks("""
        @app.task(isolation="shared")
        async def asks(event, ctx):
            note("asks")
            while not ctx.should_stop:
                await asyncio.sleep(0.01)
            await ctx.checkpoint()

        @app.task(isolation="shared")
        async def deaf(event, ctx):
            note("deaf")
            while not Path("go").exists():
                await asyncio.sleep(0.01)
            return os.getpid()
    """)
    asks = project.invoke_many("asks", [1, 2])
    deaf = project.invoke_many("deaf", [1, 2])
    supervisor = project.start(runners=1)
    project.until(lambda: len(project.diary()) == 4, "all run")
    for execution in (asks[0], deaf[0]):
        project.cancel(execution)
        assert project.until_state(execution, "cancelled").attempt == 0
    assert {project.view(execution).state for execution in (asks[1], deaf[1])} == {"running"}
    project.let_go("go")
    assert len(project.until_state(deaf[1], "completed").attempts) == 1
    project.cancel(asks[1])
    project.until_state(asks[1], "cancelled")
    assert supervisor.stop() == 0


def test_shared_and_other_tasks_of_one_queue_have_runners_of_their_own(project: Project) -> None:
    """And limits hold for both; ``status`` tells of each that runs in which step."""
    project.tasks("""
        @app.task(isolation="shared", concurrency=3)
        async def waits(event, ctx):
            await ctx.step("waiting", hold)

        async def hold():
            note("shared")
            while not Path("go").exists():
                await asyncio.sleep(0.01)

        @app.task
        def plain(event, ctx):
            return os.getpid()
    """)
    waits = project.invoke_many("waits", list(range(5)))
    supervisor = project.start(runners=1)
    project.until_noted("shared", times=3)
    assert project.until_state(project.invoke("plain"), "completed").state == "completed"
    status = project.json("status")["supervisor"]
    (shared,) = [r for r in status["runners"] if r["isolation"] == "shared"]  # type: ignore[index]
    assert (shared["step"], shared["in_hand"]) == ("waiting", 3)
    assert [(one["task"], one["step"]) for one in shared["beside"]] == [("waits", "waiting")] * 2
    assert project.command("status").stdout.count("waiting") >= 3
    assert project.diary().count("shared") == 3
    project.let_go("go")
    for execution in waits:
        project.until_state(execution, "completed")
    assert supervisor.stop() == 0


def test_shared_executions_are_released_at_their_windows_end(project: Project) -> None:
    """One that asks at its ask; one that does not is interrupted when the grace is over."""
    clock = project.clock()
    clock.set(1_799_927_999_000_000)  # a second before a noon in UTC
    project.tasks("""
        @app.task(isolation="shared", window=Window("06:00", "12:00", grace="1s"))
        async def morning(event, ctx):
            note("begun")
            if event.payload == "deaf":
                await asyncio.Event().wait()
            while not ctx.should_stop:
                await asyncio.sleep(0.01)
            await ctx.checkpoint()
    """)
    asks, deaf = (project.invoke("morning", p, run_at=1) for p in ("asks", "deaf"))
    supervisor = project.start(runners=1)
    project.until_noted("begun", times=2)
    clock.set(1_799_928_000_000_000)
    view = project.until_state(asks, "scheduled")
    assert [(a.outcome, a.reason) for a in view.attempts] == [("released", "window")]
    assert project.view(deaf).state == "running"
    clock.set(1_799_928_001_000_000)
    view = project.until_state(deaf, "scheduled")
    assert [(a.outcome, a.reason) for a in view.attempts] == [("stopped", "window")]
    assert (view.attempt, view.waiting_for) == (0, "window")
    assert supervisor.stop() == 0


def test_a_shared_runner_that_dies_with_one_inside_leaves_stacks_and_last_words(project: Project) -> None:
    """What native code wrote is the one's that ran."""
    project.tasks("""
        import subprocess

        @app.task(isolation="shared", max_attempts=1)
        async def dies(event, ctx):
            subprocess.run([sys.executable, "-c", "print('from a child')"])
            await ctx.step("fall", ctypes.string_at, 0)
    """)
    execution = project.invoke("dies")
    project.drain(runners=1)
    crash = project.view(execution).attempts[0].crash
    assert crash is not None
    assert "string_at" in crash.stacks
    assert "from a child" in project.command("logs", execution).stdout
