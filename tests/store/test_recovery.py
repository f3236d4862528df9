"""After a supervisor's death its executions go back to the queue, none takes the machine down."""

from __future__ import annotations

import msgspec
from sqlalchemy import event
from store_moves import NOW, SECOND, ask, claim, end, ending, invoke, running, view

from conductor_protocol.operations import CancelExecution
from conductor_supervisor.store import attempts, leases
from conductor_supervisor.store.attempts import Recovered
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.leases import Member


def recover(database: Database, max_attempts: int = 2) -> Recovered:
    with database.writing() as connection:
        return attempts.recover(connection, NOW + SECOND, {"t": max_attempts})


def die(database: Database, max_attempts: int = 2) -> Recovered:
    """A supervisor claims what there is and dies."""
    claim(database, "t")
    return recover(database, max_attempts)


def test_running_work_is_returned_uncharged(database: Database) -> None:
    """With an attempt that says what happened."""
    claimed = running(database)
    (waiting,) = invoke(database, "t")
    assert recover(database) == Recovered(returned=[claimed.id], charged=[], cancelled=[])
    found = view(database, claimed.id)
    assert (found.state, found.attempt) == ("ready", 0)
    assert [(a.outcome, a.reason) for a in found.attempts] == [("lost", "its supervisor died")]
    assert view(database, waiting).attempts == []


def test_the_third_death_in_a_row_is_charged(database: Database) -> None:
    """After that it counts from the beginning, and fails when its attempts are used up."""
    (execution,) = invoke(database, "t")
    assert [die(database).charged for _ in range(3)] == [[], [], [execution]]
    found = view(database, execution)
    assert (found.state, found.attempt) == ("ready", 1)
    crash = found.attempts[-1].crash
    assert crash is not None
    assert crash.cause == "was running at three supervisor deaths in a row"
    assert [die(database).charged for _ in range(3)] == [[], [], [execution]]
    found = view(database, execution)
    assert (found.state, found.attempt) == ("failed", 2)
    assert found.error is not None
    assert found.error.message == "was running at three supervisor deaths in a row"


def test_deaths_count_only_in_a_row(database: Database) -> None:
    """Any other ending in between shows that the execution does not kill supervisors."""
    invoke(database, "t")
    die(database)
    die(database)
    end(database, ending(claim(database, "t")[0], "ready", "released"))
    assert die(database).charged == []
    assert die(database).charged == []
    assert len(die(database).charged) == 1


def test_what_had_not_begun_is_not_counted(database: Database) -> None:
    """However often a supervisor dies with it in hand; it leaves no attempt behind."""
    innocent, guilty = invoke(database, "t", "t")
    for death in range(3):
        claimed = {one.id: one for one in claim(database, "t")}
        assert claimed[innocent].deaths == 0
        assert claimed[guilty].deaths == death
        begun = (guilty, claimed[guilty].claim)
        with database.writing() as connection:
            recovered = attempts.recover(connection, NOW, {"t": 2}, lambda _, held: held == begun)  # noqa: B023
    assert recovered == Recovered(returned=[innocent], charged=[guilty], cancelled=[])
    assert view(database, innocent).attempts == []
    assert (view(database, innocent).state, view(database, innocent).attempt) == ("ready", 0)
    assert [one.outcome for one in view(database, guilty).attempts] == ["lost", "lost", "crashed"]


def test_a_death_before_it_began_does_not_break_the_row(database: Database) -> None:
    """Neither at a death nor when it is given back: two deaths at which it ran, and a third, charge it."""
    (execution,) = invoke(database, "t")
    die(database)
    claim(database, "t")
    with database.writing() as connection:
        attempts.recover(connection, NOW, {"t": 2}, lambda _, held: False)
    released = ending(claim(database, "t")[0], "ready", "released")
    end(database, msgspec.structs.replace(released, outcome=None))
    assert die(database).charged == []
    assert die(database).charged == [execution]


def test_a_task_that_is_unknown_keeps_its_executions(database: Database) -> None:
    """Nobody can say how many attempts it may have, so none is its last."""
    (execution,) = invoke(database, "t")
    for _ in range(9):
        claim(database, "t")
        with database.writing() as connection:
            attempts.recover(connection, NOW, {})
    assert view(database, execution).state == "ready"


def test_what_was_to_be_cancelled_is_cancelled(database: Database) -> None:
    """Nobody else is left to do it."""
    claimed = running(database)
    ask(database, CancelExecution(claimed.id, "enough"))
    assert recover(database) == Recovered(returned=[], charged=[], cancelled=[claimed.id])
    found = view(database, claimed.id)
    assert (found.state, found.cancel_reason) == ("cancelled", "enough")
    assert [(a.outcome, a.reason) for a in found.attempts] == [("cancelled", "enough")]


def test_the_dead_ones_voice_comes_late(database: Database) -> None:
    """A runner that outlived its supervisor for a moment changes nothing."""
    claimed = running(database)
    recover(database)
    late = ending(claimed)
    assert end(database, late) == [late]


def test_what_a_newcomer_has_claimed_during_the_look_stays_with_it(postgres_url: str) -> None:
    """The look saw the supervisors as they were when it began, and the execution as it is now."""
    one, two = Database.open(postgres_url), Database.open(postgres_url)
    claimed = running(one)
    looks: list[str] = []

    def join(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if "FOR NO KEY UPDATE" in statement and not looks:
            looks.append(statement)
            with two.writing() as connection:
                leases.renew(connection, Member("one", "here", 1, "app", NOW), SECOND)

    event.listen(one._engine, "after_cursor_execute", join)
    assert recover(one) == Recovered([], [], [])
    assert looks
    assert view(one, claimed.id).state == "running"
    one.close()
    two.close()
