"""The supervisor is killed, again and again: who is charged, and what is left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conductor_supervisor.runtime import find_runtime_folder
from harness import Project

pytestmark = pytest.mark.together

SHORT = """
    @app.task(max_attempts=1)
    def short(event, ctx):
        note("began " + ctx.execution_id)
        if event.payload == "poison":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        time.sleep(0.0005)
    """


def folder_of(project: Project) -> Path:
    """Return the runtime folder of a project's supervisors."""
    return find_runtime_folder(project.url)


def test_executions_that_never_began_are_not_charged_for_deaths(project: Project) -> None:
    """Many are in a runner's hands whenever the supervisor is killed; not one attempt is charged."""
    project.tasks(SHORT)
    ids = project.invoke_many("short", [None] * 200)
    for _ in range(4):
        noted = len(project.diary())
        supervisor = project.start(runners=1)
        project.until(lambda: len(project.diary()) >= noted + 8, "some have begun")  # noqa: B023
        supervisor.kill()
    project.drain(runners=1)
    assert {project.view(execution).state for execution in ids} == {"completed"}
    outcomes = {attempt.outcome for execution in ids for attempt in project.view(execution).attempts}
    assert outcomes <= {"completed", "lost"}


@pytest.mark.parametrize("folder_is_lost", [False, True])
def test_an_execution_that_kills_the_supervisor_is_charged_at_the_third_death(
    project: Project, folder_is_lost: bool
) -> None:
    """It, and no other: also where nothing tells what had begun, as after the machine's restart."""
    project.tasks(SHORT)
    before = project.invoke_many("short", [None] * 20)
    poison = project.invoke("short", "poison")
    after = project.invoke_many("short", [None] * 20)
    for _ in range(3):
        project.start(runners=1).wait()
        if folder_is_lost:
            shutil.rmtree(folder_of(project))
    project.drain(runners=1)
    assert project.diary().count(f"began {poison}") == 3
    found = project.view(poison)
    assert (found.state, found.attempt) == ("failed", 1)
    assert found.error is not None
    assert found.error.message == "was running at three supervisor deaths in a row"
    assert {project.view(execution).state for execution in (*before, *after)} == {"completed"}


def test_recorders_of_a_dead_supervisor_are_swept(project: Project) -> None:
    """After the next clean stop nothing but the lock is left, however many runners there were before."""
    project.tasks(SHORT)
    supervisor = project.start(runners=3)
    folder = folder_of(project)
    project.until(lambda: len(list(folder.glob("runner-*"))) == 3, "three runners are started")
    supervisor.kill()
    assert len(list(folder.glob("runner-*"))) == 3
    project.drain(runners=1)
    assert [path.name for path in folder.iterdir()] == ["lock"]
