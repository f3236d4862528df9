"""How attempts end, what remains of them, and that late voices change nothing."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError
from store_moves import FAILURE, NOW, SECOND, ask, claim, end, ending, invoke, running, states, step, view

from conductor_protocol.manifest import TaskSpec
from conductor_protocol.operations import (
    CancelExecution,
    CrashReport,
    GetExecution,
    NotFound,
    ProgressView,
)
from conductor_protocol.units import moment
from conductor_supervisor.store import executions, steps, tasks
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.dialect import sql

CRASH = CrashReport(cause="died of SIGSEGV between steps", signal="SIGSEGV", stderr="oh\n")


def test_a_completion_keeps_the_result(database: Database) -> None:
    """With the one attempt, uncharged."""
    claimed = running(database)
    assert end(database, ending(claimed, result=b'{"n": 1}')) == []
    found = view(database, claimed.id)
    assert (found.state, found.result, found.error, found.attempt) == ("completed", {"n": 1}, None, 0)
    assert found.finished == moment(NOW + SECOND)
    assert [(a.number, a.outcome, a.started, a.ended) for a in found.attempts] == [
        (1, "completed", moment(NOW), moment(NOW + SECOND))
    ]


RESULTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=5,
)


@given(results=st.lists(RESULTS, min_size=1, max_size=5))
def test_results_survive_the_way_into_the_database(
    long_lived_database: Database, results: list[object]
) -> None:
    """Any JSON whatever: NUL, quotes, every plane of Unicode, integers of any size."""
    database = long_lived_database
    invoke(database, *["t"] * len(results))
    claimed = claim(database, "t")
    texts = [msgspec.json.encode(result) for result in results]
    late = end(database, *[ending(one, result=text) for one, text in zip(claimed, texts, strict=True)])
    assert late == []
    with database.reading() as connection:
        stored = [
            connection.scalar(sql("SELECT result FROM conductor_executions WHERE id = :id"), {"id": one.id})
            for one in claimed
        ]
    assert [str(text).encode() for text in stored] == texts


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def long_lived_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """One database for all examples of a property."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('property')}/a.db"
    else:
        url = request.getfixturevalue("postgres").url() + "?schema=property"
    database = Database.open(url)
    database.migrate()
    yield database
    database.close()


def test_many_completions_at_once(database: Database) -> None:
    """Each gets its own result and none another's."""
    ids = invoke(database, *["t"] * 300)
    claimed = claim(database, "t", count=300)
    end(database, *[ending(one, result=msgspec.json.encode(one.id)) for one in claimed])
    assert all(view(database, execution).result == execution for execution in ids[::37])


def test_a_failed_attempt_is_charged_and_waits(database: Database) -> None:
    """Its row says why it waits and until when; the attempt keeps the error."""
    claimed = running(database)
    end(
        database,
        ending(
            claimed,
            "scheduled",
            "failed",
            charged=True,
            failure=FAILURE,
            due=NOW + 15 * SECOND,
            waiting_for="retry",
        ),
    )
    found = view(database, claimed.id)
    assert (found.state, found.waiting_for, found.due) == ("scheduled", "retry", moment(NOW + 15 * SECOND))
    assert (found.attempt, found.error) == (1, FAILURE)
    assert [(a.number, a.outcome, a.error) for a in found.attempts] == [(1, "failed", FAILURE)]


def test_attempts_are_numbered_by_what_was_charged(database: Database) -> None:
    """A release leaves the number to the attempt after it; a success at last forgets the error."""
    end(database, ending(running(database), "ready", "released", reason="shutdown"))
    (second,) = claim(database, "t")
    end(database, ending(second, "ready", "crashed", charged=True, crash=CRASH))
    (third,) = claim(database, "t")
    assert third.attempt == 1
    assert [a.outcome for a in view(database, third.id).attempts] == ["released", "crashed", "running"]
    end(database, ending(third))
    found = view(database, third.id)
    assert [(a.number, a.outcome) for a in found.attempts] == [
        (1, "released"),
        (1, "crashed"),
        (2, "completed"),
    ]
    assert (found.attempts[0].reason, found.attempts[1].crash) == ("shutdown", CRASH)
    assert (found.error, found.result) == (None, "done")


def test_a_crash_that_ends_it_all_is_the_error(database: Database) -> None:
    """Whoever waits for the result reads the crash's cause."""
    claimed = running(database)
    end(database, ending(claimed, "failed", "crashed", failure=None, crash=CRASH))
    error = view(database, claimed.id).error
    assert error is not None
    assert (error.type, error.message) == ("Crashed", "died of SIGSEGV between steps")


def test_a_runner_killed_for_another_reason_is_no_error(database: Database) -> None:
    """An execution whose runner was killed at a shutdown has not failed, so a list shows no crash."""
    invoke(database, "t")
    (claimed,) = claim(database, "t")
    end(database, ending(claimed, "ready", "stopped", charged=False, failure=None, crash=CRASH))
    found = view(database, claimed.id)
    assert (found.error, found.attempts[0].crash) == (None, CRASH)


def test_released_work_keeps_its_place(database: Database) -> None:
    """It is the first to be claimed again."""
    (first, *_) = invoke(database, "t", "t")
    (claimed,) = claim(database, "t", count=1)
    end(database, ending(claimed, "ready", "released"))
    assert claim(database, "t", count=1)[0].id == first


def test_what_was_given_back_before_it_began_has_not_started(database: Database) -> None:
    """It is as if nobody had claimed it: no attempt, nothing charged, and its place in the queue."""
    one = running(database)
    before = view(database, one.id)
    end(database, msgspec.structs.replace(ending(one, "ready", "released"), outcome=None))
    after = view(database, one.id)
    assert (after.state, after.started, after.due, after.attempt) == ("ready", None, before.due, 0)
    assert after.attempts == []


def test_work_released_for_a_window_waits_until_windows_are_looked_at_anew(database: Database) -> None:
    """At start the settings may be others, so all of them are reopened; other waits stay."""
    (delayed,) = invoke(database, "t", delay=100)
    claimed = running(database)
    end(database, ending(claimed, "scheduled", "released", due=NOW + 99 * SECOND, waiting_for="window"))
    with database.writing() as connection:
        assert executions.reopen_windows(connection) == 1
    assert states(database, [delayed, claimed.id]) == ["scheduled", "ready"]


ENDINGS = {
    "completed": {},
    "failed": {},
    "cancelled": {},
    "ready": {"outcome": "released"},
    "scheduled": {"outcome": "released", "due": NOW, "waiting_for": "window"},
}


@pytest.mark.parametrize("state", ENDINGS)
def test_a_late_voice_changes_nothing(database: Database, state: str) -> None:
    """Whatever an earlier claim, a finished execution's or an unknown one's runner says."""
    first = running(database)
    end(database, ending(first, "ready", "released"))
    (second,) = claim(database, "t")
    before = view(database, first.id)
    late = ending(first, state, **ENDINGS[state])
    stranger = msgspec.structs.replace(late, execution="01900000-0000-7000-8000-000000000000")
    assert end(database, late, stranger) == [late, stranger]
    assert view(database, first.id) == before
    end(database, ending(second))
    before = view(database, first.id)
    again = ending(second, state, **ENDINGS[state])
    assert end(database, again) == [again]
    assert view(database, first.id) == before


def test_late_voices_do_not_disturb_the_others(database: Database) -> None:
    """In one group some are late and some are not."""
    invoke(database, "t", "t", "t")
    one, two, three = claim(database, "t")
    end(database, ending(one))
    endings = [ending(one), ending(two), ending(one, "ready", "released"), ending(three, "failed")]
    assert end(database, *endings) == [endings[0], endings[2]]
    assert states(database, [one.id, two.id, three.id]) == ["completed", "completed", "failed"]


def test_of_two_endings_in_one_group_the_first_counts(database: Database) -> None:
    """The second is a late voice already."""
    claimed = running(database)
    first, second = ending(claimed, "failed"), ending(claimed)
    assert end(database, first, second) == [second]
    assert states(database, [claimed.id]) == ["failed"]


def test_impossible_rows_are_refused_by_the_database(database: Database) -> None:
    """A failure without an error, a wait without a reason: nobody can write them."""
    claimed = running(database)
    for impossible in (
        ending(claimed, "failed", failure=None),
        ending(claimed, "scheduled", "released"),
        ending(claimed, "ready", "slept"),
    ):
        with pytest.raises(IntegrityError):
            end(database, impossible)
    assert states(database, [claimed.id]) == ["running"]


def test_an_execution_that_would_run_again_is_cancelled_if_somebody_asked_meanwhile(
    database: Database,
) -> None:
    """The request came between the supervisor's decision and its commit."""
    with database.writing() as connection:
        tasks.declare(connection, [TaskSpec(name="t", keep_completed=60)], NOW)
    claimed = running(database)
    ask(database, CancelExecution(claimed.id, "enough"))
    end(
        database,
        ending(claimed, "scheduled", "failed", charged=True, failure=FAILURE, due=NOW, waiting_for="retry"),
    )
    found = view(database, claimed.id)
    assert (found.state, found.cancel_reason, found.waiting_for) == ("cancelled", "enough", None)
    with database.writing() as connection:
        assert executions.remove_expired(connection, NOW + 61 * SECOND) == 1


def test_a_completion_wins_over_a_cancellation_that_came_too_late(database: Database) -> None:
    """The work is done: saying otherwise would be a lie."""
    claimed = running(database)
    ask(database, CancelExecution(claimed.id))
    assert end(database, ending(claimed)) == []
    assert states(database, [claimed.id]) == ["completed"]


def test_cancel_requests_reach_the_supervisor_that_runs_it(database: Database) -> None:
    """And only as long as it runs."""
    claimed = running(database)
    ask(database, CancelExecution(claimed.id, "enough"))

    def requests(supervisor: str) -> list[tuple[str, int, str | None]]:
        with database.reading() as connection:
            return executions.cancel_requests(connection, supervisor)

    assert requests("one") == [(claimed.id, 1, "enough")]
    assert requests("other") == []
    end(database, ending(claimed, "cancelled"))
    assert requests("one") == []


def test_progress_is_kept_while_it_runs(database: Database) -> None:
    """A late voice's is not, and the next attempt begins without any."""
    claimed = running(database)
    with database.writing() as connection:
        executions.set_progress(connection, [(claimed.id, 1, ProgressView(done=1, total=2, message="half"))])
        executions.set_progress(
            connection, [(claimed.id, 2, ProgressView(done=9)), ("none", 1, ProgressView(done=9))]
        )
    assert view(database, claimed.id).progress == ProgressView(done=1, total=2, message="half")
    end(database, ending(claimed, "ready", "released"))
    claim(database, "t")
    assert view(database, claimed.id).progress is None


def test_what_has_expired_is_removed_with_all_that_belongs_to_it(database: Database) -> None:
    """What may stay stays, with its steps; the oldest go first."""
    invoke(database, "t", "t", "t")
    soon, later, forever = claim(database, "t")
    with database.writing() as connection:
        steps.record(connection, [step(one, "s") for one in (soon, later, forever)])
    end(
        database,
        ending(soon, "failed", expires=NOW + 10 * SECOND),
        ending(later, "failed", expires=NOW + 20 * SECOND),
        ending(forever, expires=None),
    )
    with database.writing() as connection:
        assert executions.remove_expired(connection, NOW + 10 * SECOND - 1) == 0
        assert executions.remove_expired(connection, NOW + 99 * SECOND, limit=1) == 1
    assert ask(database, GetExecution(soon.id)) == NotFound(soon.id)
    assert view(database, later.id).steps_recorded == 1
    with database.writing() as connection:
        assert executions.remove_expired(connection, NOW + 99 * SECOND) == 1
        for table, left in (("executions", 1), ("steps", 1), ("attempts", 0)):
            count = connection.scalar(sql(f"SELECT count(*) FROM conductor_{table}"))
            assert (table, count) == (table, left)
