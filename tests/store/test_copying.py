"""All that one database keeps, copied into another: nothing is lost, nothing changed, all is compared."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.dialects import postgresql
from store_moves import NOW, SECOND, ask, chunk, claim, end, ending, invoke, running, states, step, view

from conductor_protocol.manifest import RetrySpec, ScheduleSpec, TaskSpec
from conductor_protocol.operations import GetOutput, ListExecutions
from conductor_supervisor.errors import StoreError
from conductor_supervisor.store import copying, executions, output, schedules, schema, starts, steps, tasks
from conductor_supervisor.store.claiming import Claimed
from conductor_supervisor.store.copying import KEPT, Checked, Kept
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.dialect import sql

SPEC = TaskSpec("t", schedules=(ScheduleSpec("nightly", "0 2 * * *"),), retry=RetrySpec(delays=(1.0,)))
AWKWARD = 'tab\there, "quotes", \\N back\\slash\r\nzwölf 🦆 \u2028'


@pytest.fixture(params=["to_postgresql", "to_sqlite"])
def databases(request: pytest.FixtureRequest, sqlite_url: str, postgres_url: str) -> Iterator[list[Database]]:
    """A source and a target of the other kind, both with tables and without rows."""
    urls = [sqlite_url, postgres_url]
    with ExitStack() as stack:
        opened = [Database.open(url) for url in (urls if request.param == "to_postgresql" else urls[::-1])]
        for database in opened:
            stack.callback(database.close)
        yield opened


@contextmanager
def writing_both(source: Database, target: Database) -> Iterator[tuple[Connection, Connection]]:
    """A transaction on each side in which nobody else writes."""
    with source.writing() as here, target.writing() as there:
        source.keep_others_from_writing(here)
        target.keep_others_from_writing(there)
        yield here, there


def copy(source: Database, target: Database) -> list[Checked]:
    """Copy, and commit."""
    with writing_both(source, target) as (here, there):
        return copying.copy(here, target, there)


def fill(database: Database) -> list[str]:
    """Put something into every table, in every state and with every oddity; return the executions' ids."""
    with database.writing() as connection:
        tasks.declare(connection, [SPEC], NOW)
        schedules.declare(connection, [SPEC], NOW)
        tasks.pause(connection, "queue", "media", NOW)
        starts.note_claims(connection, [("t", "an execution", 1)])
    ids = [
        *invoke(database, "t", payload=b"[1.5, null]", metadata=b'{"who": "ada"}', priority=-7),
        *invoke(database, "t", delay=60.0, dedupe_key=AWKWARD),
    ]
    (claimed,) = claim(database, "t")
    with database.writing() as connection:
        # Their names in another order than their positions.
        steps.record(connection, [step(claimed, name, b'"' + b"x" * 1000 + b'"') for name in "zyxab"])
        output.keep(connection, [chunk(claimed, AWKWARD), chunk(claimed, "more", before=99)], 10_000)
    end(
        database,
        ending(claimed, "scheduled", "failed", charged=True, due=NOW + 60 * SECOND, waiting_for="retry"),
    )
    done, failed = running(database), running(database)
    end(database, ending(done, expires=NOW + SECOND), ending(failed, "failed"))
    return [*ids, done.id, failed.id, running(database).id]


def test_everything_is_as_it_was(databases: list[Database]) -> None:
    """As clients see it: each execution, their list, what they printed; and as operators have set it."""
    source, target = databases
    ids = fill(source)
    copy(source, target)
    assert [view(target, key) for key in ids] == [view(source, key) for key in ids]
    assert ask(target, ListExecutions()) == ask(source, ListExecutions())
    assert [found.name for found in view(target, ids[0]).steps] == list("zyxab")
    printed = [ask(database, GetOutput(ids[0], 0)) for database in databases]
    assert printed[0].pieces == printed[1].pieces  # type: ignore[union-attr]
    for database in databases:
        with database.reading() as connection:
            assert tasks.declared(connection) == [SPEC]
            assert tasks.paused(connection) == {("queue", "media")}
            assert schedules.last_firings(connection) == {("t", "nightly"): NOW}


def test_every_table_is_copied_and_every_column(databases: list[Database]) -> None:
    """But for who lives, and for numbers that the database gives. A new table must be thought of here."""
    source, target = databases
    fill(source)
    checked = copy(source, target)
    assert {kept.table.name for kept in KEPT} == schema.metadata.tables.keys() - {"conductor_supervisors"}
    left_out = {
        f"{kept.name}.{c}" for kept in KEPT for c in set(kept.table.columns.keys()) - set(kept.columns)
    }
    assert left_out == {"steps.position", "output.position"}
    assert [(each.table, each.rows) for each in checked] == [
        *(("executions", 5), ("steps", 5), ("attempts", 2), ("output", 2)),
        *(("starts", 1), ("schedules", 1), ("tasks", 1), ("pauses", 1)),
    ]


def test_the_numbering_goes_on_behind_what_was_copied(databases: list[Database]) -> None:
    """A step recorded after the move comes after all those before."""
    source, target = databases
    first = fill(source)[0]
    copy(source, target)
    (claimed,) = [one for one in claim_due(target) if one.id == first]
    with target.writing() as connection:
        assert steps.record(connection, [step(claimed, "m")]) == []
    assert [found.name for found in view(target, first).steps] == [*"zyxab", "m"]


def claim_due(database: Database) -> list[Claimed]:
    """Promote what has become due a minute later, and claim it."""
    later = NOW + 61 * SECOND
    with database.writing() as connection:
        executions.promote(connection, later)
    return claim(database, "t", now=later)


def test_many_rows_go_a_few_at_a_time(databases: list[Database], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever does not fit into one handful: all arrive, in their order, and nobody holds them together."""
    source, target = databases
    claimed = running(source)
    names = [f"{number * 7919 % 1000:03}" for number in range(1000)]
    with source.writing() as connection:
        steps.record(connection, [step(claimed, name) for name in names])
    largest = 0

    def watch(what: str, rows: int) -> None:
        nonlocal largest
        largest = max(largest, rows)

    with writing_both(source, target) as (here, there):
        copying.copy(here, target, there, watch)
    assert [found.name for found in view(target, claimed.id).steps] == names
    assert largest == copying.ROWS_AT_ONCE


def test_what_the_target_declared_gives_way(databases: list[Database]) -> None:
    """It may have had a supervisor that never ran anything."""
    source, target = databases
    fill(source)
    with target.writing() as connection:
        tasks.declare(connection, [SPEC, TaskSpec("other")], NOW + SECOND)
        schedules.declare(connection, [SPEC], NOW + SECOND)
        tasks.pause(connection, "task", "t", NOW)
    copy(source, target)
    with target.reading() as connection:
        assert tasks.declared(connection) == [SPEC]
        assert schedules.last_firings(connection) == {("t", "nightly"): NOW}
        assert tasks.paused(connection) == {("queue", "media")}


def test_a_target_that_changes_a_row_is_found_out(databases: list[Database]) -> None:
    """Both sides are read again, each by itself; then nothing is kept."""
    source, target = databases
    fill(source)
    with target.writing() as connection:
        spoil(connection)
    with pytest.raises(StoreError, match=r"steps: the copy is not what was copied: 5 rows .* became 5 rows"):
        copy(source, target)
    with target.reading() as connection:
        assert set(copying.counts(connection).values()) == {0}


def spoil(connection: Connection) -> None:
    """Let a trigger change the result of one step."""
    if connection.dialect.name == "sqlite":
        connection.execute(
            text(
                "CREATE TRIGGER spoil AFTER INSERT ON conductor_steps WHEN NEW.name = 'x' BEGIN"
                " UPDATE conductor_steps SET result = '2' WHERE position = NEW.position; END"
            )
        )
        return
    connection.execute(
        text(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.result := '2'; RETURN NEW; END $$"
        )
    )
    connection.execute(
        sql(
            "CREATE TRIGGER spoil BEFORE INSERT ON conductor_steps FOR EACH ROW"
            " WHEN (NEW.name = 'x') EXECUTE FUNCTION spoil()"
        )
    )


def test_a_zero_character_is_named_before_postgresql_refuses_it(sqlite_url: str, postgres_url: str) -> None:
    """An older version has written such into SQLite; the message says whose it is."""
    source, target = Database.open(sqlite_url), Database.open(postgres_url)
    claimed = running(source)
    with source.writing() as connection:
        values = {"execution_id": claimed.id, "name": "a\0b", "result": "1", "attempt": 1}
        connection.execute(insert(schema.steps).values(**values, started_at=1, ended_at=2))
    with pytest.raises(StoreError, match=f"steps: name of {claimed.id} has a zero character"):
        copy(source, target)
    assert states(source, [claimed.id]) == ["running"]
    source.close()
    target.close()


def test_a_row_that_cannot_be_read_is_not_blamed_on_the_target(sqlite_url: str, postgres_url: str) -> None:
    """The message says where it was: here a text in the file is none."""
    source, target = Database.open(sqlite_url), Database.open(postgres_url)
    fill(source)
    with source.writing() as connection:
        connection.execute(text("UPDATE conductor_steps SET result = CAST(x'ff' AS TEXT) WHERE name = 'x'"))
    with pytest.raises(StoreError, match="copying steps: the rows cannot be read: Could not decode"):
        copy(source, target)
    source.close()
    target.close()


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.name)
def test_texts_come_in_the_order_of_their_bytes(kept: Kept) -> None:
    """PostgreSQL would order them by the language that the database is set up for; SQLite knows none."""
    texts = [name for name in kept.key if name != "position" and name != "claim"]
    statement = str(kept.in_order().compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert statement.count('COLLATE "C"') == len(texts)


@pytest.mark.parametrize("during", ["copying", "checking"])
def test_what_is_interrupted_has_let_go_of_the_rows(
    databases: list[Database], monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """At once, and not when the database is closed already: that would be told as an error of its own."""
    source, target = databases
    fill(source)
    begun = []
    watched = copying._watched

    def seen(*arguments: Any) -> Generator[tuple[object, ...], None, None]:
        begun.append(watched(*arguments))
        return begun[-1]

    def interrupted(*arguments: Any) -> None:
        if during == "copying":
            next(arguments[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(copying, "_watched", seen)
    if during == "copying":
        monkeypatch.setattr(target, "load", interrupted)
    else:
        monkeypatch.setattr(copying, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt), writing_both(source, target) as (here, there):
        copying.copy(here, target, there)
    assert {inspect.getgeneratorstate(one) for one in begun} == {inspect.GEN_CLOSED}
