"""What a process does not need, it does not import: that is most of the time that a start takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HELP = "from conductor_supervisor.cli import cli; cli(['--help'], standalone_mode=False)"
HEALTH = "from conductor_supervisor.cli import cli; cli(['health'], standalone_mode=False)"
CLIENT = "from conductor import Conductor; app = Conductor(); app.invoke('t'); app.close()"
STORE = ("sqlalchemy", "alembic", "uuid_utils")


@pytest.mark.parametrize(
    ("doing", "needless"),
    [
        ("import conductor", ("asyncio", "zmq", "croniter", "difflib", "conductor_supervisor", *STORE)),
        ("import conductor.child.process", ("asyncio", "croniter", "conductor_supervisor", *STORE)),
        (HELP, ("zmq", "asyncio", "rich", "psutil", "croniter", *STORE)),
        (HEALTH, ("asyncio", "rich", "psutil", "croniter", *STORE)),
        (CLIENT, ("zmq", "alembic", "sqlalchemy.dialects.postgresql")),
        ("import conductor_supervisor.supervisor", ("alembic", "croniter", "rich", "conductor")),
    ],
    ids=["declaring", "a runner", "the help", "health", "a client with a new database", "a supervisor"],
)
def test_what_is_not_needed_is_not_imported(doing: str, needless: tuple[str, ...], tmp_path: Path) -> None:
    """In a fresh interpreter."""
    look = f"{doing}\nimport sys\nprint('imported:', *[name for name in {needless} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "imported:"
