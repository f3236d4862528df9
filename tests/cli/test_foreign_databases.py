"""A command that looks leaves a database as it is: another application's, and one of an older version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from workplace import Workplace

from conductor_protocol.manifest import TaskSpec
from conductor_supervisor.store import schema

LOOKS = [["status"], ["list"], ["show", "0" * 36], ["tasks"], ["schedules"]]


@pytest.fixture
def foreign(workplace: Workplace) -> Path:
    """Another application's database, in the journal mode of its choice."""
    path = workplace.folder / "other.db"
    with closing(sqlite3.connect(path)) as driver:
        driver.execute("CREATE TABLE customers (name TEXT)")
        driver.execute("INSERT INTO customers VALUES ('Ada')")
        driver.commit()
    return path


def tables(path: Path) -> set[str]:
    """Return the names of a database's tables."""
    with closing(sqlite3.connect(path)) as driver:
        return {name for (name,) in driver.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.parametrize("command", LOOKS, ids=lambda command: command[0])
def test_looking_changes_nothing_in_a_foreign_database(
    workplace: Workplace, foreign: Path, command: list[str]
) -> None:
    """Not a byte; and the message says what to do."""
    before = foreign.read_bytes()
    said = workplace.error(*command, "--database", "sqlite:///other.db", status=1)
    assert "other.db has no tables of Conductor's; name the right database with --database" in said
    assert foreign.read_bytes() == before
    assert [path.name for path in workplace.folder.iterdir()] == ["other.db"]


def test_doctor_changes_nothing_in_a_foreign_database(workplace: Workplace, foreign: Path) -> None:
    """It may be meant to be shared, so this is a warning."""
    before = foreign.read_bytes()
    found = {one["check"]: one for one in workplace.json("doctor", "--database", "sqlite:///other.db")}
    assert found["database"]["health"] == "warning"
    assert "has no tables of Conductor's" in found["database"]["found"]
    assert foreign.read_bytes() == before


def test_an_application_may_share_its_database(workplace: Workplace, foreign: Path) -> None:
    """What writes makes the tables that it needs, and leaves the others."""
    workplace.run("invoke", "mail", "--database", "sqlite:///other.db")
    assert {"customers", "conductor_executions"} <= tables(foreign)
    (listed,) = workplace.json("list", "--database", "sqlite:///other.db")
    assert listed["task"] == "mail"


@pytest.mark.parametrize("command", LOOKS, ids=lambda command: command[0])
def test_looking_does_not_update_an_older_database(
    workplace: Workplace, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what does."""
    workplace.declare(TaskSpec("resize"))
    monkeypatch.setattr(schema, "HEAD", "the next")
    said = workplace.error(*command, status=1)
    assert "made by an older version" in said
    assert "conductor-supervisor migrate" in said


def test_looking_leaves_no_files_behind(workplace: Workplace) -> None:
    """SQLite's helpers beside a database are gone with the last one that reads it."""
    workplace.run("migrate")
    for command in (["status"], ["list"], ["tasks"], ["schedules"], ["doctor"]):
        workplace.run(*command)
    assert [path.name for path in workplace.folder.iterdir()] == ["conductor.db"]
