"""Told to stop while starting: status 0, and no process is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from conductor_supervisor.runtime import find_runtime_folder
from harness import Project

pytestmark = pytest.mark.together

SLOW_IMPORT = """
    note(f"importing in {os.getpid()}")
    if Path("import slowly").exists():
        time.sleep(3600)

    @app.task
    def job(event, ctx):
        return "done"
    """


def importers(project: Project) -> Iterator[int]:
    """Give the processes that have begun to import the app."""
    for line in project.diary():
        if line.startswith("importing in "):
            yield int(line.split()[-1])


def lives(pid: int) -> bool:
    """Tell whether a process is there and not merely unburied."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_app_is_described_is_a_clean_one(project: Project, number: signal.Signals) -> None:
    """The child that imports the app ends with it."""
    project.tasks(SLOW_IMPORT)
    project.let_go("import slowly")
    supervisor = project.start(runners=1)
    project.until(project.diary, "the app is imported")
    supervisor.signal(signal.SIGHUP)
    supervisor.signal(number)
    assert supervisor.wait() == 0
    assert "told to stop while starting" in supervisor.output()
    assert "Traceback" not in supervisor.output()
    assert [pid for pid in importers(project) if lives(pid)] == []


def test_runners_that_still_import_do_not_hold_up_a_stop(project: Project) -> None:
    """They have nothing in hand and cannot hear: they are killed, and what waits stays in the queue."""
    project.tasks(SLOW_IMPORT.replace("3600)", '3600 if len(open("diary").readlines()) > 1 else 0)'))
    project.let_go("import slowly")
    execution = project.invoke("job")
    supervisor = project.start(runners=2)
    project.until(lambda: len(project.diary()) == 3, "both runners import")
    assert supervisor.stop() == 0
    assert "died" not in supervisor.output()
    assert "told again" not in supervisor.output()
    assert project.view(execution).state == "ready"
    assert [pid for pid in importers(project) if lives(pid)] == []
    assert [path.name for path in find_runtime_folder(project.url).iterdir()] == ["lock"]
