"""The schema comes to be by migrations, whoever runs them and how many at once."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from store_moves import claim, migrate

from conductor_supervisor.errors import StoreError
from conductor_supervisor.store import migrations, schema
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.database import Database


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Only SQLite's."""
    return sqlite_url


def test_an_empty_file_gets_its_tables_once(tmp_path: Path) -> None:
    """The second time there is nothing to do."""
    url = f"sqlite:///{tmp_path}/a.db"
    assert migrate(url)
    assert not migrate(url)


def test_many_processes_may_migrate_at_once(tmp_path: Path) -> None:
    """One of them does the work, the others wait and find it done."""
    url = f"sqlite:///{tmp_path}/a.db"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        did = pool.map(migrate, [url] * 6, chunksize=1)
        pool.close()
        pool.join()
    assert sorted(did) == [False] * 5 + [True]


def test_the_migrations_lead_to_the_schema(database: Database, tmp_path: Path) -> None:
    """A new database is made without them: its tables, indexes and constraints are those that they make."""
    updated = Database.open(f"sqlite:///{tmp_path}/updated.db")
    with updated.writing() as connection:
        migrations.upgrade(connection)
    with updated.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []
    assert _definitions(updated) == _definitions(database)
    assert not updated.migrate()
    updated.close()


def _definitions(database: Database) -> dict[str, set[str]]:
    """Each table and index as the parts of its SQL: their order tells nothing.

    A column that was added later stands behind the one before it on the same line.
    """
    with database.reading() as connection:
        found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: {part.strip(" \t,") for part in re.split(r"\n|, ", sql)} for name, sql in found}


def test_the_code_knows_the_newest_revision(database: Database) -> None:
    """So a check needs no Alembic; and there is one head."""
    assert migrations.heads() == [schema.HEAD]
    with database.reading() as connection:
        found = connection.exec_driver_sql(f"SELECT version_num FROM {schema.VERSION_TABLE}").scalar_one()
    assert found == schema.HEAD


def test_a_newer_schema_is_left_alone(database: Database) -> None:
    """An older program must not write into it."""
    with database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"schema is 9999.*pip install --upgrade"):
        database.migrate()


def test_an_application_may_live_in_the_same_file(tmp_path: Path) -> None:
    """Its tables and its own Alembic are not touched."""
    url = f"sqlite:///{tmp_path}/a.db"
    database = Database.open(url)
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num TEXT)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
        connection.exec_driver_sql("CREATE TABLE tasks (title TEXT)")
    assert database.migrate()
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT * FROM alembic_version").scalars().all() == ["theirs"]
    database.close()


def test_an_older_database_keeps_its_executions(tmp_path: Path) -> None:
    """They are read and claimed as before; none of them is a suspect."""
    database = Database.open(f"sqlite:///{tmp_path}/a.db")
    with database.writing() as connection:
        migrations.upgrade(connection, "0001")
        connection.exec_driver_sql(
            "INSERT INTO conductor_executions (id, task, state, priority, event, payload, created_at, due_at,"
            " attempt, claim, lost) VALUES ('e', 't', 'ready', 0, 'conductor.invoke', 'null', 1, 1, 0, 0, 0)"
        )
    assert database.migrate()
    assert [(c.id, c.suspect) for c in claim(database, Wanted("t", 1, suspects=False))] == [("e", False)]
    database.close()
