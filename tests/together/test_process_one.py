"""A supervisor is process 1 of its container: no init stands between."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from harness import PATIENCE, Project

pytestmark = pytest.mark.together

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def may_unshare() -> bool:
    """Tell whether we may make namespaces here."""
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    )


@pytest.fixture
def process_one(project: Project) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A supervisor in a process namespace of its own: who waits for it, and itself, as seen from outside."""
    project.tasks("""
        @app.task
        def litter(event, ctx):
            code = "import os\\nif os.fork(): os._exit(0)\\nos.setsid()"
            os.spawnvp(os.P_WAIT, sys.executable, [sys.executable, "-c", code])
            return os.getppid()
    """)
    command = [*UNSHARE, sys.executable, "-m", "conductor_supervisor", "start", "tasks:app", "--runners", "1"]
    with (project.folder / "log").open("wb") as log:
        waiting = subprocess.Popen(command, cwd=project.folder, env=project.environment, stderr=log)
    try:
        (inside,) = project.until(psutil.Process(waiting.pid).children, "it is started")
        yield waiting, inside
    finally:
        waiting.kill()
        waiting.wait(PATIENCE)


@pytest.mark.skipif(not may_unshare(), reason="process namespaces cannot be made here")
def test_process_one_reaps_what_tasks_leave_and_heeds_signals(
    project: Project, process_one: tuple[subprocess.Popen[bytes], psutil.Process]
) -> None:
    """What nobody else waits for becomes its child. The kernel spares it signals that it does not handle."""
    waiting, inside = process_one
    project.until(lambda: project.command("health").returncode == 0, "it is healthy")
    assert project.json("health")["pid"] == 1
    executions = project.invoke_many("litter", [None] * 3)
    for execution in executions:
        assert project.until_state(execution, "completed").result == 1
    project.until(
        lambda: not [child for child in inside.children() if child.status() == psutil.STATUS_ZOMBIE],
        "what has ended is reaped",
    )
    inside.send_signal(signal.SIGTERM)
    assert waiting.wait(PATIENCE) == 0
