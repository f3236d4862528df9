"""A project moves from SQLite to PostgreSQL: its work goes on there where it was, whatever is killed when."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from harness import PATIENCE, Project
from testbed.postgresql import PostgresServer

pytestmark = pytest.mark.together

TASKS = """
def noted(line):
    note(line)
    return line

@app.task(cron={"nightly": "0 2 * * *"}, invocable=True)
def count(event, ctx):
    for number in range(3):
        ctx.step(f"step-{number}", noted, f"{number}")
    wait_for("go")
    ctx.checkpoint()
    return ctx.step("last", noted, "last")
"""


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_work_goes_on_without_repeating_a_step(project: Project, postgres_url: str, how: str) -> None:
    """Be the supervisor stopped cleanly, or killed: what is recorded has been moved."""
    project.tasks(TASKS)
    supervisor = project.start("--shutdown-grace", "0.1s")
    execution = project.invoke("count")
    project.until_noted("2")
    project.until(lambda: len(project.view(execution).steps) == 3, "three steps are recorded")
    if how == "stopped":
        assert supervisor.stop() == 0
    else:
        supervisor.kill()
    before = project.view(execution)
    moved = project.json("copy-to", postgres_url)
    assert moved["recovered"] == (how == "killed")
    project.use_database(postgres_url)
    there = project.view(execution)
    assert (there.steps, there.payload, there.created) == (before.steps, before.payload, before.created)
    assert there.state == "ready"
    project.let_go("go")
    project.drain()
    done = project.view(execution)
    assert (done.state, done.result, done.attempt) == ("completed", "last", 0)
    assert project.diary() == ["0", "1", "2", "last"]
    assert [step.name for step in done.steps] == ["step-0", "step-1", "step-2", "last"]


@pytest.mark.parametrize(("how", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_copy_that_is_ended_leaves_nothing(
    project: Project, postgres: PostgresServer, postgres_url: str, how: signal.Signals, status: int
) -> None:
    """While it is under way nobody can write to the source; the next one begins anew."""
    project.tasks(TASKS)
    project.let_go("go")
    ids = project.invoke_many("count", [None] * 3)
    project.drain()
    name = postgres_url.rpartition("/")[2]
    for statement in STOP_AT_STEPS:
        postgres.execute(statement, name)
    with psycopg.connect(postgres_url) as gate:
        gate.execute("SELECT pg_advisory_lock(1)")
        copier = subprocess.Popen(
            [sys.executable, "-m", "conductor_supervisor", "copy-to", postgres_url],
            cwd=project.folder,
            env=project.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        project.until(lambda: postgres.execute(WAITING) == [(1,)], "the copy is at its first step")
        assert cannot_write(project.folder / "conductor.db")
        copier.send_signal(how)
        assert copier.wait(PATIENCE) == status
    project.until(lambda: postgres.execute(COPYING) == [(0,)], "the server has noticed")
    assert postgres.execute("SELECT count(*) FROM conductor.conductor_executions", name) == [(0,)]
    assert not cannot_write(project.folder / "conductor.db")
    before = [project.view(execution) for execution in ids]
    assert project.command("copy-to", postgres_url).returncode == 0
    project.use_database(postgres_url)
    assert [project.view(execution) for execution in ids] == before


STOP_AT_STEPS = (
    (
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
    ),
    "CREATE TRIGGER stop BEFORE INSERT ON conductor.conductor_steps FOR EACH ROW EXECUTE FUNCTION stop()",
)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND query LIKE 'COPY%'"
COPYING = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%'"


def cannot_write(path: Path) -> bool:
    """Tell whether somebody holds SQLite's write lock."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False
