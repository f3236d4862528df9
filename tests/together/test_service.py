"""A supervisor under a service manager: what it says of itself is true, and commands say the same."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from conductor_supervisor import control
from conductor_supervisor.errors import NotAnswering
from conductor_supervisor.runtime import find_runtime_folder
from fake_manager import FakeManager
from harness import Project

pytestmark = pytest.mark.together

WATCHDOG = 0.5
"""Seconds."""


@pytest.fixture
def manager(project: Project) -> Iterator[FakeManager]:
    """Whoever starts supervisors of this project; each has to give signs of life."""
    with FakeManager(project.folder / "n") as manager:
        project.environment["NOTIFY_SOCKET"] = manager.address
        project.environment["WATCHDOG_USEC"] = str(round(WATCHDOG * 1_000_000))
        yield manager


def test_it_is_ready_when_a_runner_is_and_not_before(project: Project, manager: FakeManager) -> None:
    """What runs user code cannot speak for it."""
    project.tasks("""
        note(f"sees {[name for name in os.environ if name.startswith(('NOTIFY', 'WATCHDOG'))]}")

        @app.lifespan
        def gate():
            note("at the gate")
            wait_for("gate")
            yield
    """)
    supervisor = project.start(runners=1)
    project.until_noted("at the gate")
    project.until(manager.beats, "the loop runs")
    health = project.command("health")
    assert (health.returncode, health.stdout) == (1, f"supervisor {supervisor.process.pid} is starting\n")
    assert project.json("health", "--alive") == {
        "healthy": True,
        "pid": supervisor.process.pid,
        "state": "starting",
        "reason": "",
    }
    assert manager.states() == []
    assert manager.statuses()[-1] == "waiting for a runner to be ready: they import tasks:app"
    project.let_go("gate")
    project.until(manager.states, "it is ready")
    assert manager.statuses()[-1] == "running tasks:app with 1 runner"
    assert project.command("health").returncode == 0
    assert supervisor.stop() == 0
    assert manager.states() == ["READY", "STOPPING"]
    assert {line for line in project.diary() if line.startswith("sees")} == {"sees []"}


def test_a_reload_is_told_from_its_beginning_to_its_end(project: Project, manager: FakeManager) -> None:
    """Also one that fails, after which the old code goes on."""
    project.tasks("")
    supervisor = project.start(runners=1)
    project.until(lambda: manager.states() == ["READY"], "it is ready")
    supervisor.signal(signal.SIGHUP)
    project.until(lambda: manager.states() == ["READY", "RELOADING", "READY"], "it has reloaded")
    project.tasks("raise RuntimeError('not today')")
    supervisor.signal(signal.SIGHUP)
    project.until(lambda: manager.states() == ["READY", *["RELOADING", "READY"] * 2], "it has tried")
    assert manager.statuses()[-1].startswith("the last reload failed, the old code goes on: ")
    assert project.command("health").returncode == 0
    assert supervisor.stop() == 0


def test_signs_of_life_come_from_a_loop_that_turns(project: Project, manager: FakeManager) -> None:
    """While a handler computes, and while the database is busy; not from a supervisor that is stopped."""
    project.tasks("""
        @app.task
        def compute(event, ctx):
            note("computing")
            while True:
                sum(range(10_000_000))

        @app.task
        def write(event, ctx):
            note("writing")
            wait_for("busy")
            ctx.step("needs the database", note, "a step to commit")
    """)
    supervisor = project.start("--shutdown-grace", "0s")
    execution = project.invoke("compute")
    project.invoke("write")
    project.until_noted("computing")
    project.until_noted("writing")
    with closing(sqlite3.connect(project.folder / "conductor.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        project.let_go("busy")
        project.until_noted("a step to commit")
        beats = manager.beats()
        project.until(lambda: manager.beats() > beats + 3, "signs of life while the database is busy")
    process = psutil.Process(supervisor.process.pid)
    process.suspend()
    project.until(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")
    assert not manager.hears_within(3 * WATCHDOG)
    with pytest.raises(NotAnswering, match=f"process {process.pid} holds .* kill -CONT {process.pid}$"):
        control.ask(find_runtime_folder(project.url), control.AskHealth(), timeout=0.1)
    process.resume()
    beats = manager.beats()
    project.until(lambda: manager.beats() > beats, "signs of life again")
    assert supervisor.stop() == 0
    assert project.view(execution).state == "ready"


def test_a_shutdown_is_told_when_it_begins(project: Project, manager: FakeManager) -> None:
    """From then on it is alive, and not healthy."""
    project.tasks("""
        @app.task
        def deaf(event, ctx):
            note("begun")
            wait_for("enough")
    """)
    supervisor = project.start("--shutdown-grace", "1h", runners=1)
    project.invoke("deaf")
    project.until_noted("begun")
    project.command("stop")
    project.until(lambda: manager.states() == ["READY", "STOPPING"], "it is stopping")
    assert manager.statuses()[-1] == "shutting down: what runs has 1h to reach its next checkpoint"
    assert project.command("health").stdout == f"supervisor {supervisor.process.pid} is draining\n"
    assert project.command("health", "--alive").returncode == 0
    beats = manager.beats()
    project.until(lambda: manager.beats() > beats + 1, "signs of life while it waits")
    project.let_go("enough")
    assert supervisor.wait() == 0
