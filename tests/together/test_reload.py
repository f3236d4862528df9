"""New code comes in while work goes on; code that does not import changes nothing."""

from __future__ import annotations

import signal
from datetime import UTC, datetime

import pytest

from conductor_protocol.units import instant
from harness import Project

pytestmark = pytest.mark.together

OLD = """
    @app.task
    def long(event, ctx):
        note("old begins")
        wait_for("go")
        ctx.step("last", note, "old ends")
        return "old"

    @app.task
    def short(event, ctx):
        return "old"
"""
NEW = """
    # newer code
    @app.task
    def long(event, ctx):
        return "new"

    @app.task
    def short(event, ctx):
        return "new"

    @app.task
    def added(event, ctx):
        return "added"
"""


@pytest.mark.parametrize("how", ["SIGHUP", "reload"])
def test_new_code_runs_beside_old_code_that_finishes(project: Project, how: str) -> None:
    """What runs is not disturbed; what begins afterwards begins with the new code."""
    project.tasks(OLD)
    supervisor = project.start(runners=1)
    long = project.invoke("long")
    project.until_noted("old begins")
    project.tasks(NEW)
    if how == "SIGHUP":
        supervisor.signal(signal.SIGHUP)
        project.until(lambda: "reloaded: 3 tasks" in supervisor.output(), "the new code is in place")
    else:
        done = project.command("reload")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("reloaded: 3 tasks; still at work with the old code: 1 runner")
    for task, result in (("short", "new"), ("added", "added"), ("long", "new")):
        assert project.until_state(project.invoke(task), "completed").result == result
    runners = project.json("status")["supervisor"]["runners"]  # type: ignore[call-overload,index]
    assert sorted(runner["state"] for runner in runners) == ["idle", "retiring"]
    project.let_go("go")
    assert project.until_state(long, "completed").result == "old"
    project.until(lambda: len(supervisor.runners()) == 1, "the old runner has ended")
    assert supervisor.stop() == 0
    assert project.diary() == ["old begins", "old ends"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("ctypes.string_at(0)", "died of SIGSEGV while it was imported"),
        ("os._exit(0)", "exited with status 0 while it was imported"),
        ("time.sleep(3600)", "did not finish importing within 2.0 s"),
        ("@app.task(windw=3)\n    def long(event, ctx): ...", "unknown option 'windw'"),
    ],
    ids=["raises", "segfaults", "exits", "hangs", "is wrong"],
)
def test_code_that_does_not_import_changes_nothing(project: Project, broken: str, said: str) -> None:
    """The command says why and fails; the old code goes on in the same runner."""
    project.config('import_timeout = "2s"')
    project.tasks("""
        @app.task
        def where(event, ctx):
            return os.getpid()
    """)
    supervisor = project.start(runners=1)
    before = project.until_state(project.invoke("where"), "completed").result
    project.tasks(f"\n    {broken}\n")
    done = project.command("reload")
    assert done.returncode == 1
    assert "the old code goes on" in done.stderr
    assert said in done.stderr
    assert project.until_state(project.invoke("where"), "completed").result == before
    assert supervisor.stop() == 0


def test_what_operators_say_of_tasks_is_read_anew(project: Project) -> None:
    """And wins over the code, as at the start."""
    project.tasks("""
        @app.task
        def job(event, ctx):
            note("+")
            wait_for("go")
    """)
    project.config("""
        [tasks.job]
        concurrency = 1
    """)
    supervisor = project.start(runners=3)
    project.invoke_many("job", [None] * 3)
    project.until_noted("+")
    project.config("""
        [tasks.job]
        concurrency = 2
    """)
    assert project.command("reload").returncode == 0
    project.until_noted("+", times=2)
    project.config("""
        [tasks.jbo]
        concurrency = 3
    """)
    done = project.command("reload")
    assert done.returncode == 1
    assert "there is no setting" in done.stderr or "did you mean job?" in done.stderr
    project.let_go("go")
    project.until_noted("+", times=3)
    assert supervisor.stop() == 0


def test_schedules_go_on_over_a_reload(project: Project) -> None:
    """No firing twice, none left out; a new schedule counts from now on."""
    project.tasks("""
        @app.task(cron={"often": "*/5 * * * *"})
        def job(event, ctx):
            note(f"{event.name} {event.scheduled_for.isoformat()}")
    """)
    clock = project.clock()
    clock.set(instant(datetime(2026, 1, 1, 12, 1, tzinfo=UTC)))
    supervisor = project.start(runners=1)
    project.until(lambda: "started" in supervisor.output(), "it has started")
    clock.set(instant(datetime(2026, 1, 1, 12, 5, tzinfo=UTC)))
    project.until_noted("often 2026-01-01T12:05:00+00:00")
    project.tasks("""
        # newer
        @app.task(cron={"often": "*/5 * * * *", "hourly": "0 * * * *"})
        def job(event, ctx):
            note(f"{event.name} {event.scheduled_for.isoformat()}")
    """)
    assert project.command("reload").returncode == 0
    clock.set(instant(datetime(2026, 1, 1, 12, 10, tzinfo=UTC)))
    project.until_noted("often 2026-01-01T12:10:00+00:00")
    clock.set(instant(datetime(2026, 1, 1, 13, 0, tzinfo=UTC)))
    project.until_noted("hourly 2026-01-01T13:00:00+00:00")
    assert supervisor.stop() == 0
    assert len(set(project.diary())) == len(project.diary())


def test_executions_of_a_task_that_newer_code_does_not_have_wait(project: Project) -> None:
    """Also one that was given back by an old runner; a later reload may bring the task back."""
    project.tasks(OLD)
    supervisor = project.start(runners=1)
    project.invoke("long")
    project.until_noted("old begins")
    waiting = project.invoke("short")
    project.tasks("""
        @app.task
        def other(event, ctx): ...
    """)
    assert project.command("reload").returncode == 0
    project.let_go("go")
    project.until_noted("old ends")
    assert project.until_state(project.invoke("other"), "completed")
    assert project.view(waiting).state == "ready"
    project.tasks(NEW)
    assert project.command("reload").returncode == 0
    assert project.until_state(waiting, "completed").result == "new"
    assert supervisor.stop() == 0


def test_a_shutdown_does_not_wait_for_a_reload(project: Project) -> None:
    """The child that imports the new code ends with it."""
    project.tasks(OLD)
    supervisor = project.start(runners=1)
    project.until_state(project.invoke("short"), "completed")
    project.tasks("\n    Path('importing').touch()\n    time.sleep(3600)\n")
    supervisor.signal(signal.SIGHUP)
    project.until((project.folder / "importing").exists, "the new code is being imported")
    family = supervisor.family()
    assert supervisor.stop() == 0
    assert not any(process.is_running() for process in family)
