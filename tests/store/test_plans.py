"""The hot statements go through the index that was made for them, however many rows stand beside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from store_moves import NOW, ask, chunk, claim, end, ending, invoke, step

from conductor_protocol.operations import CancelExecution, ListExecutions, RetryExecution
from conductor_supervisor.store import attempts, executions, output, steps, tasks
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.database import Database


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Only SQLite's."""
    return sqlite_url


@contextmanager
def plans(database: Database) -> Iterator[list[str]]:
    """Collect the query plan of every statement that runs meanwhile."""
    seen: list[str] = []

    def explain(
        _conn: object, cursor: object, statement: str, values: object, _ctx: object, many: bool
    ) -> None:
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            first = values[0] if many else values  # type: ignore[index]
            plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", first)  # type: ignore[attr-defined]
            seen.extend(row[3] for row in plan)

    event.listen(database._engine, "before_cursor_execute", explain)
    yield seen
    event.remove(database._engine, "before_cursor_execute", explain)


def scans(plan: list[str]) -> list[str]:
    """Whole-table scans of one of our tables; a walk along a partial index of live rows is none."""
    return [line for line in plan if line.startswith("SCAN conductor") and "USING" not in line]


def test_no_statement_of_an_executions_life_scans_a_table(database: Database) -> None:
    """From claim to removal, a million other rows cost nothing."""
    with plans(database) as plan:
        invoke(database, *["t"] * 4, dedupe_key=None)
        invoke(database, "t", "t", dedupe_key="k")
        with database.writing() as connection:
            executions.promote(connection, NOW)
            executions.next_due(connection)
            executions.cancel_requests(connection, "one")
            executions.reopen_windows(connection)
            tasks.paused(connection)
        one, two, *_ = claim(database, Wanted("t", 3, concurrency=3))
        with database.writing() as connection:
            steps.record(connection, [step(one, "a")])
            steps.first_page(connection, [one.id, two.id], 100)
            steps.page_after(connection, one.id, "a", 100)
            output.keep(connection, [chunk(one, "line\n"), chunk(two, "line\n")], limit=4)
            output.page(connection, one.id, 1, 100)
        end(database, ending(one, expires=NOW), ending(two, "failed", expires=NOW))
        ask(database, RetryExecution(two.id))
        ask(database, CancelExecution(two.id))
        ask(database, ListExecutions())
        with database.writing() as connection:
            attempts.recover(connection, NOW, {})
            executions.remove_expired(connection, NOW)
            executions.counts(connection)
    assert len(plan) > 30
    assert scans([line for line in plan if "conductor_pauses" not in line]) == []


def test_a_claim_steps_over_the_rows_of_other_tasks(database: Database) -> None:
    """Each wanted task is looked up by name in the index of ready rows; so are the tasks that have any."""
    with plans(database) as plan:
        invoke(database, "a", "b")
        claim(database, Wanted("b", 5, concurrency=5))
    ready = [line for line in plan if "conductor_ready" in line]
    assert any("USING INDEX conductor_ready (task=?)" in line for line in ready)
    assert any("conductor_ready (task>?)" in line for line in ready)
    assert not any("USE TEMP B-TREE FOR ORDER BY" in line for line in plan)


def test_finished_history_is_not_walked_to_list_one_task(database: Database) -> None:
    """The newest of a task come along an index."""
    with plans(database) as plan:
        ask(database, ListExecutions(task="t", state="failed"))
    assert any("conductor_finished (task=? AND state=?" in line for line in plan)
    assert not any("TEMP B-TREE" in line for line in plan)


def test_suspects_have_an_index_of_their_own(database: Database) -> None:
    """However many others are ready in front of them."""
    with plans(database) as plan:
        invoke(database, "t")
        claim(database, Wanted("t", 5, suspects=True))
        claim(database, Wanted("t", 5, suspects=False))
    assert any("USING INDEX conductor_suspects (task=? AND suspect=?)" in line for line in plan)
    assert any("USING INDEX conductor_ready (task=?)" in line for line in plan)
    assert not any("USE TEMP B-TREE FOR ORDER BY" in line for line in plan)
