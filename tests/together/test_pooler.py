"""Behind PgBouncer in transaction mode: everything works, by polling. Skipped where it is not installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness import PATIENCE, Project, Supervisor
from testbed.postgresql import PostgresServer

pytestmark = [
    pytest.mark.together,
    pytest.mark.skipif(
        shutil.which("pgbouncer", path=f"{os.environ.get('PATH')}:/usr/sbin") is None,
        reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)",
    ),
]


@pytest.fixture
def pooled_url(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """The database through a pooler that gives each transaction another connection."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH')}:/usr/sbin")
    assert program is not None
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    folder = postgres.folder / f"pooler-{port}"
    folder.mkdir()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"""
        [databases]
        * = host=127.0.0.1 port={postgres.port} user=postgres
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        """.replace("        ", "")
    )
    folder.chmod(0o755)
    pooler = subprocess.Popen(
        [program, configuration], user="nobody" if os.getuid() == 0 else None, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        yield f"postgresql://postgres@127.0.0.1:{port}/{postgres_url.rpartition('/')[2]}"
    finally:
        pooler.kill()
        pooler.wait(PATIENCE)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("the pooler did not start")


def says_so(supervisor: Supervisor) -> bool:
    """Tell whether it has said that it polls."""
    return "notifications of the database do not arrive" in supervisor.output()


def test_a_supervisor_behind_a_pooler_polls_and_says_so(tmp_path: Path, pooled_url: str) -> None:
    """Steps, limits, a second supervisor, and clients: none of them needs a session of its own."""
    with Project(tmp_path, pooled_url) as project:
        project.tasks(
            """
            @app.task(concurrency=1)
            def steps(event, ctx):
                for number in range(5):
                    ctx.step(f"step {number}", note, f"{ctx.execution_id} {number}")
            """
        )
        supervisors = [project.start("--runtime", str(tmp_path / name)) for name in ("a", "b")]
        for one in supervisors:
            project.until(
                lambda one=one: "notifications of the database do not arrive" in one.output(), "said"
            )  # type: ignore[misc]
        ids = project.invoke_many("steps", [None] * 10)
        for one in ids:
            assert project.until_state(one, "completed", "failed").state == "completed"
        assert sorted(project.diary()) == sorted(f"{one} {number}" for one in ids for number in range(5))
        assert [one.stop() for one in supervisors] == [0, 0]
        assert not [line for one in supervisors for line in one.output().splitlines() if " ERROR " in line]
