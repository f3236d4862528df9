"""The pytest plugin: a fresh database and a clock for each test, and little to load."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kit_tasks import add, app

from conductor.testing import FakeClock

seen: list[str] = []


@pytest.mark.parametrize("time", [1, 2])
def test_each_test_has_a_database_of_its_own(time: int, conductor_database: str, tmp_path: Path) -> None:
    """The same module-wide app sees only what this test has invoked."""
    handle = add.invoke([time])
    assert [view.id for view in app.list()] == [handle.id]
    assert conductor_database == app.database_url() == f"sqlite:///{tmp_path}/conductor.db"
    assert conductor_database not in seen
    seen.append(conductor_database)
    app.close()


def test_the_clock_is_that_of_clients(conductor_clock: FakeClock, conductor_database: str) -> None:
    """It stands at the present moment until the test moves it."""
    assert abs(conductor_clock.now - datetime.now(UTC)) < timedelta(minutes=2)
    conductor_clock.set(datetime(2026, 3, 1, tzinfo=UTC))
    assert app.get(add.invoke([1], delay="1d").id).due == datetime(2026, 3, 2, tzinfo=UTC)
    app.close()


def test_without_the_fixtures_nothing_is_set() -> None:
    """A test that does not ask for them is left alone."""
    assert "CONDUCTOR_CLOCK" not in os.environ
    assert "conductor.db" not in os.environ.get("CONDUCTOR_DATABASE_URL", "")


def test_pytest_starts_without_loading_the_store() -> None:
    """Everybody who has Conductor installed pays for the plugin at each start of pytest."""
    code = (
        "import sys, conductor.testing.plugin\n"
        "print(sys.modules.keys() & {'sqlalchemy', 'zmq', 'croniter', 'conductor_supervisor'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr
