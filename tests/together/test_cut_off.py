"""A machine that loses its network: a supervisor in a network namespace whose cable is pulled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conductor_supervisor.store.database import Database
from harness import Project
from namespace import Namespace
from testbed.postgresql import PostgresServer

pytestmark = pytest.mark.together

STEPS = 60

TASKS = """
    @app.task(max_attempts=1)
    def steps(event, ctx):
        for number in range(event.payload):
            ctx.step(f"step {number}", note, f"{ctx.execution_id} {os.getpid()} {number}")
            time.sleep(0.02)
        note(f"{ctx.execution_id} {os.getpid()} ended")
    """


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """Another machine."""
    with Namespace() as machine:
        yield machine


@pytest.fixture
def server(machine: Namespace) -> Iterator[PostgresServer]:
    """A server that listens to the other machine too."""
    with PostgresServer(listen_addresses=f"127.0.0.1,{machine.host}") as server:
        server.let_in(machine.network)
        database = Database.open(server.url())
        database.migrate()
        database.close()
        yield server


def test_a_machine_without_network_loses_its_executions_and_overwrites_nothing_when_it_is_back(
    project: Project, server: PostgresServer, machine: Namespace
) -> None:
    """No step that was acknowledged runs again, nobody is charged, and no two run one execution at once."""
    project.use_database(server.url())
    project.tasks(TASKS)
    project.environment["CONDUCTOR_LEASE"] = "3s"
    ids = project.invoke_many("steps", [STEPS] * 2)
    project.environment["CONDUCTOR_DATABASE_URL"] = server.url().replace("127.0.0.1", machine.host)
    far = project.start("--runtime", str(project.folder / "far"), within=machine.within)
    project.until(lambda: len(project.diary()) > 10, "the far machine works")
    project.environment["CONDUCTOR_DATABASE_URL"] = server.url()
    near = project.start("--runtime", str(project.folder / "near"))
    project.until(lambda: "started" in near.output(), "the near machine is there")
    machine.pull()
    project.until(lambda: "all runners are killed" in far.output(), "the far machine has given up")
    for one in ids:
        project.until_state(one, "completed", "failed")
    machine.plug_in()
    project.until(lambda: "work goes on" in far.output(), "the far machine is back")
    assert (far.stop(), near.stop()) == (0, 0)
    for one in ids:
        check(project, one)


def check(project: Project, execution: str) -> None:
    """Every step is recorded once, and at most the one that was under way has run twice."""
    view = project.view(execution)
    assert (view.state, view.attempt) == ("completed", 0)
    assert [step.name for step in view.steps] == [f"step {number}" for number in range(STEPS)]
    ran = [line.split()[1:] for line in project.diary() if line.startswith(execution)]
    (first, *_), (last, *_) = ran[0], ran[-1]
    mine = [process for process, _ in ran]
    assert mine == sorted(mine, key=[first, last].index)
    numbers = [int(number) for _, number in ran[:-1]]
    repeated = len(numbers) - STEPS
    assert repeated in (0, 1)
    assert sorted(set(numbers)) == list(range(STEPS))
