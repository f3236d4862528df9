"""PostgreSQL: what its URLs mean, how it is opened, whose rights it needs, and commits that break."""

from __future__ import annotations

import multiprocessing
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from msgspec import Raw
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from store_moves import NOW, invoke, migrate

from conductor_protocol.errors import DatabaseAway, UsageError
from conductor_protocol.operations import InvokeMany, ListExecutions, NewExecution
from conductor_supervisor.door import Door
from conductor_supervisor.errors import NoDatabase, StoreAway, StoreError
from conductor_supervisor.store import executions, migrations, schema
from conductor_supervisor.store.database import (
    Database,
    Undecided,
    despite_conflicts,
    is_conflict,
    is_transient,
)
from conductor_supervisor.store.dialect import sql
from conductor_supervisor.store.location import PostgresLocation, locate
from conductor_supervisor.store.postgresql import is_turned_away
from testbed.postgresql import PostgresServer


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Only PostgreSQL's."""
    return postgres_url


def _count(database: Database, table: str) -> int:
    with database.reading() as connection:
        count: int = connection.execute(sql(f"SELECT count(*) FROM {table}")).scalar_one()
        return count


# URLs


@pytest.mark.parametrize(
    ("url", "uri", "schema"),
    [
        ("postgresql://u@h/d", "postgresql://u@h/d", "conductor"),
        ("postgres://u@h/d?schema=jobs", "postgresql://u@h/d", "jobs"),
        ("postgresql+psycopg://h/d?sslmode=require&schema=a_1", "postgresql://h/d?sslmode=require", "a_1"),
        ("postgresql:///d?host=/run/pg", "postgresql:///d?host=/run/pg", "conductor"),
    ],
)
def test_a_url_is_libpqs_but_for_the_schema(url: str, uri: str, schema: str) -> None:
    """Every parameter that libpq knows can be given; ours alone is taken out."""
    assert locate(url) == PostgresLocation(uri, schema)


def test_a_password_is_shown_to_nobody() -> None:
    """Wherever in the URL it stands; and who connects is not what is connected to."""
    one = locate("postgresql://me:secret@h:1/d?sslpassword=secret&schema=jobs")
    assert one.for_people == "postgresql://me@h:1/d?schema=jobs"
    assert "secret" not in one.identity
    assert one.identity == locate("postgresql://you@h:1/d?schema=jobs").identity
    assert one.identity != locate("postgresql://me@h:1/d").identity


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://h/d?schema=My Jobs", "expected at most 50 small letters"),
        ("postgresql://h/d?schema=", "expected at most 50 small letters"),
        ("postgresql://h/d?schema=pg_jobs", "'pg_jobs' is one of PostgreSQL's own"),
        ("postgresql://h/d?schema=information_schema", "is one of PostgreSQL's own"),
        ("postgresql+asyncpg://h/d", "does not know 'postgresql+asyncpg'; write \"postgresql://\" instead"),
        ("postgresql://me:secret@[::1/d", "this is no URL"),
        ("postgresql://h/d?client_encoding=latin1", "use UTF8 alone, got 'latin1'; leave it out"),
    ],
)
def test_a_url_that_cannot_be_meant(url: str, said: str) -> None:
    """The message says what to write."""
    with pytest.raises(UsageError, match=re.escape(said)):
        Database.open(url)


def test_what_libpq_does_not_understand_is_said_without_the_password() -> None:
    """It is the user's mistake, so there is no traceback."""
    with pytest.raises(StoreError, match="is not understood") as caught:
        Database.open("postgresql://me:secret@h/d?colour=red")
    assert "secret" not in str(caught.value)


def test_a_password_that_libpq_stumbles_over_is_not_quoted() -> None:
    """The message says how to write it instead."""
    with pytest.raises(StoreError, match=r"@ % as .* %40 %25") as caught:
        Database.open("postgresql://me:50%zebra@h/d")
    assert "zebra" not in str(caught.value)
    assert caught.value.__cause__ is None


# Opening


def test_a_server_that_is_not_there(postgres: PostgresServer) -> None:
    """The message says where it was looked for."""
    with pytest.raises(StoreError, match=r"postgresql://postgres@127.0.0.1:1/d cannot be used"):
        Database.open(postgres.url("d", port=1))


def test_a_server_that_is_not_there_is_away_and_one_that_turns_us_away_is_not(
    postgres: PostgresServer,
) -> None:
    """Later, the first may be there; the second will say the same."""
    with closing(Door(postgres.url("d", port=1))) as door, pytest.raises(StoreAway):
        door.perform(ListExecutions())
    with closing(Door(postgres.url("nowhere"))) as door, pytest.raises(StoreError) as caught:
        door.perform(ListExecutions())
    assert not isinstance(caught.value, DatabaseAway)


@pytest.mark.parametrize(
    ("said", "turned_away"),
    [
        ("the database system is starting up", False),
        ("the database system is not yet accepting connections", False),
        ("sorry, too many clients already", False),
        ("remaining connection slots are reserved for roles with the SUPERUSER attribute", False),
        ('password authentication failed for user "me"', True),
        ('role "me" does not exist', True),
    ],
)
def test_a_server_that_lets_nobody_in_yet_turns_nobody_away(said: str, turned_away: bool) -> None:
    """Known by its words: libpq gives nothing else of what ends a connection that has not begun."""
    error = psycopg.OperationalError(f'connection failed: connection to server at "h" failed: FATAL:  {said}')
    assert is_turned_away(error) is turned_away


def test_whoever_only_looks_makes_nothing(postgres: PostgresServer) -> None:
    """Not even a schema."""
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        Database.look(postgres.url("nowhere"))
    with pytest.raises(NoDatabase, match=r"no tables of Conductor's in .* yet"):
        Database.look(postgres.url() + "?schema=unheard_of")
    assert postgres.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'unheard_of'") == []


def test_a_look_cannot_write(database_url: str, database: Database) -> None:
    """The transaction itself is read-only."""
    with database.reading() as connection:
        assert connection.scalar(text("SHOW transaction_read_only")) == "on"
        assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"


# Encodings


@pytest.mark.parametrize("whose", ["environment", "role", "database"])
def test_every_text_can_be_stored_whatever_encoding_others_prefer(
    whose: str, database_url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In what is written, read and copied in."""
    name = database_url.rpartition("/")[2]
    if whose == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    elif whose == "role":
        postgres.execute(f"ALTER ROLE postgres IN DATABASE {name} SET client_encoding = 'LATIN1'")
    else:
        postgres.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    database = Database.open(database_url)
    with database.writing() as connection:
        executions.insert(connection, [NewExecution(task="t", payload=Raw('"€"'.encode()))] * 100, NOW)
    with database.reading() as connection:
        payloads = connection.scalars(sql("SELECT payload FROM conductor_executions")).all()
    assert payloads == ['"€"'] * 100
    database.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_store_every_text_is_refused(encoding: str, postgres: PostgresServer) -> None:
    """At once, and not at the first name with an accent."""
    name = f"in_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match=f"has the encoding {encoding}.* CREATE DATABASE .* ENCODING 'UTF8'"):
        Database.open(postgres.url(name))
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


# The schema


def test_many_processes_may_migrate_at_once(database_url: str) -> None:
    """One of them does the work, the others wait and find it done."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        did = pool.map(migrate, [database_url + "?schema=jobs"] * 6, chunksize=1)
        pool.close()
        pool.join()
    assert sorted(did) == [False] * 5 + [True]


def test_the_migrations_lead_to_the_schema(database: Database, database_url: str) -> None:
    """A new schema is made without them: its columns, indexes and constraints are those that they make."""
    updated = Database.open(database_url + "?schema=updated")
    with updated.writing() as connection:
        connection.execute(text("CREATE SCHEMA updated"))
        connection.execute(text("SET LOCAL search_path TO updated"))
        migrations.upgrade(connection)
    assert not updated.migrate()
    with updated.reading() as connection:
        assert _definitions(connection, "updated") == _definitions(connection, "conductor")
    updated.close()


def _definitions(connection: Connection, schema: str) -> set[tuple[str, ...]]:
    columns = connection.execute(
        text(
            "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity"
            " FROM information_schema.columns WHERE table_schema = :schema"
        ),
        {"schema": schema},
    )
    rules = connection.execute(
        text(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(pg_constraint.oid)"
            " FROM pg_constraint JOIN pg_namespace ON pg_namespace.oid = connamespace"
            " WHERE nspname = :schema"
        ),
        {"schema": schema},
    )
    indexes = connection.execute(
        text("SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = :schema"),
        {"schema": schema},
    )
    found = [*columns, *rules, *indexes]
    return {tuple(str(part).replace(f"{schema}.", "") for part in row) for row in found}


def test_a_newer_schema_is_left_alone(database: Database) -> None:
    """An older program must not write into it."""
    with database.writing() as connection:
        connection.execute(schema.version.update().values(version_num="9999"))
    with pytest.raises(StoreError, match=r"schema is 9999.*pip install --upgrade"):
        database.migrate()


def test_two_schemas_of_one_database_know_nothing_of_each_other(
    database: Database, database_url: str
) -> None:
    """Each has its own executions."""
    other = Database.open(database_url + "?schema=other")
    other.migrate()
    invoke(other, "t", "t")
    assert (_count(database, "conductor_executions"), _count(other, "conductor_executions")) == (0, 2)
    other.close()


# Rights


@pytest.fixture
def role(postgres: PostgresServer, database_url: str) -> Iterator[str]:
    """A role that may connect, and nothing else."""
    postgres.execute("CREATE ROLE worker LOGIN")
    yield "worker"
    name = database_url.rpartition("/")[2]
    postgres.execute("DROP OWNED BY worker CASCADE", name)
    postgres.execute("DROP ROLE worker")


def test_the_rights_that_the_documentation_names_are_enough(
    postgres: PostgresServer, database_url: str, role: str
) -> None:
    """No superuser, no extension, no right to change the schema."""
    name = database_url.rpartition("/")[2]
    for grant in GRANTS:
        postgres.execute(grant, name)
    database = Database.open(database_url.replace("postgres@", f"{role}@"))
    assert not database.migrate()
    database.check_writable()
    invoke(database, "t")
    database.close()


def _grants() -> list[str]:
    """Return what docs/postgresql.md says that a role needs."""
    page = (Path(__file__).parents[2] / "docs" / "postgresql.md").read_text(encoding="utf-8")
    block = next(found for found in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if "GRANT" in found)
    return block.splitlines()


GRANTS = _grants()


def test_a_role_that_lacks_a_right_is_told_which(
    postgres: PostgresServer, database_url: str, role: str
) -> None:
    """And what to write."""
    name = database_url.rpartition("/")[2]
    postgres.execute(GRANTS[0], name)
    database = Database.open(database_url.replace("postgres@", f"{role}@"))
    with pytest.raises(StoreError, match=r"the role worker lacks rights on .* GRANT SELECT, INSERT"):
        database.check_writable()
    database.close()


def test_a_role_that_may_make_nothing_is_told_who_has_to(
    postgres: PostgresServer, database_url: str, role: str
) -> None:
    """In one sentence: from a client, too, which makes what is missing at its first call."""
    url = database_url.replace("postgres@", f"{role}@") + "?schema=jobs"
    database, door = Database.open(url), Door(url)
    said = (
        r"permission denied for database \w+; let a role that has CREATE on the database run: "
        "conductor-supervisor migrate; .* GRANT USAGE ON SCHEMA jobs TO worker"
    )
    for attempt in (database.migrate, lambda: door.perform(InvokeMany([NewExecution(task="t")]))):
        with pytest.raises(StoreError, match=said):
            attempt()
    with pytest.raises(StoreError, match=r"the role worker may not make .* GRANT USAGE ON SCHEMA jobs"):
        database.check_may_migrate()
    name = database_url.rpartition("/")[2]
    postgres.execute("CREATE SCHEMA jobs AUTHORIZATION worker", name)
    database.check_may_migrate()
    assert database.migrate()
    database.check_may_migrate()
    postgres.execute("ALTER TABLE jobs.conductor_tasks OWNER TO postgres", name)
    with pytest.raises(StoreError, match="may not make or change"):
        database.check_may_migrate()
    door.close()
    database.close()


def test_a_role_that_may_not_look_is_told_so_in_one_line(database_url: str, role: str) -> None:
    """And not where in a statement the server stumbled."""
    url = database_url.replace("postgres@", f"{role}@")
    said = "permission denied for schema conductor; let a role .* GRANT USAGE ON SCHEMA conductor TO worker"
    with closing(Database.open(url)) as database, pytest.raises(StoreError, match=said) as caught:
        database.migrate()
    assert "LINE" not in str(caught.value)
    with pytest.raises(StoreError, match=said):
        Database.look(url)


# Commits


def _kill_before_commit(postgres: PostgresServer) -> Callable[[Connection], str]:
    """Return work that ends its own connection, as a failing network would, just before the commit."""

    def work(connection: Connection) -> str:
        connection.execute(sql("INSERT INTO conductor_tasks VALUES ('a', '{}', 0)"))
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        connection.info["killed"] = pid
        return "done"

    return work


def test_a_commit_whose_answer_is_lost_is_found_out(
    database: Database, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows what became of the transaction, and the next one has a new connection."""
    real = type(database)._writer_connection(database)  # type: ignore[attr-defined]
    dialect = real.dialect
    commit = dialect.do_commit

    def commit_and_lose(driver: object) -> None:
        commit(driver)
        _lose(driver)

    monkeypatch.setattr(dialect, "do_commit", commit_and_lose)
    with pytest.raises(Undecided) as caught:
        database.transact(_kill_before_commit(postgres))
    monkeypatch.undo()
    assert caught.value.result == "done"
    assert database.has_committed(caught.value.transaction) is True
    assert database.transact(lambda connection: connection.scalar(text("SELECT 1"))) == 1
    assert _count(database, "conductor_tasks") == 1


def test_a_commit_that_never_arrived_is_found_out(
    database: Database, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    """It is made again then."""
    real = type(database)._writer_connection(database)  # type: ignore[attr-defined]
    monkeypatch.setattr(real.dialect, "do_commit", _lose)
    with pytest.raises(Undecided) as caught:
        database.transact(_kill_before_commit(postgres))
    monkeypatch.undo()
    status = None
    while status is None:
        status = database.has_committed(caught.value.transaction)
    assert status is False
    assert _count(database, "conductor_tasks") == 0


def test_a_transaction_that_the_server_never_heard_of_was_not_committed(database: Database) -> None:
    """As after a failover to a replica that lagged behind: it is made again, and nobody stumbles."""
    assert database.has_committed("18446744073709551000") is False


def test_many_rows_that_are_not_taken_are_an_error_like_few(
    database: Database, database_url: str, postgres: PostgresServer
) -> None:
    """Clients know nothing of the driver, nor of COPY."""
    with database.writing() as connection:
        connection.execute(sql("ALTER TABLE conductor_executions ADD CHECK (task <> 'bad')"))
    door = Door(database_url)
    for count in (1, 100):
        with pytest.raises(StoreError, match="violates check constraint"):
            door.perform(InvokeMany([NewExecution(task="bad")] * count))
    door.close()
    with pytest.raises(DBAPIError) as caught:
        invoke(database, *["bad"] * 100)
    assert not is_transient(caught.value)


def test_a_connection_that_breaks_in_a_copy_is_worth_another_try(database: Database) -> None:
    """And the next transaction has a new one."""

    def breaks(connection: Connection) -> None:
        connection.execute(
            sql(
                "CREATE FUNCTION pg_temp.end_it() RETURNS bool LANGUAGE sql AS"
                " 'SELECT pg_terminate_backend(pg_backend_pid())'"
            )
        )
        rule = "task <> 'bad' OR pg_temp.end_it()"
        connection.execute(sql(f"ALTER TABLE conductor_executions ADD CHECK ({rule})"))
        executions.insert(connection, [NewExecution(task="bad")] * 100, NOW)

    with pytest.raises(DBAPIError) as caught:
        database.transact(breaks)
    assert is_transient(caught.value)
    assert database.transact(lambda connection: connection.scalar(text("SELECT 1"))) == 1


def test_a_deadlock_is_a_conflict_and_no_outage(database: Database) -> None:
    """It is repeated, and nobody is told that the database is away."""
    ids = invoke(database, "t", "t")
    touch = sql("UPDATE conductor_executions SET priority = 1 WHERE id = :id")
    met = threading.Barrier(2, timeout=30)

    def meet(first: str, second: str) -> Exception | None:
        try:
            with database.writing() as connection:
                connection.execute(touch, {"id": first})
                met.wait()
                connection.execute(touch, {"id": second})
        except DBAPIError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        found = [each for each in pool.map(meet, ids, reversed(ids)) if each is not None]
    assert len(found) == 1
    assert is_conflict(found[0])
    assert is_transient(found[0])


def _lose(driver: object) -> None:
    """Break a connection as a network would: the next word on it fails."""
    import os

    import psycopg

    proxied = getattr(driver, "dbapi_connection", driver)
    os.close(proxied.pgconn.socket)
    proxied.pgconn.finish()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.mark.parametrize("default", ["serializable", "repeatable read"])
def test_after_a_lock_is_read_what_others_have_left(default: str, database_url: str) -> None:
    """Whatever administrators have made the default: else limits could be exceeded."""
    name = database_url.rpartition("/")[2]
    with psycopg.connect(database_url) as administrator:
        administrator.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{default}'")
    isolation = text("SHOW transaction_isolation")
    with closing(Database.open(database_url)) as database:
        with database.writing() as connection:
            assert connection.scalar(isolation) == "read committed"
        with database.reading() as connection:
            assert connection.scalar(isolation) == "repeatable read"
        assert database.transact(lambda connection: connection.scalar(isolation)) == "read committed"


def test_a_commit_that_is_refused_can_be_made_again(database: Database) -> None:
    """The server says no only then where a constraint is deferred, or the disk full; the connection stays."""
    with database.writing() as connection:
        for statement in REFUSE_THE_FIRST_COMMIT:
            connection.execute(text(statement))

    def work(connection: Connection) -> int:
        return connection.execute(text("INSERT INTO watched VALUES (1)")).rowcount

    with pytest.raises(DBAPIError) as refused:
        database.transact(work)
    assert is_conflict(refused.value)
    assert database.transact(work) == 1
    assert _count(database, "watched") == 1


REFUSE_THE_FIRST_COMMIT = (
    "CREATE TABLE watched (number int)",
    "CREATE SEQUENCE tries",  # counts what is rolled back, too
    """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('tries') = 1 THEN RAISE 'not yet' USING ERRCODE = 'serialization_failure'; END IF;
        RETURN NULL;
    END $$
    """,
    (
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON watched INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    ),
)


def test_a_lost_connection_is_worth_another_try(database: Database) -> None:
    """A restart of the server, a deadlock, a full disk: all may go away; a broken rule does not."""
    with pytest.raises(Exception, match="terminat") as caught, database.writing() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert is_transient(caught.value)
    with database.writing() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 1"))
        with pytest.raises(Exception, match="timeout") as slow:
            connection.execute(text("SELECT pg_sleep(10)"))
    assert is_transient(slow.value)


def test_work_that_met_anothers_is_done_again_but_not_for_ever() -> None:
    """The database has rolled it back; anything else is the caller's affair at once."""
    tries: list[type[psycopg.Error]] = []

    def fail(times: int, kind: type[psycopg.Error]) -> int:
        if len(tries) < times:
            tries.append(kind)
            raise DBAPIError("SELECT 1", None, kind())
        return len(tries)

    assert despite_conflicts(lambda: fail(2, psycopg.errors.DeadlockDetected)) == 2
    with pytest.raises(DBAPIError):
        despite_conflicts(lambda: fail(100, psycopg.errors.SerializationFailure))
    assert len(tries) < 20
    tries.clear()
    with pytest.raises(DBAPIError):
        despite_conflicts(lambda: fail(1, psycopg.errors.UniqueViolation))
