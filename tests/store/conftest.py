"""What the store's tests share: they all run on both kinds of database."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from conductor_supervisor.store import schema
from conductor_supervisor.store.database import Database


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, made once and copied for each test."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    database = Database.open(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a migrated SQLite database without rows."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'conductor.db')}"


@pytest.fixture(params=["sqlite_url", "postgres_url"], ids=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database without rows."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """That database, open."""
    database = Database.open(database_url)
    yield database
    database.close()


@pytest.fixture
def held(database: Database) -> Callable[..., AbstractContextManager[None]]:
    """Have somebody keep executions locked for a while; on SQLite nobody can keep one alone."""

    @contextmanager
    def held(*ids: str) -> Iterator[None]:
        if not database.shared:
            pytest.skip("only where executions are locked one by one")
        with database.writing() as connection:
            connection.execute(_HOLD.where(schema.executions.c.id.in_(ids)))
            yield

    return held


_HOLD = select(schema.executions.c.id).with_for_update()
