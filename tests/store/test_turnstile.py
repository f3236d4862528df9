"""Who writes one transaction after another to a SQLite file lets others in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conductor_supervisor.store.database import Database
from conductor_supervisor.store.location import SqliteLocation, locate

BUSY = """
import itertools, sys, time
from pathlib import Path
from conductor_supervisor.store.database import Database

database = Database.open(sys.argv[1])
for number in itertools.count():
    with database.writing():
        Path(sys.argv[2]).write_text(f"{number}\\n")
        time.sleep(0.005)
"""
"""Writes without a pause, and counts its transactions in a file."""

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""

MOST_BETWEEN = 30
"""Transactions of the other: without a turnstile there are hundreds."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Only SQLite's."""
    return sqlite_url


@pytest.fixture
def lock(database_url: str) -> Path:
    """The file that a supervisor locks; there is one where one has run."""
    location = locate(database_url)
    assert isinstance(location, SqliteLocation)
    location.lock.touch()
    return location.lock


@contextmanager
def running(code: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_transaction_comes_soon_between_those_of_a_process_that_never_pauses(
    database: Database, database_url: str, lock: Path, tmp_path: Path
) -> None:
    """Counted in transactions of the other."""
    assert lock.exists()
    counted = tmp_path / "counted"
    counted.touch()
    with running(BUSY, database_url, str(counted)):
        while not counted.read_text().endswith("\n"):
            pass
        passed = []
        for _ in range(5):
            before = number(counted)
            with database.writing():
                passed.append(number(counted) - before)
    assert max(passed) < MOST_BETWEEN, passed


def number(counted: Path) -> int:
    """Return how many transactions the other has begun."""
    while not (text := counted.read_text()).endswith("\n"):  # it is just being written
        pass
    return int(text)


def test_nobody_is_kept_waiting_by_a_process_that_stays_in_the_turnstile(
    database: Database, lock: Path
) -> None:
    """It may have been stopped."""
    with running(HOLD, str(lock)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):
            with database.writing():
                pass
        assert holder.poll() is None
