"""The database is deleted, replaced, full or broken under a running supervisor."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness import Project, Supervisor

pytestmark = pytest.mark.together

STEPS = """
    @app.task(max_attempts=1)
    def steps(event, ctx):
        note(f"runner {os.getpid()}")
        for number in range(event.payload):
            ctx.step(f"step {number}", note, f"step {number}")
        wait_for("go on")
        ctx.step("last", note, "last")
        return "done"
    """


def has_ended_for_its_file(supervisor: Supervisor, path: Path) -> bool:
    """Tell whether it has ended with status 1, and named the file once."""
    return supervisor.wait() == 1 and supervisor.output().count(f"the database file {path} was deleted") == 1


def is_alive(pid: int) -> bool:
    """Tell whether a process is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.parametrize("replaced", [False, True])
def test_a_supervisor_whose_database_is_gone_acknowledges_nothing_and_ends(
    project: Project, replaced: bool
) -> None:
    """With status 1 and one message; its runners end with it, and a start with the right file goes on."""
    project.tasks(STEPS)
    execution = project.invoke("steps", 5)
    supervisor = project.start(runners=1)
    project.until_noted("step 4")
    path = project.folder / "conductor.db"
    files = [path.with_name(path.name + end) for end in ("", "-wal", "-shm")]
    kept = [file.with_name(f"kept {file.name}") for file in files]
    for file, name in zip(files, kept, strict=True):
        os.link(file, name)
        file.unlink()
    if replaced:
        other = Project(project.folder)
        other.invoke("other")
        other.door.close()
    project.let_go("go on")
    assert has_ended_for_its_file(supervisor, path)
    assert "Traceback" not in supervisor.output()
    (runner,) = {int(line.split()[1]) for line in project.diary() if line.startswith("runner")}
    assert not is_alive(runner)
    for file, name in zip(files, kept, strict=True):
        name.replace(file)
    project.drain(runners=1)
    assert project.view(execution).state == "completed"
    assert [project.diary().count(f"step {number}") for number in range(5)] == [1] * 5


def test_an_idle_supervisor_notices_that_its_database_is_gone(project: Project) -> None:
    """It need not be asked for anything."""
    project.tasks("")
    supervisor = project.start(runners=1)
    project.until(lambda: "started:" in supervisor.output(), "it has started")
    path = project.folder / "conductor.db"
    path.unlink()
    assert has_ended_for_its_file(supervisor, path)


def test_a_file_that_is_no_database_is_one_message(project: Project) -> None:
    """At the start."""
    project.tasks("")
    (project.folder / "conductor.db").write_bytes(b"garbage" * 1000)
    supervisor = project.start(runners=1)
    assert supervisor.wait() == 1
    assert "conductor.db cannot be used: file is not a database" in supervisor.output()
    assert "Traceback" not in supervisor.output()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, which is soon full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing more fits; return the file that takes the room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return filler


def test_work_waits_while_the_disk_is_full(project: Project, small_disk: Path) -> None:
    """It goes on by itself when there is room again: nothing is lost, no step runs twice; the log says so."""
    project.url = project.environment["CONDUCTOR_DATABASE_URL"] = f"sqlite:///{small_disk}/conductor.db"
    project.tasks(
        """
        @app.task(max_attempts=1)
        def steps(event, ctx):
            for number in range(400):
                ctx.step(f"step {number}", large, number)
            return "done"

        def large(number):
            note(f"step {number}")
            if number == 10:
                wait_for("go on")
            return "x" * 500
        """
    )
    execution = project.invoke("steps")
    supervisor = project.start(runners=1)
    project.until_noted("step 10")
    filler = fill(small_disk)
    project.let_go("go on")
    project.until(lambda: "the database is away" in supervisor.output(), "the supervisor has noticed")
    assert "step 399" not in project.diary()
    filler.unlink()
    assert project.until_state(execution, "completed").attempt == 0
    assert supervisor.stop() == 0
    assert project.diary() == [f"step {number}" for number in range(400)]
    told = [line for line in supervisor.output().splitlines() if "database is" in line]
    assert len(told) == 2, told
    assert "the database is away, 1 write waits: " in told[0]
    assert "full" in told[0]
    assert "the database is back after" in told[1]


def test_a_disk_that_is_full_at_the_start_is_one_message(project: Project, small_disk: Path) -> None:
    """With status 1."""
    project.url = project.environment["CONDUCTOR_DATABASE_URL"] = f"sqlite:///{small_disk}/conductor.db"
    project.tasks("")
    fill(small_disk)
    supervisor = project.start(runners=1)
    assert supervisor.wait() == 1
    assert "cannot be used: " in supervisor.output()
    assert "Traceback" not in supervisor.output()
