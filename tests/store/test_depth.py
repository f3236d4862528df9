"""What cannot run does not cost what can: by the pages that PostgreSQL looks at, not by time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event, text
from store_moves import NOW, ending, invoke, running

from conductor_supervisor.store import attempts, claiming, executions, leases, postgresql
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.dialect import sql

MANY = 20_000


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Only PostgreSQL's."""
    return postgres_url


@contextmanager
def pages_looked_at(database: Database) -> Iterator[list[int]]:
    """Collect how many pages each query that runs meanwhile looks at."""
    seen: list[int] = []

    def explain(
        _connection: Connection, cursor: object, statement: str, values: object, _context: object, _many: bool
    ) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            with cursor.connection.cursor() as other:  # type: ignore[attr-defined]
                other.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values)
                plan = other.fetchone()[0][0]["Plan"]
            seen.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    event.listen(database._engine, "before_cursor_execute", explain)
    yield seen
    event.remove(database._engine, "before_cursor_execute", explain)


def pages_for_a_claim(database: Database) -> int:
    """Claim one execution among those that are ready; return the pages that finding it took."""
    invoke(database, "t")
    with database.writing() as connection:
        connection.execute(text("ANALYZE conductor.conductor_executions"))
    with pages_looked_at(database) as pages, database.writing() as connection:
        executions.promote(connection, NOW)
        executions.next_due(connection)
        executions.cancel_requests(connection, "one")
        (_,) = claiming.claim(connection, [Wanted("t", 1, concurrency=100)], 1, "one", NOW).claimed
    return sum(pages)


def fill(database: Database, state: str, task: str, extra: str) -> None:
    """Make many executions of a task in a state."""
    with database.writing() as connection:
        connection.execute(
            sql(
                f"""
                INSERT INTO conductor_executions
                    (id, task, state, priority, event, payload, created_at, due_at, attempt, claim, lost,
                     suspect, waiting_for, finished_at, result)
                SELECT '{state}-' || number, '{task}', '{state}', 0, 'conductor.invoke', 'null', 1, {extra}
                FROM generate_series(1, {MANY}) AS number
                """
            )
        )


@pytest.mark.parametrize(
    ("state", "task", "extra"),
    [
        ("ready", "paused", "1, 0, 0, 0, 0, NULL, NULL, NULL"),
        ("ready", "z-paused", "1, 0, 0, 0, 0, NULL, NULL, NULL"),
        ("scheduled", "t", f"{NOW * 2}, 0, 0, 0, 0, 'delay', NULL, NULL"),
        ("completed", "t", "1, 0, 1, 0, 0, NULL, 1, 'null'"),
    ],
)
def test_a_claim_looks_at_as_many_pages_however_many_others_there_are(
    database: Database, state: str, task: str, extra: str
) -> None:
    """Ready ones of a task that may not start, before and behind; such as are due later; and history."""
    alone = pages_for_a_claim(database)
    fill(database, state, task, extra)
    assert pages_for_a_claim(database) <= alone + 30


def test_what_is_named_by_id_is_found_by_id(database: Database) -> None:
    """Not by reading the table, nor by going through what is ready or running: little by the statistics,
    but what has left those indexes stands there for as long as somebody holds a transaction open.
    """
    fill(database, "completed", "t", "1, 0, 1, 0, 0, NULL, 1, 'null'")
    mine = running(database, task="t")
    with database.writing() as connection:
        connection.execute(text("ANALYZE conductor.conductor_executions"))
    plans: list[str] = []

    def explain(
        _connection: Connection, cursor: object, statement: str, values: object, _context: object, _many: bool
    ) -> None:
        if statement.startswith("UPDATE conductor.conductor_executions"):
            with cursor.connection.cursor() as other:  # type: ignore[attr-defined]
                other.execute(f"EXPLAIN {statement}", values)
                plans.append("\n".join(line for (line,) in other.fetchall()))

    invoke(database, "t")
    event.listen(database._engine, "before_cursor_execute", explain)
    with database.writing() as connection:
        leases.limit(connection)
        claiming.claim(connection, [Wanted("t", 1)], 1, "one", NOW)
        attempts.end(connection, [ending(mine)])
    event.remove(database._engine, "before_cursor_execute", explain)
    assert len(plans) == 2
    assert all("conductor_executions_pkey" in plan for plan in plans), plans


def test_the_writer_plans_anew_every_now_and_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that fitted an empty table reads a large one from end to end."""
    moment = [0.0]
    monkeypatch.setattr(postgresql.time, "monotonic", lambda: moment[0])
    database._plans_until = 0.0  # type: ignore[attr-defined]
    statements: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    for moment[0] in (1.0, 2.0, 1.0 + postgresql.PLANS_FOR):
        database.transact(lambda connection: None)
    assert statements.count("DISCARD PLANS") == 2
