"""What all tests share: a project folder with a tasks module, and a real supervisor to run it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings

from conductor_supervisor.store.database import Database
from harness import Project
from testbed.postgresql import PostgresServer

# A slow machine is no failure: no test measures time.
settings.register_profile("conductor", deadline=None)
settings.load_profile("conductor")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a PostgreSQL server, so that it can be run with another version of it."""
    for item in items:
        if "postgres" in item.nodeid or {"postgres", "server"}.intersection(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker("postgresql")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A folder of its own with a database, in which supervisors can be started; none outlives the test."""
    with Project(tmp_path) as project:
        yield project


@pytest.fixture
def shared_project(tmp_path: Path, postgres_url: str) -> Iterator[Project]:
    """The same, with a PostgreSQL database."""
    with Project(tmp_path, postgres_url) as project:
        yield project


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, started once for each process of the test run."""
    with PostgresServer(fsync="off", full_page_writes="off", synchronous_commit="off") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a migrated database without rows, made once and copied for each test."""
    postgres.execute("CREATE DATABASE template")
    database = Database.open(postgres.url("template"))
    database.migrate()
    database.close()
    return "template"


@pytest.fixture
def postgres_url(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database without rows."""
    name = f"test_{next(_numbers)}"
    strategy = "STRATEGY file_copy" if postgres.version > 14 else ""
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {postgres_template} {strategy}")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


_numbers = count()
