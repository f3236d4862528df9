"""What clients may ask, and what they are answered."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from msgspec import Raw
from sqlalchemy import event
from store_moves import FAILURE, NOW, SECOND, ask, claim, end, ending, invoke, running, states, step, view

from conductor_protocol.manifest import TaskSpec
from conductor_protocol.operations import (
    Answer,
    CancelExecution,
    Changed,
    Found,
    GetExecution,
    GetOutcome,
    GetOutput,
    Invoked,
    InvokeMany,
    Listed,
    ListExecutions,
    NewExecution,
    NotFound,
    Operation,
    Outcome,
    Refused,
    RetryExecution,
)
from conductor_protocol.units import moment
from conductor_supervisor.store import executions, steps, tasks
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.dialect import sql
from conductor_supervisor.store.perform import perform, too_much


def listed(database: Database, **asked: object) -> list[str]:
    answer = ask(database, ListExecutions(**asked))  # type: ignore[arg-type]
    assert isinstance(answer, Listed), answer
    return [execution.id for execution in answer.executions]


def test_an_unknown_id_is_not_found(database: Database) -> None:
    """By any operation that names one."""
    for operation in (
        GetExecution("x"),
        GetOutcome("x"),
        GetOutput("x"),
        CancelExecution("x"),
        RetryExecution("x"),
    ):
        assert ask(database, operation) == NotFound("x")


def test_the_outcome_is_what_a_waiting_client_needs(database: Database) -> None:
    """State, result and error, and nothing else."""
    claimed = running(database)
    assert ask(database, GetOutcome(claimed.id)) == Outcome("running", Raw(b"null"), None)
    end(database, ending(claimed, result=b'{"n":1}'))
    assert ask(database, GetOutcome(claimed.id)) == Outcome("completed", Raw(b'{"n":1}'), None)
    failed = running(database)
    end(database, ending(failed, "failed"))
    assert ask(database, GetOutcome(failed.id)) == Outcome("failed", Raw(b"null"), FAILURE)


def test_lists_are_newest_first_and_paged(database: Database) -> None:
    """A page begins before the last id of the one before."""
    ids = invoke(database, *["t"] * 5)[::-1]
    assert listed(database) == ids
    assert listed(database, limit=2) == ids[:2]
    assert listed(database, limit=2, before=ids[1]) == ids[2:4]
    assert listed(database, before=ids[-1]) == []


def test_lists_by_task_and_state(database: Database) -> None:
    """Each alone and both together."""
    a1, b1, a2 = invoke(database, "a", "b", "a")
    claim(database, "a", count=1)
    assert listed(database, task="a") == [a2, a1]
    assert listed(database, state="ready") == [a2, b1]
    assert listed(database, task="a", state="running") == [a1]


def test_lists_are_light(database: Database) -> None:
    """They count steps but do not carry them."""
    claimed = running(database)
    with database.writing() as connection:
        steps.record(connection, [step(claimed, "a")])
    answer = ask(database, ListExecutions())
    assert isinstance(answer, Listed)
    (execution,) = answer.executions
    assert (execution.steps_recorded, execution.steps, execution.attempts) == (1, [], [])


def test_a_value_that_is_no_json_is_shown_as_it_is(database: Database) -> None:
    """It hides neither its execution nor the others: somebody else may have written it."""
    end(database, ending(running(database), result=b"{bad"))
    end(database, ending(running(database), result=b"1e999"))
    (invoked,) = invoke(database, "t", payload=Raw(b"[" * 5000))
    listed = ask(database, ListExecutions())
    assert isinstance(listed, Listed)
    assert [one.result for one in listed.executions] == [None, "1e999", "{bad"]
    assert view(database, invoked).payload == "[" * 5000


def test_what_is_too_large_to_be_answered_is_refused_before_it_is_read(database: Database) -> None:
    """It would only cost memory; bytes count, and not characters."""
    for letter in ("ä", "ö"):
        invoke(database, "t", payload=Raw(f'"{letter * 50}"'.encode()), metadata=Raw(b"[]"))
    claimed = running(database, "steps", payload=Raw(b"1"), metadata=Raw(b"{}"))
    with database.writing() as connection:
        steps.record(connection, [step(claimed, "a", b'"' + b"x" * 98 + b'"')])
    fetched: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *of: fetched.append(of[2]))

    def answer(operation: Operation, most: int) -> Answer:
        with database.reading() as connection:
            return perform(connection, operation, NOW, max_answer=most)

    every = ListExecutions()
    size = 2 * 104 + len(b"1{}")
    assert answer(every, size - 1) == too_much(size, size - 1)
    assert answer(GetExecution(claimed.id), 102) == too_much(103, 102)
    assert len([statement for statement in fetched if "conductor_" in statement]) == 2
    assert isinstance(answer(every, size), Listed)
    assert answer(every, size) == ask(database, every)
    assert isinstance(answer(ListExecutions(limit=2), 110), Listed)
    assert isinstance(answer(GetExecution(claimed.id), 103), Found)
    assert answer(GetExecution("x"), 1) == NotFound("x")


def test_a_list_that_makes_no_sense_is_refused(database: Database) -> None:
    """With what was expected."""
    assert ask(database, ListExecutions(limit=0)) == Refused("limit: expected 1 to 1000, got 0")
    answer = ask(database, ListExecutions(state="done"))  # type: ignore[arg-type]
    assert isinstance(answer, Refused)
    assert answer.message == (
        "state: expected one of scheduled, ready, running, completed, failed, cancelled, got 'done'"
    )


def test_waiting_work_is_cancelled_at_once(database: Database) -> None:
    """And removed when its task's finished executions are."""
    with database.writing() as connection:
        tasks.declare(connection, [TaskSpec(name="t", keep_completed=60)], NOW)
    ready = invoke(database, "t")[0]
    scheduled = invoke(database, "t", delay=5)[0]
    assert ask(database, CancelExecution(ready, "enough")) == Changed("ready", True)
    assert ask(database, CancelExecution(scheduled)) == Changed("scheduled", True)
    found = view(database, ready)
    assert (found.state, found.finished, found.cancel_reason) == ("cancelled", moment(NOW), "enough")
    assert states(database, [scheduled]) == ["cancelled"]
    assert claim(database, "t") == []
    with database.writing() as connection:
        assert executions.promote(connection, NOW + 9 * SECOND) == 0
        assert executions.remove_expired(connection, NOW + 60 * SECOND) == 2


def test_running_work_is_asked_to_stop(database: Database) -> None:
    """The first reason stays."""
    claimed = running(database)
    assert ask(database, CancelExecution(claimed.id, "enough")) == Changed("running", True)
    assert ask(database, CancelExecution(claimed.id, "again")) == Changed("running", True)
    found = view(database, claimed.id)
    assert (found.state, found.cancel_requested, found.cancel_reason) == ("running", True, "enough")


def test_finished_work_cannot_be_cancelled(database: Database) -> None:
    """Nor can what is cancelled already."""
    claimed = running(database)
    end(database, ending(claimed))
    assert ask(database, CancelExecution(claimed.id)) == Changed("completed", False)
    (other,) = invoke(database, "t")
    ask(database, CancelExecution(other))
    assert ask(database, CancelExecution(other)) == Changed("cancelled", False)


def test_a_retry_gives_new_attempts_and_keeps_the_steps(database: Database) -> None:
    """What was done is not done again; the attempts so far stay on record."""
    claimed = running(database)
    with database.writing() as connection:
        steps.record(connection, [step(claimed, "a")])
    end(database, ending(claimed, "failed", expires=NOW + SECOND))
    assert ask(database, RetryExecution(claimed.id), NOW + 5 * SECOND) == Changed("failed", True)
    found = view(database, claimed.id)
    assert (found.state, found.attempt, found.error, found.finished) == ("ready", 0, None, None)
    assert found.due == moment(NOW + 5 * SECOND)
    assert (len(found.attempts), found.steps_recorded) == (1, 1)
    with database.writing() as connection:
        assert executions.remove_expired(connection, NOW + 99 * SECOND) == 0
    (again,) = claim(database, "t")
    assert (again.claim, again.attempt) == (2, 0)


def test_cancelled_work_can_be_retried_and_is_not_cancelled_again(database: Database) -> None:
    """The old request is forgotten."""
    (execution,) = invoke(database, "t")
    ask(database, CancelExecution(execution, "enough"))
    assert ask(database, RetryExecution(execution)) == Changed("cancelled", True)
    found = view(database, execution)
    assert (found.state, found.cancel_requested, found.cancel_reason) == ("ready", False, None)


def test_only_failed_and_cancelled_work_can_be_retried(database: Database) -> None:
    """Anything else is left as it is."""
    claimed = running(database)
    assert ask(database, RetryExecution(claimed.id)) == Changed("running", False)
    end(database, ending(claimed))
    assert ask(database, RetryExecution(claimed.id)) == Changed("completed", False)
    assert states(database, [claimed.id]) == ["completed"]


def test_a_retry_does_not_break_a_dedupe_key(database: Database) -> None:
    """While another unfinished execution has the key, the retry is refused and says which one."""
    (first,) = invoke(database, "t", dedupe_key="k")
    ask(database, CancelExecution(first))
    (second,) = invoke(database, "t", dedupe_key="k")
    answer = ask(database, RetryExecution(first))
    assert isinstance(answer, Refused)
    assert second in answer.message
    ask(database, CancelExecution(second))
    assert ask(database, RetryExecution(first)) == Changed("cancelled", True)


def test_a_retry_that_meets_its_key_in_anothers_commit_is_refused(postgres_url: str) -> None:
    """As it is where that one is there already."""
    one, two = Database.open(postgres_url), Database.open(postgres_url)
    (first,) = invoke(one, "t", dedupe_key="k")
    ask(one, CancelExecution(first))
    with ThreadPoolExecutor(1) as pool:
        with two.writing() as connection:
            second = perform(connection, InvokeMany([NewExecution(task="t", dedupe_key="k")]), NOW)
            assert isinstance(second, Invoked)
            answer = pool.submit(ask, one, RetryExecution(first))
            while not (waits_for_a_lock(two) or answer.done()):
                time.sleep(0.01)
        refused = answer.result(30)
    assert isinstance(refused, Refused)
    assert second.ids[0] in refused.message
    one.close()
    two.close()


def waits_for_a_lock(database: Database) -> bool:
    """Tell whether anybody does. Each look needs a transaction of its own: in one, all look the same."""
    with database.reading() as connection:
        found = connection.scalar(
            sql(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        )
    return bool(found)


def test_a_retry_by_hand_makes_no_suspect_of_it_again(database: Database) -> None:
    """It begins anew, as if nothing had ever died with it inside."""
    claimed = running(database)
    end(database, ending(claimed, "failed", "crashed", charged=True, suspect=True))
    ask(database, RetryExecution(claimed.id))
    (again,) = claim(database, "t")
    assert not again.suspect
