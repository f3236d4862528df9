"""Triggers on an application's tables: each change makes an execution, in the change's own transaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import msgspec
import psycopg
import pytest
from sqlalchemy import select
from store_moves import claim, view

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import ChangeSpec, KeyLimitSpec, TaskSpec
from conductor_protocol.operations import MAX_PAYLOAD
from conductor_supervisor import writes
from conductor_supervisor.errors import StoreError
from conductor_supervisor.store import changes, executions, leases, schema
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.leases import Member
from conductor_supervisor.writes import GiveUpLease, TakeOver
from testbed.postgresql import PATIENCE, PostgresServer

CONTACT = """
CREATE TABLE contact (id serial PRIMARY KEY, email text, name text, active bool DEFAULT true, more json)
"""


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Only PostgreSQL's."""
    return postgres_url


@pytest.fixture
def app(database: Database, database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The application's own connection, and its table."""
    with psycopg.connect(database_url) as connection:
        connection.execute(CONTACT)
        connection.commit()
        yield connection


def spec(*operations: Any, task: str = "greet", **more: Any) -> TaskSpec:
    """A task that wants these changes of the table."""
    return TaskSpec(task, changes=(ChangeSpec("public", "contact", operations, **more),))


def declare(database: Database, *specs: TaskSpec, me: str = "me") -> None:
    """Declare them, in a transaction of its own."""
    with database.writing() as connection:
        changes.declare(connection, specs, me)


def live(database: Database, *names: str, seconds: float = 60) -> None:
    """Let these supervisors live."""
    with database.writing() as connection:
        for name in names:
            leases.renew(connection, Member(name, "host", 1, "app", 0), round(seconds * 1_000_000))


def leave(database: Database, name: str) -> None:
    """Let a supervisor give up its lease."""
    with database.writing() as connection:
        writes.apply(connection, [GiveUpLease(name, Mock(), Mock())], 0, name)


def made(database: Database) -> list[tuple[str, Any]]:
    """Return the event and payload of each execution, in the order of their ids."""
    table = schema.executions
    with database.reading() as connection:
        rows = connection.execute(select(table.c.event, table.c.payload).order_by(table.c.id)).all()
    return [(event, msgspec.json.decode(payload)) for event, payload in rows]


def triggers(app: psycopg.Connection[Any]) -> list[tuple[str, int]]:
    """Return the names and object numbers of the triggers on the table."""
    found = app.execute(
        "SELECT tgname, oid FROM pg_trigger"
        " WHERE tgrelid = 'contact'::regclass AND NOT tgisinternal ORDER BY tgname"
    ).fetchall()
    app.commit()
    return found


def functions(app: psycopg.Connection[Any]) -> dict[str, tuple[Any, ...]]:
    """Return our functions: what they do, with whose rights and which settings, and who may execute them."""
    found = app.execute(
        "SELECT proname, prosrc, prosecdef, proconfig, has_function_privilege('public', oid, 'EXECUTE')"
        " FROM pg_proc WHERE pronamespace = 'conductor'::regnamespace"
    ).fetchall()
    app.commit()
    return {name: rest for name, *rest in found}


ADA = "INSERT INTO contact (email, name) VALUES ('ada@x', 'Ada')"
ADA_ROW = {"id": 1, "email": "ada@x", "name": "Ada", "active": True, "more": None}


# What makes an execution


def test_each_operation_tells_the_row_before_and_after(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """In the order in which it happened, whichever transaction did it."""
    declare(database, spec("insert", "update", "delete"))
    app.execute(ADA)
    app.execute("UPDATE contact SET active = false, more = '{\"a\": [1.50]}'")
    app.execute("DELETE FROM contact")
    app.commit()
    after = ADA_ROW | {"active": False, "more": {"a": [1.5]}}
    assert made(database) == [
        (f"public.contact.{operation}", {"operation": operation, "table": "public.contact"} | rows)
        for operation, rows in [
            ("insert", {"old": None, "new": ADA_ROW}),
            ("update", {"old": ADA_ROW, "new": after}),
            ("delete", {"old": after, "new": None}),
        ]
    ]


def test_it_is_an_execution_like_any_other(database: Database, app: psycopg.Connection[Any]) -> None:
    """Ready at once, by the database's clock; its id is a UUID of version 7 with the time in it."""
    declare(database, spec("insert"))
    before = time.time()
    app.execute(ADA)
    app.commit()
    (claimed,) = claim(database, "greet")
    assert (claimed.event, claimed.attempt) == ("public.contact.insert", 0)
    shown = view(database, claimed.id)
    assert before - 1 <= shown.created.timestamp() == shown.due.timestamp() <= time.time() + 1
    digits = claimed.id.replace("-", "")
    assert int(digits[:12], 16) == int(shown.created.timestamp() * 1000)
    assert (len(claimed.id), digits[12], digits[16] in "89ab") == (36, "7", True)


def test_its_row_is_like_that_of_an_invocation(database: Database, app: psycopg.Connection[Any]) -> None:
    """Whatever columns executions have: a new one must be thought of here too."""
    declare(database, spec("insert"))
    app.execute(ADA)
    app.commit()
    with database.reading() as connection:
        row = dict(connection.execute(select(schema.executions)).one()._mapping)
    own = {"id", "task", "event", "payload", "created_at", "due_at", "state"}
    usual = dict.fromkeys(schema.executions.c.keys()) | executions.new_row()
    assert {name: value for name, value in row.items() if name not in own} == {
        name: value for name, value in usual.items() if name not in own
    }


def test_a_limit_by_key_counts_it_under_the_rows_value(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """Text, number or none, as in an invocation; whatever else there is must not fail the application."""
    limit = KeyLimitSpec(1, "new.more.tenant")
    declare(database, msgspec.structs.replace(spec("insert"), concurrency_by_key=limit))
    for more in ('{"tenant": "ada"}', '{"tenant": 7}', '{"tenant": true}', "{}", '{"tenant": [1]}'):
        app.execute("INSERT INTO contact (more) VALUES (%s)", [more])
    app.commit()
    table = schema.executions
    with database.reading() as connection:
        keys = connection.scalars(select(table.c.concurrency_key).order_by(table.c.id)).all()
    assert keys == ["ada", "7", "true", "", "[1]"]


def test_the_order_of_ids_is_that_of_time(database: Database, app: psycopg.Connection[Any]) -> None:
    """Also within one statement."""
    declare(database, spec("insert", columns=("id",)))
    app.execute("INSERT INTO contact (email) SELECT 'x' FROM generate_series(1, 500)")
    app.commit()
    assert [payload["new"]["id"] for _, payload in made(database)] == list(range(1, 501))


def test_what_is_rolled_back_makes_none(database: Database, app: psycopg.Connection[Any]) -> None:
    """The execution is part of the change's transaction."""
    declare(database, spec("insert"))
    app.execute(ADA)
    app.rollback()
    assert made(database) == []


def test_only_these_columns(database: Database, app: psycopg.Connection[Any]) -> None:
    """An update counts if one of them changes, be it from NULL, or json, which PostgreSQL cannot compare."""
    declare(database, spec("insert", "update", columns=("id", "email", "more")))
    app.execute(ADA)
    for change in ("name = 'Eva'", "email = email", "email = 'eva@x'", "more = '1'", "more = '1'"):
        app.execute(f"UPDATE contact SET {change}".encode())
    app.commit()
    assert [(event.rpartition(".")[2], payload["new"]) for event, payload in made(database)] == [
        ("insert", {"id": 1, "email": "ada@x", "more": None}),
        ("update", {"id": 1, "email": "eva@x", "more": None}),
        ("update", {"id": 1, "email": "eva@x", "more": 1}),
    ]


def test_a_column_that_another_trigger_changes_counts(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """Though the statement does not name it."""
    app.execute(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.email := upper(NEW.email); RETURN NEW; END $$"
    )
    app.execute(ADA)
    app.execute("CREATE TRIGGER shout BEFORE UPDATE ON contact FOR EACH ROW EXECUTE FUNCTION shout()")
    app.commit()
    declare(database, spec("update", columns=("email",)))
    app.execute("UPDATE contact SET name = 'Eva'")
    app.commit()
    assert [payload["new"] for _, payload in made(database)] == [{"email": "ADA@X"}]


def test_only_when(database: Database, app: psycopg.Connection[Any]) -> None:
    """A condition of the developer's: with a percent sign, a colon, or a comment in it."""
    when = "NEW.active AND NEW.email LIKE '%@x'::text -- only ours"
    declare(database, spec("insert", "update", columns=("email",), when=when))
    app.execute(ADA)
    app.execute("INSERT INTO contact (email, active) VALUES ('no@x', false), ('no@y', true)")
    app.execute("UPDATE contact SET name = 'nobody'")
    app.execute("UPDATE contact SET email = 'b@x' WHERE email = 'ada@x'")
    app.commit()
    assert [payload["new"]["email"] for _, payload in made(database)] == ["ada@x", "b@x"]


def test_awkward_names(database: Database, app: psycopg.Connection[Any]) -> None:
    """Names are as the database has them, and need no quotes."""
    app.execute("""CREATE SCHEMA "My 'own'" """)
    app.execute(r"""CREATE TABLE "My 'own'"."A\b.c" ("select ""x" int, "%s" int)""")
    app.commit()
    change = ChangeSpec("My 'own'", "A\\b.c", ("insert", "update"), columns=('select "x', "%s"))
    declare(database, TaskSpec("t", changes=(change,)))
    app.execute(r"""INSERT INTO "My 'own'"."A\b.c" VALUES (1, 2)""")
    app.commit()
    ((event, payload),) = made(database)
    assert event == f"{payload['table']}.insert" == "My 'own'.A\\b.c.insert"
    assert payload["new"] == {'select "x': 1, "%s": 2}


def test_a_row_of_a_partition_counts_once(database: Database, app: psycopg.Connection[Any]) -> None:
    """The table is that which was named; and its partitions' triggers are not taken for left over."""
    app.execute("CREATE TABLE log (at int, said text) PARTITION BY RANGE (at)")
    app.execute("CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (10)")
    app.commit()
    task = TaskSpec("t", changes=(ChangeSpec("public", "log", ("insert",)),))
    declare(database, task)
    declare(database, task)
    app.execute("INSERT INTO log VALUES (1, 'x')")
    app.commit()
    assert [payload["table"] for _, payload in made(database)] == ["public.log"]


def test_a_row_that_moves_to_another_partition_is_deleted_and_inserted(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """So it is for PostgreSQL; the partitions' columns may be in another order."""
    app.execute("CREATE TABLE log (at int, said text) PARTITION BY LIST (at)")
    app.execute("CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1)")
    app.execute("CREATE TABLE log_2 (said text, at int)")
    app.execute("ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES IN (2)")
    app.execute("INSERT INTO log VALUES (1, 'x')")
    app.commit()
    declare(database, TaskSpec("t", changes=(ChangeSpec("public", "log", ("insert", "update", "delete")),)))
    app.execute("UPDATE log SET at = 2")
    app.commit()
    assert [(payload["old"], payload["new"]) for _, payload in made(database)] == [
        ({"at": 1, "said": "x"}, None),
        (None, {"at": 2, "said": "x"}),
    ]


def test_a_row_that_is_too_large_leaves_out_what_is_large(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """The application's transaction must not fail for it, and the handler can find the row."""
    declare(database, spec("insert", "update"))
    app.execute("INSERT INTO contact (email, name) VALUES ('a', repeat('ä', 600000))")
    app.execute("UPDATE contact SET email = 'b'")
    app.commit()
    (_, new), (_, update) = made(database)
    assert new["new"] == {"id": 1, "email": "a", "active": True, "more": None}
    assert (new["old"], new["left_out"]) == (None, ["name"])
    assert (update["old"]["email"], update["new"]["email"], update["left_out"]) == ("a", "b", ["name"])
    declare(database, spec("insert", columns=("id",)))
    app.execute("INSERT INTO contact (name) VALUES (repeat('x', 2 * %s))", [MAX_PAYLOAD])
    app.commit()
    assert made(database)[-1][1]["new"] == {"id": 2}


# Whatever is in a row, the application's statement does not fail


ODD = [r'{"tenant": "a\u0000b"}', r'{"tenant": "a\ud800b"}']


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("columns", [None, ("id",), ("id", "more")])
def test_json_that_postgresql_cannot_read(
    database: Database, app: psycopg.Connection[Any], value: str, columns: tuple[str, ...] | None
) -> None:
    """It takes such texts for json, and fails later; as a key too, where it counts as none."""
    limit = KeyLimitSpec(1, "new.more.tenant")
    task = spec("insert", "update", "delete", columns=columns)
    declare(database, msgspec.structs.replace(task, concurrency_by_key=limit))
    app.execute("INSERT INTO contact (more) VALUES (%s)", [value])
    app.execute("UPDATE contact SET id = id + 1")
    app.execute("UPDATE contact SET more = NULL")
    app.execute("DELETE FROM contact")
    app.commit()
    told = {event.rpartition(".")[2] for event, _ in made(database)}
    assert told == {"insert", "update", "delete"}


def test_half_a_surrogate_pair_is_left_out(database: Database, app: psycopg.Connection[Any]) -> None:
    """A payload with one could not be read at all. Whole ones stay, and what only looks like half of one."""
    declare(database, spec("insert", columns=("name", "more")))
    for name, more in (
        ("half", r'{"a": "\uD83D"}'),
        ("whole", r'{"a": "\ud83d\ude00"}'),
        ("none", r'{"a": "\\ud800"}'),
        (r"C:\udata", "1"),
    ):
        app.execute("INSERT INTO contact (name, more) VALUES (%s, %s)", [name, more])
    app.commit()
    payloads = [payload for _, payload in made(database)]
    assert [payload["new"] for payload in payloads] == [
        {"name": "half"},
        {"name": "whole", "more": {"a": "\N{GRINNING FACE}"}},
        {"name": "none", "more": {"a": r"\ud800"}},
        {"name": r"C:\udata", "more": 1},
    ]
    assert [payload.get("left_out") for payload in payloads] == [["more"], None, None, None]


def test_only_half_an_old_or_a_new_value_is_left_out(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """The other can be told."""
    app.execute(r"""INSERT INTO contact (more) VALUES ('"\ud800"')""")
    app.commit()
    declare(database, spec("update", columns=("more",)))
    app.execute("UPDATE contact SET more = '1'")
    app.commit()
    ((_, payload),) = made(database)
    assert (payload["old"], payload["new"], payload["left_out"]) == ({}, {"more": 1}, ["more"])


def test_a_row_larger_than_json_can_be(database: Database, app: psycopg.Connection[Any]) -> None:
    """Its long values are not even made into JSON, be they wanted or not."""
    app.execute("CREATE TABLE film (id int, a text, b text)")
    app.execute("ALTER TABLE film ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL")
    app.commit()
    whole = ChangeSpec("public", "film", ("insert",))
    declare(database, TaskSpec("t", changes=(whole, msgspec.structs.replace(whole, columns=("id",)))))
    # JSON writes such a character as six, and PostgreSQL has no text of more than 1 GB.
    app.execute("INSERT INTO film SELECT 1, x, x FROM repeat(chr(1), 95000000) AS x")
    app.commit()
    payloads = [payload for _, payload in made(database)]
    assert [payload["new"] for payload in payloads] == [{"id": 1}] * 2
    assert {tuple(payload.get("left_out", ())) for payload in payloads} == {(), ("a", "b")}


def test_columns_that_are_altered_later(database: Database, app: psycopg.Connection[Any]) -> None:
    """What there is of them is told, in a session that goes on too; the rest is left out."""
    declare(database, spec("insert", columns=("id", "email", "name", "active")))
    app.execute(ADA)
    app.execute("ALTER TABLE contact ALTER id TYPE bigint, ALTER active TYPE text")
    app.execute("ALTER TABLE contact RENAME email TO mail")
    app.execute("INSERT INTO contact (mail, name) VALUES ('ada@x', 'Ada')")
    app.execute("ALTER TABLE contact DROP id, DROP name, DROP active")
    app.execute("INSERT INTO contact (mail) VALUES ('ada@x')")
    app.commit()
    (_, _), (_, altered), (_, nothing) = made(database)
    assert altered["new"] == {"id": 2, "name": "Ada", "active": "true"}
    assert altered["left_out"] == ["email"]
    assert (nothing["old"], nothing["new"]) == (None, {})
    assert nothing["left_out"] == ["id", "email", "name", "active"]


def test_more_columns_than_a_function_has_arguments(database: Database, app: psycopg.Connection[Any]) -> None:
    """As many as a table may have, or nearly so."""
    names = [f"c{n}" for n in range(1000)]
    app.execute(f"CREATE TABLE wide ({', '.join(f'{name} int' for name in names)})".encode())
    app.commit()
    changes_of_wide = ChangeSpec("public", "wide", ("insert", "update"), columns=tuple(names))
    declare(database, TaskSpec("t", changes=(changes_of_wide,)))
    app.execute("INSERT INTO wide (c7) VALUES (7)")
    app.execute("UPDATE wide SET c999 = 999")
    app.commit()
    (_, insert), (_, update) = made(database)
    assert list(insert["new"]) == names
    assert (insert["new"]["c7"], update["old"]["c999"], update["new"]["c999"]) == (7, None, 999)


def test_the_session_does_not_matter(database: Database, app: psycopg.Connection[Any]) -> None:
    """Neither to what is told nor to whether a change counts."""
    app.execute(
        "CREATE TABLE sample (f float8, at timestamptz, day date, took interval, raw bytea, what regclass)"
    )
    app.execute(
        "INSERT INTO sample VALUES (0.12, '2024-02-01 10:00+00', '2024-02-01', '1 day 2 hours',"
        " '\\x00ff', 'contact')"
    )
    app.commit()
    change = ChangeSpec("public", "sample", ("update",), columns=("f", "at", "day", "took", "raw", "what"))
    declare(database, TaskSpec("t", changes=(change,)))
    app.execute("UPDATE sample SET f = 0.1399")
    for setting in (
        "bytea_output = escape; SET datestyle = German; SET intervalstyle = iso_8601",
        "timezone = 'Asia/Tokyo'; SET extra_float_digits = -15; SET quote_all_identifiers = on",
    ):
        app.execute(f"SET {setting}".encode())
    app.execute("UPDATE sample SET f = 0.12")
    app.commit()
    (_, first), (_, second) = made(database)
    assert (second["old"], second["new"]) == (first["new"], first["old"])
    assert first["old"] == {
        "f": 0.12,
        "at": "2024-02-01T10:00:00+00:00",
        "day": "2024-02-01",
        "took": "1 day 02:00:00",
        "raw": "\\x00ff",
        "what": "public.contact",
    }


def test_many_rows_notify_once(database: Database, app: psycopg.Connection[Any], database_url: str) -> None:
    """On the channel of Conductor's schema."""
    declare(database, spec("insert"))
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN conductor_conductor")
        app.execute("INSERT INTO contact (email) SELECT 'x' FROM generate_series(1, 100)")
        app.commit()
        app.execute(ADA)
        app.commit()
        listener.execute("SELECT 1")
        heard = list(listener.notifies(timeout=PATIENCE, stop_after=2))
    assert [(one.channel, one.payload) for one in heard] == [("conductor_conductor", "")] * 2


# Declaring


def test_what_is_there_already_is_left_alone(database: Database, app: psycopg.Connection[Any]) -> None:
    """A start that changes nothing waits for nobody: here somebody has the table locked."""
    declare(database, spec("insert", "delete"))
    before = triggers(app)
    app.execute("LOCK TABLE contact")
    declare(database, spec("insert", "delete"))
    app.commit()
    assert triggers(app) == before
    assert len(before) == 2


def test_what_is_no_longer_declared_is_removed(database: Database, app: psycopg.Connection[Any]) -> None:
    """And only that: other tasks' stay, as do those of the application, whatever they are called."""
    app.execute("CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    app.execute("CREATE TRIGGER conductor_mine AFTER INSERT ON contact EXECUTE FUNCTION mine()")
    app.commit()
    declare(database, spec("insert"), spec("insert", "delete", task="count"))
    assert len(triggers(app)) == 4
    declare(database, spec("insert", task="count"))
    app.execute(ADA)
    app.execute("DELETE FROM contact")
    app.commit()
    assert len(made(database)) == 1
    declare(database)
    assert [name for name, _ in triggers(app)] == ["conductor_mine"]


def test_what_another_living_supervisor_wants_stays(
    database: Database, app: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Until it wants it no longer: so of several that change to newer code, the last removes what is old."""
    caplog.set_level("INFO")
    old, new = spec("insert"), spec("insert", when="NEW.active")
    live(database, "a", "b")
    for me in ("a", "b"):
        declare(database, old, me=me)
    declare(database, new, me="a")
    assert len(triggers(app)) == 2
    assert caplog.messages[-2:] == [
        "a trigger for task greet, on public.contact, stays: another supervisor that lives may want it",
        "a trigger is made for task greet, on public.contact, for insert",
    ]
    declare(database, new, me="b")
    assert len(triggers(app)) == 1
    assert caplog.messages[-1] == (
        "a trigger for task greet, on public.contact, is removed: no task wants it any more"
    )
    declare(database, me="a")  # such as one with old code that has died and starts again
    assert len(triggers(app)) == 1
    declare(database, me="b")
    assert triggers(app) == []


def test_what_a_dead_supervisor_wanted_does_not_stay(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """Its lease has run out; while one lives of which nobody knows what it wants, all stays."""
    live(database, "dead", seconds=-1)
    live(database, "a", "unknown")
    for me in ("dead", "a"):
        declare(database, spec("insert"), me=me)
    declare(database, me="a")
    assert len(triggers(app)) == 1
    declare(database, me="unknown")
    assert triggers(app) == []


def test_what_only_one_wanted_goes_with_it(database: Database, app: psycopg.Connection[Any]) -> None:
    """While others live; the last leaves all in place, for changes count while no supervisor runs."""
    live(database, "a", "b")
    declare(database, spec("insert"), spec("insert", task="count"), me="a")
    declare(database, spec("insert", task="count"), me="b")
    leave(database, "a")
    app.execute(ADA)
    app.commit()
    assert (len(made(database)), len(triggers(app)), len(functions(app))) == (1, 1, 1)
    leave(database, "b")
    assert len(triggers(app)) == 1


def test_what_only_one_wanted_goes_when_it_is_dead(database: Database, app: psycopg.Connection[Any]) -> None:
    """Whoever takes over from it sees to that."""
    live(database, "dead", seconds=-1)
    live(database, "a")
    declare(database, spec("insert"), me="dead")
    declare(database, spec("insert", task="count"), me="a")
    declare(database, spec("insert"), me="dead")
    assert len(triggers(app)) == 2
    with database.writing() as connection:
        writes.apply(connection, [TakeOver("a", {}, leases.ends(connection), Mock(), Mock())], 0, "a")
    assert len(triggers(app)) == 1


def test_who_leaves_does_not_wait_for_a_table(
    database: Database,
    app: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A trigger that cannot be removed now stays, and the rest of the transaction too."""
    monkeypatch.setattr(changes, "LOCK_PATIENCE", 1)
    live(database, "a", "b")
    declare(database, spec("insert"), me="a")
    declare(database, me="b")
    app.execute(ADA)
    leave(database, "a")
    app.commit()
    assert "the next start or reload tries again" in caplog.text
    with database.reading() as connection:
        assert [member.id for member in leases.living(connection)] == ["b"]
    declare(database, me="b")
    assert triggers(app) == []


def test_a_change_of_the_declaration_counts(database: Database, app: psycopg.Connection[Any]) -> None:
    """The newer one stands in place of the older."""
    declare(database, spec("insert", when="NEW.active"))
    declare(database, spec("insert", when="NOT NEW.active"))
    app.execute(ADA)
    app.commit()
    assert (len(triggers(app)), made(database)) == (1, [])


@pytest.mark.parametrize(
    "change",
    [
        "CREATE OR REPLACE FUNCTION {} RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "ALTER FUNCTION {} SECURITY INVOKER",
        "ALTER FUNCTION {} RESET search_path",
        "ALTER FUNCTION {} SET work_mem = '8MB'",
        "GRANT EXECUTE ON FUNCTION {} TO PUBLIC",
    ],
)
def test_a_function_that_is_not_as_it_should_be_is_made_anew(
    database: Database, app: psycopg.Connection[Any], change: str
) -> None:
    """An older one, or one that somebody has changed; the triggers stay as they are."""
    declare(database, spec("insert"))
    before, as_made = triggers(app), functions(app)
    (name,) = as_made
    app.execute(change.format(f"conductor.{name}()").encode())
    app.commit()
    assert functions(app) != as_made
    declare(database, spec("insert"))
    assert (functions(app), triggers(app)) == (as_made, before)


def test_a_function_without_a_trigger_is_removed(database: Database, app: psycopg.Connection[Any]) -> None:
    """Its table was dropped, or no task wants it any more."""
    declare(database, spec("insert"), spec("insert", task="count"))
    assert len(functions(app)) == 2
    declare(database, spec("insert"))
    assert len(functions(app)) == 1
    app.execute("DROP TABLE contact")
    app.commit()
    declare(database)
    assert functions(app) == {}


def test_two_schemas_of_conductor_do_not_disturb_each_other(
    database: Database, app: psycopg.Connection[Any], database_url: str
) -> None:
    """Each has its own triggers on the same table, for the same task."""
    other = Database.open(f"{database_url}?schema=other")
    other.migrate()
    for each in (database, other):
        declare(each, spec("insert"))
    app.execute(ADA)
    app.commit()
    assert (len(made(database)), len(made(other))) == (1, 1)
    declare(other)
    app.execute(ADA)
    app.commit()
    assert (len(made(database)), len(made(other))) == (2, 1)
    other.close()


def test_several_supervisors_may_declare_at_once(database: Database, app: psycopg.Connection[Any]) -> None:
    """One after another: every trigger is made once."""
    wanted = [spec("insert", "update", "delete"), spec("insert", task="count")]
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(declare, database, *wanted) for _ in range(12)]:
            done.result(PATIENCE)
    assert len(triggers(app)) == 4


# Refusals


def refusal(database: Database, task: TaskSpec) -> str:
    """Declare what is refused; return what is said."""
    with pytest.raises(StoreError) as caught:
        declare(database, task)
    return str(caught.value)


def test_a_condition_that_postgresql_does_not_understand(
    database: Database, app: psycopg.Connection[Any]
) -> None:
    """What it says is quoted, with the condition; nothing of the declaration is kept."""
    said = refusal(database, spec("insert", "delete", when="NEW.active AND"))
    assert said.startswith("task greet: its trigger on public.contact, for ")
    assert "(when='NEW.active AND') syntax error at or near" in said
    said = refusal(database, spec("delete", when="NEW.active"))
    assert "DELETE trigger's WHEN condition cannot reference NEW values" in said
    assert triggers(app) == []


def test_a_table_or_column_that_is_not_there(database: Database, app: psycopg.Connection[Any]) -> None:
    """Which ones there are is said."""
    missing = TaskSpec("t", changes=(ChangeSpec("public", "contacts", ("insert",)),))
    assert "task t: there is no table public.contacts" in refusal(database, missing)
    said = refusal(database, spec("insert", columns=("id", "mail")))
    assert "has no column 'mail'; it has: id, email, name, active, more" in said


def test_a_table_of_our_own(database: Database, app: psycopg.Connection[Any]) -> None:
    """Its executions would make executions, without end."""
    for table in ("conductor_executions", "conductor_steps", "conductor_schema"):
        task = TaskSpec("t", changes=(ChangeSpec("conductor", table, ("insert",)),))
        assert f"task t: conductor.{table} is a table of Conductor's own" in refusal(database, task)


def test_a_virtual_column(database: Database, app: psycopg.Connection[Any], postgres: PostgresServer) -> None:
    """A trigger has no value for it: so it is refused where it is named, and not told where it is not."""
    if postgres.version < 18:
        pytest.skip("no such columns")
    app.execute("CREATE TABLE box (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL)")
    app.commit()
    named = TaskSpec("t", changes=(ChangeSpec("public", "box", ("insert",), columns=("twice",)),))
    assert "task t: the column 'twice' of public.box is virtual" in refusal(database, named)
    declare(
        database, TaskSpec("t", changes=(ChangeSpec("public", "box", ("insert",), when="NEW.twice > 4"),))
    )
    app.execute("INSERT INTO box VALUES (1), (3)")
    app.commit()
    assert [payload["new"] for _, payload in made(database)] == [{"a": 3}]


def test_a_table_that_is_kept_locked(
    database: Database, app: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody else who writes to it would wait behind us, so we do not wait for long."""
    monkeypatch.setattr(changes, "LOCK_PATIENCE", 1)
    app.execute(ADA)
    said = refusal(database, spec("insert"))
    assert "canceling statement due to lock timeout; a transaction that goes on for long keeps" in said
    app.commit()
    declare(database, spec("insert"))


def test_the_time_to_wait_for_locks_is_as_before(database: Database, app: psycopg.Connection[Any]) -> None:
    """Other writes of the same transaction do not inherit our impatience."""
    with database.writing() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '7s'")
        changes.declare(connection, [spec("insert")], "me")
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "7s"


def test_sqlite_has_no_such_triggers(sqlite_url: str) -> None:
    """The message says what is needed. Tasks without them are fine."""
    database = Database.open(sqlite_url)
    declare(database, TaskSpec("plain"))
    with pytest.raises(UsageError, match="task greet: DatabaseChange needs PostgreSQL"):
        declare(database, spec("insert"))
    database.close()


# Rights


@pytest.fixture
def clerk(postgres: PostgresServer, database_url: str) -> Iterator[str]:
    """The URL for a role that may do nothing yet but what its test grants."""
    name = database_url.rpartition("/")[2]
    postgres.execute("CREATE ROLE clerk LOGIN")
    yield database_url.replace("postgres@", "clerk@")
    postgres.execute("REASSIGN OWNED BY clerk TO postgres", name)
    postgres.execute("DROP OWNED BY clerk", name)
    postgres.execute("DROP ROLE clerk")


def test_who_changes_the_table_needs_no_rights_in_our_schema(
    database: Database, app: psycopg.Connection[Any], clerk: str
) -> None:
    """The function has those of the supervisor's role; nobody else can put it on a table."""
    declare(database, spec("insert"))
    (function,) = functions(app)
    app.execute("GRANT INSERT ON contact TO clerk; GRANT USAGE ON SEQUENCE contact_id_seq TO clerk")
    app.execute("GRANT USAGE ON SCHEMA conductor TO clerk; GRANT CREATE ON SCHEMA public TO clerk")
    app.commit()
    with psycopg.connect(clerk) as other:
        # What it brings along does not lead the function astray.
        other.execute("CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'fooled' $$")
        other.execute("SET search_path = public, pg_catalog")
        other.execute(ADA)
        other.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="conductor_on_change"):
            other.execute(
                "CREATE TABLE mine (id int); CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW"
                f" EXECUTE FUNCTION conductor.{function}('pay-out', 'e')".encode()
            )
    assert [payload["operation"] for _, payload in made(database)] == ["insert"]


FORGE = """
CREATE FUNCTION mine.forge({kind}) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO mine.runs_as VALUES (current_user);
    RETURN '"forged"';
END $$;
CREATE CAST ({kind} AS json) WITH FUNCTION mine.forge({kind})
"""


def test_no_code_of_others_runs_with_our_rights(
    database: Database, app: psycopg.Connection[Any], clerk: str
) -> None:
    """Be it brought along by the type of a column that is there, or is added later, or by what is in one."""
    app.execute("CREATE SCHEMA mine AUTHORIZATION clerk")
    app.commit()
    with psycopg.connect(clerk) as other:
        other.execute("CREATE TABLE mine.runs_as (role text); CREATE TYPE mine.kind AS ENUM ('x')")
        other.execute("CREATE DOMAIN mine.small AS mine.kind; CREATE TYPE mine.pair AS (a int, b mine.kind)")
        other.execute("CREATE DOMAIN mine.count AS int")
        other.execute("CREATE TYPE mine.span AS RANGE (subtype = int)")
        other.execute("CREATE TABLE mine.t (id mine.count, k mine.kind, many mine.kind[], s mine.small)")
        other.execute("ALTER TABLE mine.t ADD p mine.pair, ADD ps mine.pair[], ADD r mine.span")
        other.execute("GRANT TRIGGER ON mine.t TO postgres")
        other.execute(FORGE.format(kind="mine.kind").encode())
        other.commit()
        change = ChangeSpec("mine", "t", ("insert",))
        declare(database, TaskSpec("t", changes=(change,)))
        # The casts of a composite and a range come later, as may a whole type.
        other.execute(FORGE.format(kind="mine.pair").encode())
        other.execute(FORGE.format(kind="mine.span").encode())
        insert = "INSERT INTO mine.t VALUES (1, 'x', '{x,NULL}', 'x', '(2,x)', '{\"(2,x)\"}', '[1,3)')"
        other.execute(insert.encode())
        other.execute("ALTER TABLE mine.t ALTER id TYPE mine.kind USING 'x'")
        other.commit()
        with psycopg.connect(clerk) as anew:  # which has not planned the function yet
            anew.execute(insert.replace("(1,", "('x',").encode())
        assert other.execute("SELECT * FROM mine.runs_as").fetchall() == []
    told = {"k": "x", "many": "{x,NULL}", "s": "x", "p": "(2,x)", "ps": '{"(2,x)"}', "r": "[1,3)"}
    assert [payload["new"] for _, payload in made(database)] == [{"id": 1, **told}, {"id": "x", **told}]


def test_types_of_our_own_are_told_as_json(database: Database, app: psycopg.Connection[Any]) -> None:
    """Arrays and composites too, with the casts that were made for them; but not by others."""
    app.execute("CREATE TYPE kind AS ENUM ('x'); CREATE TYPE pair AS (a int, b kind)")
    app.execute("CREATE TYPE tag AS ENUM ('y'); CREATE TABLE t (k kind[], p pair, g tag)")
    app.execute(
        "CREATE FUNCTION told(tag) RETURNS json LANGUAGE sql AS $$ SELECT json_build_object('tag', 1) $$"
    )
    app.execute("CREATE CAST (tag AS json) WITH FUNCTION told(tag)")
    app.commit()
    declare(database, TaskSpec("t", changes=(ChangeSpec("public", "t", ("insert",)),)))
    app.execute("INSERT INTO t VALUES ('{x,NULL}', '(1,x)', 'y'), (NULL, NULL, NULL)")
    app.commit()
    assert [payload["new"] for _, payload in made(database)] == [
        {"k": ["x", None], "p": {"a": 1, "b": "x"}, "g": {"tag": 1}},
        {"k": None, "p": None, "g": None},
    ]


def test_a_cast_whose_function_is_not_ours_is_not_called(
    database: Database, app: psycopg.Connection[Any], clerk: str
) -> None:
    """Its owner could replace it."""
    app.execute("CREATE TYPE tag AS ENUM ('y'); CREATE TABLE t (g tag)")
    app.execute("CREATE FUNCTION told(tag) RETURNS json LANGUAGE sql AS $$ SELECT '1'::json $$")
    app.execute("CREATE CAST (tag AS json) WITH FUNCTION told(tag); ALTER FUNCTION told(tag) OWNER TO clerk")
    app.commit()
    assert clerk
    declare(database, TaskSpec("t", changes=(ChangeSpec("public", "t", ("insert",)),)))
    app.execute("INSERT INTO t VALUES ('y')")
    app.commit()
    assert [payload["new"] for _, payload in made(database)] == [{"g": "y"}]


def test_a_supervisor_without_rights_says_what_to_grant(
    database: Database, app: psycopg.Connection[Any], clerk: str
) -> None:
    """To make the function, to make a trigger, and to remove one."""
    app.execute("GRANT USAGE ON SCHEMA conductor TO clerk")
    app.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA conductor TO clerk")
    app.commit()
    supervisor = Database.open(clerk)
    assert 'GRANT CREATE ON SCHEMA "conductor" TO clerk' in refusal(supervisor, spec("insert"))
    app.execute("GRANT CREATE ON SCHEMA conductor TO clerk")
    app.commit()
    assert 'GRANT TRIGGER ON "public"."contact" TO clerk' in refusal(supervisor, spec("insert"))
    app.execute("GRANT TRIGGER ON contact TO clerk")
    app.commit()
    declare(supervisor, spec("insert"))
    app.execute(ADA)
    app.commit()
    assert len(made(database)) == 1
    said = refusal(supervisor, TaskSpec("plain"))
    assert "must be owner" in said
    assert 'let it run: DROP TRIGGER "conductor_' in said
    supervisor.close()
