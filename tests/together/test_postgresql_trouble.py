"""PostgreSQL restarts, fails over, answers slowly or breaks connections under a running supervisor."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from conductor import Conductor, DatabaseAway
from conductor_supervisor.store.database import Database
from harness import Project, Supervisor
from proxy import Proxy
from testbed.postgresql import PostgresServer

pytestmark = pytest.mark.together

TASKS = """
    @app.task(max_attempts=1)
    def steps(event, ctx):
        for number in range(event.payload):
            ctx.step(f"step {number}", note, f"{ctx.execution_id} step {number}")
            time.sleep(0.01)
        return "done"

    @app.task(max_attempts=1)
    def quick(event, ctx):
        note(f"quick {event.payload}")
    """


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of the test's own, which may be killed: it keeps what it has committed."""
    with PostgresServer() as server:
        database = Database.open(server.url())
        database.migrate()
        database.close()
        yield server


@pytest.fixture
def network(server: PostgresServer) -> Iterator[Proxy]:
    """The network before that server."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def project(tmp_path: Path, server: PostgresServer, network: Proxy) -> Iterator[Project]:
    """A project whose supervisors reach the server through that network; clients reach it by themselves."""
    with Project(tmp_path, server.url()) as project:
        project.environment["CONDUCTOR_DATABASE_URL"] = server.url(port=network.port)
        project.tasks(TASKS)
        yield project


def at_work(project: Project, executions: int = 4, steps: int = 60) -> tuple[Supervisor, list[str]]:
    """Return a supervisor in the middle of some executions, and those."""
    ids = project.invoke_many("steps", [steps] * executions)
    supervisor = project.start("--runtime", str(project.folder / "run"))
    project.until(lambda: len(project.diary()) > 10, "it works")
    return supervisor, ids


def check_nothing_lost_nothing_twice(project: Project, ids: list[str], steps: int = 60) -> None:
    """Every execution completes in its first attempt, and each of its steps has run once."""
    for one in ids:
        view = project.until_state(one, "completed", "failed")
        assert (view.state, len(view.attempts)) == ("completed", 1)
        assert [step.name for step in view.steps] == [f"step {number}" for number in range(steps)]
    ran = Counter(line for line in project.diary() if " step " in line)
    assert set(ran.values()) == {1}
    assert len(ran) == len(ids) * steps


def lines_about_it(supervisor: Supervisor) -> list[str]:
    """Return what the log says of the database."""
    return [line for line in supervisor.output().splitlines() if "the database is" in line]


@pytest.mark.parametrize("how", ["restart", "crash", "refused"])
def test_runners_wait_while_the_database_is_away(
    project: Project, server: PostgresServer, network: Proxy, how: str
) -> None:
    """Work goes on by itself afterwards, and the log has two lines."""
    supervisor, ids = at_work(project)
    if how == "refused":
        network.cut()
    elif how == "restart":
        server.stop()
    else:
        server.kill()
    project.until(lambda: "the database is away" in supervisor.output(), "it is noticed")
    before = len(project.diary())
    time.sleep(1.0)  # the trouble lasts a while
    assert len(project.diary()) - before <= 2 * 2  # each runner ends its step, and waits
    network.mend()
    if how != "refused":
        server.start()
    check_nothing_lost_nothing_twice(project, ids)
    away, back = lines_about_it(supervisor)
    assert "the database is away" in away
    assert "the database is back" in back
    assert supervisor.stop() == 0


def test_a_commit_whose_answer_is_lost_is_not_made_twice(project: Project, network: Proxy) -> None:
    """Neither a step, nor an ending, nor a claim: nothing stays running in nobody's hands."""
    supervisor, ids = at_work(project, steps=40)
    quick = project.invoke_many("quick", list(range(50)))
    for _ in range(6):
        lost = network.commits_lost
        network.lose_answers_of_commits = 1
        project.until(lambda: network.commits_lost > lost, "a commit is lost")  # noqa: B023
    check_nothing_lost_nothing_twice(project, ids, steps=40)
    for one in quick:
        project.until_state(one, "completed")
    assert Counter(line for line in project.diary() if "quick" in line) == Counter(
        f"quick {number}" for number in range(50)
    )
    assert supervisor.stop() == 0
    assert "late ending" not in supervisor.output()


@pytest.mark.parametrize("how", ["half-closed", "slow"])
def test_a_bad_network_loses_nothing(project: Project, network: Proxy, how: str) -> None:
    """Whatever it does to the connections."""
    supervisor, ids = at_work(project, steps=30)
    if how == "slow":
        network.delay = 0.02
        project.until(lambda: len(project.diary()) > 60, "it goes on")
        network.mend()
    else:
        network.half_close()
    check_nothing_lost_nothing_twice(project, ids, steps=30)
    assert supervisor.stop() == 0


@pytest.mark.parametrize("how", ["result", "result_async"])
def test_a_client_that_waits_for_a_result_waits_for_the_server_too(
    project: Project, server: PostgresServer, how: str
) -> None:
    """If it is only away for a while, and not longer than the client would wait."""
    with Conductor(server.url()) as client:
        handle = client.invoke("steps", 1)
        handle.state()  # it has a connection, which breaks
        server.stop()
        with pytest.raises(DatabaseAway):
            client.get(handle.id)
        with pytest.raises(TimeoutError, match=r"was not seen to end within 100 ms: .* cannot be used"):
            handle.result(timeout=0.1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(
                lambda: handle.result(60) if how == "result" else asyncio.run(handle.result_async(60))
            )
            server.start()
            project.drain(runners=1)
            assert waiting.result() == "done"


def test_a_server_that_is_stopped_for_a_while_is_waited_for(project: Project, server: PostgresServer) -> None:
    """It takes connections and does not answer; afterwards all goes on."""
    supervisor, ids = at_work(project)
    server.send(signal.SIGSTOP)
    time.sleep(1.0)
    server.send(signal.SIGCONT)
    check_nothing_lost_nothing_twice(project, ids)
    assert supervisor.stop() == 0


def test_a_supervisor_that_is_cut_off_gives_way_to_another(
    project: Project, server: PostgresServer, network: Proxy
) -> None:
    """It kills its runners before its lease ends; its late words change nothing when it is back."""
    project.environment["CONDUCTOR_LEASE"] = "3s"
    first, ids = at_work(project, executions=2, steps=100)
    network.frozen = True
    project.environment["CONDUCTOR_DATABASE_URL"] = server.url()
    second = project.start("--runtime", str(project.folder / "other"))
    project.until(lambda: "all runners are killed" in first.output(), "the first has given up")
    for one in ids:
        project.until_state(one, "completed")
    network.mend()
    project.until(lambda: "work goes on" in first.output(), "the first is back")
    assert (first.stop(), second.stop()) == (0, 0)
    for one in ids:
        view = project.view(one)
        assert view.attempt == 0
        assert [step.name for step in view.steps] == [f"step {number}" for number in range(100)]


def test_sessions_that_idle_and_statements_that_take_long_are_ended_by_the_server(
    project: Project, server: PostgresServer
) -> None:
    """As administrators like to have it; that loses nothing."""
    server.execute("ALTER ROLE postgres SET idle_in_transaction_session_timeout = '50ms'")
    server.execute("ALTER ROLE postgres SET statement_timeout = '2s'")
    server.execute("ALTER ROLE postgres SET idle_session_timeout = '300ms'")
    supervisor, ids = at_work(project, steps=30)
    check_nothing_lost_nothing_twice(project, ids, steps=30)
    assert supervisor.stop() == 0


def test_a_stop_does_not_wait_for_what_an_application_keeps_locked(
    project: Project, server: PostgresServer
) -> None:
    """Nor do the steps of others. Here many handlers invoke with a key that is in an open transaction."""
    project.use_database(server.url())
    project.tasks("""
        @app.task(isolation="shared")
        async def asks(event, ctx):
            note("asks")
            await target.invoke_async(dedupe_key="kept")
        @app.task
        def target(event, ctx): ...
        @app.task
        def counts(event, ctx):
            for number in range(40):
                ctx.step(f"step {number}", time.sleep, 0.01)
    """)
    project.environment["CONDUCTOR_SHUTDOWN_GRACE"] = "1s"
    supervisor = project.start()
    (owner,) = project.invoke_many("target", [None])
    project.until_state(owner, "completed")
    with psycopg.connect(server.url()) as application:
        application.execute(
            "UPDATE conductor.conductor_executions SET state = 'ready', result = NULL, finished_at = NULL,"
            " expires_at = NULL, dedupe_key = 'kept'"
        )
        ids = project.invoke_many("asks", [None] * 60)
        project.until_noted("asks", 60)
        project.until_state(project.invoke("counts"), "completed")
        assert supervisor.stop() == 0
        application.rollback()
    assert [project.view(one).attempt for one in ids] == [0] * 60
    project.drain()
    assert {project.view(one).state for one in ids} == {"completed"}


BALLAST = "ballast"
"""A file on the small disk: without it there is room again."""


@pytest.fixture
def small_disk(server: PostgresServer) -> Iterator[str]:
    """The URL of a database of the server's on a disk of its own, with 64 MB."""
    disk = server.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        (disk / BALLAST).write_bytes(bytes(16 << 20))
        shutil.chown(disk, "nobody")
        server.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        server.execute("CREATE DATABASE small TABLESPACE small")
        yield server.url("small")
        server.stop()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_full_is_waited_for(project: Project, server: PostgresServer, small_disk: str) -> None:
    """The server's; and work goes on by itself when there is room again."""
    project.use_database(small_disk)
    supervisor, ids = at_work(project, executions=4, steps=300)
    with full_disk(server):
        project.until(lambda: lines_about_it(supervisor), "it is noticed")
        assert "No space left" in lines_about_it(supervisor)[0]
    check_nothing_lost_nothing_twice(project, ids, steps=300)
    assert len(lines_about_it(supervisor)) % 2 == 0
    assert supervisor.stop() == 0


@contextmanager
def full_disk(server: PostgresServer) -> Iterator[None]:
    """Fill the small disk to its last page: by one connection, for no other can begin when it is full."""
    with psycopg.connect(server.url("small"), autocommit=True) as filler:
        filler.execute("CREATE TABLE filler (block text)")
        for length in (30_000, 3_000, 30):
            noise = f"SELECT string_agg(md5(random()::text), '') FROM generate_series(1, {length})"
            with pytest.raises(psycopg.errors.DiskFull):
                filler.execute(f"DO $$BEGIN LOOP INSERT INTO filler {noise}; COMMIT; END LOOP; END$$")
        yield
    # A server that can write nothing could not even drop the table.
    (server.folder / "disk" / BALLAST).unlink()
