"""``copy-to``: what it says, and when it refuses."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from workplace import NOON, Workplace

from conductor_protocol.manifest import TaskSpec
from conductor_supervisor.errors import OutdatedDatabase
from conductor_supervisor.runtime import database_lock, folder_lock, runtime_folder
from conductor_supervisor.store import leases, migrations
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.leases import Member
from testbed.postgresql import PostgresServer

TABLES = ["executions", "steps", "attempts", "output", "starts", "schedules", "tasks", "pauses"]
AN_EXECUTION = """
    INSERT INTO conductor_executions
        (id, task, state, priority, event, payload, created_at, due_at, attempt, claim, lost)
    VALUES ('x', 't', 'ready', 0, 'invoke', '1', 1, 1, 0, 0, 0)
    """
MEMBER = Member("id", "web1", 4711, "shop:app", NOON)


@pytest.fixture
def fresh_url(postgres: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database that Conductor has never seen."""
    postgres.execute("CREATE DATABASE fresh")
    yield postgres.url("fresh")
    postgres.execute("DROP DATABASE fresh WITH (FORCE)")


@pytest.fixture
def target(postgres_url: str) -> Iterator[Database]:
    """The database to copy to, open."""
    database = Database.open(postgres_url)
    yield database
    database.close()


@pytest.fixture(autouse=True)
def _three_executions(workplace: Workplace) -> None:
    """What there is to copy."""
    workplace.declare(TaskSpec("resize"))
    workplace.insert("resize", count=3)


def schemas(postgres: PostgresServer, database: str) -> list[tuple[object, ...]]:
    """Return whether there is a schema of ours."""
    return postgres.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'conductor'", database)


def test_it_says_what_it_did_and_what_to_do(workplace: Workplace, fresh_url: str) -> None:
    """The new database has its tables first; the old one stays."""
    result = workplace.run("copy-to", fresh_url)
    assert "executions     3  " in result.stdout
    assert f"is copied to {fresh_url}" in result.stdout
    assert "CONDUCTOR_DATABASE_URL" in result.stdout
    assert "nobody else can write" in result.stderr
    before = workplace.json("list")
    assert workplace.json("list", "--database", fresh_url) == before
    assert len(before) == 3


def test_as_json(workplace: Workplace, target: Database) -> None:
    """The checksums are whole."""
    view = workplace.json("copy-to", target.url_for_people)
    assert [each["table"] for each in view["tables"]] == TABLES
    assert [each["rows"] for each in view["tables"]] == [3, 0, 0, 0, 0, 0, 1, 0]
    assert {len(each["sha256"]) for each in view["tables"]} == {64}
    assert (view["dry_run"], view["recovered"], view["target"]) == (False, 0, target.url_for_people)


def test_a_role_that_can_only_write_rows(
    workplace: Workplace, postgres: PostgresServer, postgres_url: str
) -> None:
    """It owns no table and no sequence; the tables are there already."""
    name = postgres_url.rpartition("/")[2]
    postgres.execute("CREATE ROLE clerk LOGIN")
    try:
        postgres.execute("GRANT USAGE ON SCHEMA conductor TO clerk", name)
        for rights in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            postgres.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA conductor TO clerk", name)
        workplace.run("copy-to", postgres_url.replace("postgres@", "clerk@"))
    finally:
        postgres.execute("DROP OWNED BY clerk", name)
        postgres.execute("DROP ROLE clerk")


def test_back_to_sqlite(workplace: Workplace, postgres_url: str) -> None:
    """The other way round as well: a new file gets its tables first."""
    workplace.run("copy-to", postgres_url)
    back = f"sqlite:///{workplace.folder}/back.db"
    workplace.run("copy-to", back, "--database", postgres_url)
    assert workplace.json("list", "--database", back) == workplace.json("list")


def test_a_dry_run_counts_and_changes_nothing(
    workplace: Workplace, postgres: PostgresServer, fresh_url: str
) -> None:
    """Not even tables are made."""
    view = workplace.json("copy-to", fresh_url, "--dry-run")
    assert [each["rows"] for each in view["tables"]] == [3, 0, 0, 0, 0, 0, 1, 0]
    assert view["obstacle"] is None
    told = workplace.run("copy-to", fresh_url, "--dry-run").stdout
    assert told.endswith(f"\nnothing was copied; {fresh_url} can take it\n")
    assert schemas(postgres, "fresh") == []
    assert not list(workplace.folder.glob("*-lock"))


def test_a_dry_run_tells_who_has_to_stop_first(workplace: Workplace, target: Database) -> None:
    """It needs not: the supervisors go on, on whichever side and machine."""
    url, here = target.url_for_people, f"sqlite:///{workplace.folder}/conductor.db"
    locks = (folder_lock(workplace.runtime), database_lock(here), folder_lock(runtime_folder(url)))
    running = f"a supervisor is running already (process {os.getpid()}, since "
    for lock in locks:
        with lock:
            view = workplace.json("copy-to", url, "--dry-run")
            told = workplace.run("copy-to", url, "--dry-run").stdout
        assert [each["rows"] for each in view["tables"]] == [3, 0, 0, 0, 0, 0, 1, 0]
        assert view["obstacle"].startswith(running)
        assert f"{url} can take it; but first: {running}" in told
        assert workplace.json("copy-to", url, "--dry-run")["obstacle"] is None
    with target.writing() as connection:
        leases.renew(connection, MEMBER, 30_000_000)
    back = f"sqlite:///{workplace.folder}/back.db"
    for arguments in ((url,), (back, "--database", url)):
        assert "process 4711 on web1" in workplace.json("copy-to", *arguments, "--dry-run")["obstacle"]


# What is running when the supervisor died


def test_what_a_dead_supervisor_ran_is_taken_back_on_the_other_side(
    workplace: Workplace, target: Database
) -> None:
    """As its next start would have done: uncharged, with an attempt that was lost."""
    claimed = workplace.claim("resize")
    url = target.url_for_people
    result = workplace.run("copy-to", url)
    assert "1 execution had been running when the last supervisor died" in result.stdout
    shown = workplace.json("show", claimed.id, "--database", url)
    assert (shown["state"], shown["attempt"]) == ("ready", 0)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["lost"]
    assert workplace.json("show", claimed.id)["state"] == "running"


# Refusals


def test_not_into_itself(workplace: Workplace) -> None:
    """Wrong usage, like a URL that cannot be meant."""
    here = f"sqlite:///{workplace.folder}/conductor.db"
    assert "name another one" in workplace.error("copy-to", here, status=2)
    assert "got 'mysql:'" in workplace.error("copy-to", "mysql://me:secret@h/d", status=2)


def test_a_copy_that_is_refused_says_nothing_of_others_who_cannot_write(
    workplace: Workplace, target: Database
) -> None:
    """For they can: only the refusal is told."""
    url = target.url_for_people
    with folder_lock(workplace.runtime):
        said = workplace.error("copy-to", url, status=1)
    assert said.startswith("Error: a supervisor is running already")
    workplace.run("copy-to", url)
    for target_url, status in ((url, 1), ("mysql://me:secret@h/d", 2)):
        assert "nobody else can write" not in workplace.error("copy-to", target_url, status=status)


@pytest.mark.parametrize("option", [(), ("--dry-run",)], ids=["really", "dry"])
def test_not_into_a_database_with_executions(
    workplace: Workplace, target: Database, option: tuple[str, ...]
) -> None:
    """Two databases cannot be joined; a second copy is refused so."""
    url = target.url_for_people
    workplace.run("copy-to", url)
    assert "has executions already" in workplace.run("copy-to", url, *option, status=1).stderr


@pytest.mark.parametrize("option", [(), ("--dry-run",)], ids=["really", "dry"])
@pytest.mark.parametrize("there_is", ["an execution", "a supervisor"])
def test_a_refused_copy_leaves_an_older_schema_as_it_was(
    workplace: Workplace, fresh_url: str, option: tuple[str, ...], there_is: str
) -> None:
    """It could not be used by the older version any more."""
    target = Database.open(fresh_url)
    with closing(target), target._migrating() as connection:
        migrations.upgrade(connection, "0003" if there_is == "an execution" else "0004")
        if there_is == "an execution":
            connection.execute(text(AN_EXECUTION))
        else:
            leases.renew(connection, MEMBER, 30_000_000)
    goes_on = option and there_is == "a supervisor"
    result = workplace.run("copy-to", fresh_url, *option, status=0 if goes_on else 1)
    why = "has executions already" if there_is == "an execution" else "process 4711 on web1"
    assert why in " ".join(result.output.split())
    with pytest.raises(OutdatedDatabase):
        Database.look(fresh_url)


def test_a_copy_refused_here_leaves_an_older_schema_as_it_was(
    workplace: Workplace, target: Database, fresh_url: str
) -> None:
    """That of the new database, because a supervisor has a lease on the old one."""
    with target.writing() as connection:
        leases.renew(connection, MEMBER, 30_000_000)
    older = Database.open(fresh_url)
    with closing(older), older._migrating() as connection:
        migrations.upgrade(connection, "0004")
    workplace.error("copy-to", fresh_url, "--database", target.url_for_people, status=1)
    with pytest.raises(OutdatedDatabase):
        Database.look(fresh_url)


def test_nothing_is_left_beside_a_file_that_is_no_database(workplace: Workplace, tmp_path: Path) -> None:
    """Not even a lock."""
    file = tmp_path / "list.txt"
    file.write_text("milk\n" * 1000)
    before = sorted(tmp_path.iterdir())
    workplace.error("copy-to", f"sqlite:///{file}", status=1)
    assert sorted(tmp_path.iterdir()) == before


def test_not_while_a_supervisor_runs_here(workplace: Workplace, postgres_url: str) -> None:
    """Its runtime folder is locked, or, should it use another one, its database."""
    here = f"sqlite:///{workplace.folder}/conductor.db"
    for lock in (folder_lock(workplace.runtime), database_lock(here)):
        with lock:
            said = workplace.run("copy-to", postgres_url, status=1).stderr
        assert f"a supervisor is running already (process {os.getpid()}" in said


def test_not_while_a_supervisor_runs_there(workplace: Workplace, postgres_url: str) -> None:
    """On this machine by the lock of its runtime folder."""
    with folder_lock(runtime_folder(postgres_url)):
        assert "a supervisor is running already" in workplace.run("copy-to", postgres_url, status=1).stderr


@pytest.mark.parametrize("seconds", [30, -1])
def test_not_while_a_supervisor_has_a_lease(workplace: Workplace, target: Database, seconds: int) -> None:
    """On whatever machine, and on either side. One whose lease has run out is dead."""
    with target.writing() as connection:
        leases.renew(connection, MEMBER, seconds * 1_000_000)
    there, back = target.url_for_people, f"sqlite:///{workplace.folder}/back.db"
    status = 1 if seconds > 0 else 0
    results = [
        workplace.run("copy-to", there, status=status),
        workplace.run("copy-to", back, "--database", there, status=status),
    ]
    for result in results:
        assert ("process 4711 on web1" in result.stderr) == (seconds > 0)


def test_not_while_others_go_on_writing(
    workplace: Workplace, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten transaction keeps nobody waiting for ever."""
    monkeypatch.setattr("conductor_supervisor.store.postgresql.LOCK_PATIENCE", 1)
    with target.writing() as connection:
        leases.remove(connection, "nobody")
        said = " ".join(workplace.run("copy-to", target.url_for_people, status=1).stderr.split())
    assert "cannot be had alone, others are writing: canceling statement due to lock timeout" in said


def test_a_role_that_may_not_write_is_told_what_it_lacks(
    workplace: Workplace, postgres: PostgresServer, postgres_url: str
) -> None:
    """Others are not blamed for it."""
    name = postgres_url.rpartition("/")[2]
    postgres.execute("CREATE ROLE reader LOGIN")
    try:
        postgres.execute("GRANT USAGE ON SCHEMA conductor TO reader", name)
        postgres.execute("GRANT SELECT ON ALL TABLES IN SCHEMA conductor TO reader", name)
        url = postgres_url.replace("postgres@", "reader@")
        said = workplace.error("copy-to", url, status=1)
    finally:
        postgres.execute("DROP OWNED BY reader", name)
        postgres.execute("DROP ROLE reader")
    assert "cannot be written: the role reader lacks rights on conductor.conductor_" in said
    assert "GRANT SELECT, INSERT, UPDATE, DELETE" in said
    assert "others are writing" not in said


def test_a_connection_that_breaks_at_the_commit(
    workplace: Workplace, postgres: PostgresServer, postgres_url: str
) -> None:
    """Nobody can know then whether it is there; the next copy tells."""
    name = postgres_url.rpartition("/")[2]
    postgres.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        name,
    )
    postgres.execute(
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON conductor.conductor_tasks"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()",
        name,
    )
    said = " ".join(workplace.run("copy-to", postgres_url, status=1).stderr.split())
    assert "broke off while the copy was being committed, so it may be there or not" in said
    postgres.execute("DROP TRIGGER die ON conductor.conductor_tasks", name)
    workplace.run("copy-to", postgres_url)


def test_not_from_where_nothing_is(
    workplace: Workplace, postgres: PostgresServer, fresh_url: str, tmp_path: Path
) -> None:
    """Nor from tables of an older version, which are left as they are."""
    nowhere = f"sqlite:///{tmp_path}/nowhere.db"
    said = workplace.run("copy-to", fresh_url, "--database", nowhere, status=1).stderr
    assert "there is no database at" in said
    with closing(sqlite3.connect(workplace.folder / "conductor.db")) as connection, connection:
        connection.execute("UPDATE conductor_schema SET version_num = '0001'")
    assert "conductor-supervisor migrate" in workplace.run("copy-to", fresh_url, status=1).stderr
    assert schemas(postgres, "fresh") == []


def test_a_password_is_not_shown(workplace: Workplace, postgres_url: str) -> None:
    """Neither in an answer nor in an error."""
    secret = postgres_url.replace("postgres@", "postgres:secret@")
    for _ in ("done", "refused"):
        result = workplace.run("copy-to", secret, status=0 if _ == "done" else 1)
        assert "secret" not in result.stdout + result.stderr
