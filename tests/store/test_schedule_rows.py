"""Each firing of a schedule makes one execution, whoever fires it and however often."""

from __future__ import annotations

import msgspec
from store_moves import NOW, SECOND, ask, claim, end, ending, view

from conductor_protocol.manifest import ScheduleSpec, TaskSpec
from conductor_protocol.operations import Listed, ListExecutions
from conductor_protocol.units import moment
from conductor_supervisor.store import executions, schedules
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.schedules import Firing

NIGHTLY = ScheduleSpec("nightly", "0 2 * * *")
TASK = TaskSpec(name="t", schedules=(NIGHTLY,))
KEY = ("t", "nightly")


def declare(database: Database, *specs: TaskSpec, now: int = NOW) -> None:
    with database.writing() as connection:
        schedules.declare(connection, specs, now)


def fire(database: Database, *moments: int, now: int = NOW) -> int:
    with database.writing() as connection:
        return schedules.fire(connection, [Firing("t", "nightly", at, b'{"a": 1}') for at in moments], now)


def last(database: Database) -> dict[tuple[str, str], int]:
    with database.reading() as connection:
        return schedules.last_firings(connection)


def test_a_firing_makes_an_execution(database: Database) -> None:
    """With the schedule's name as its event, and the moment it was meant for."""
    declare(database, TASK)
    assert fire(database, NOW + SECOND, now=NOW + 2 * SECOND) == 1
    (claimed,) = claim(database, "t")
    assert (claimed.event, claimed.scheduled_for, claimed.payload) == ("nightly", NOW + SECOND, b'{"a": 1}')
    found = view(database, claimed.id)
    assert (found.created, found.scheduled_for) == (moment(NOW + 2 * SECOND), moment(NOW + SECOND))


def test_no_firing_makes_two(database: Database) -> None:
    """Not in one call, not in two, not after the first has finished."""
    declare(database, TASK)
    assert fire(database, NOW + 1, NOW + 1, NOW + 2) == 2
    end(database, *[ending(claimed) for claimed in claim(database, "t")])
    assert fire(database, NOW + 1, NOW + 3) == 1
    assert fire(database) == 0
    listed = ask(database, ListExecutions(task="t"))
    assert isinstance(listed, Listed)
    assert len(listed.executions) == 3


def test_a_firing_that_others_have_made_and_removed_is_not_made_again(database: Database) -> None:
    """A supervisor that was stopped comes late with it; what is later still is made, in its order."""
    declare(database, TASK)
    assert fire(database, NOW + 1, NOW + 2, now=NOW + 2) == 2
    end(database, *[ending(claimed, expires=NOW + 3) for claimed in claim(database, "t")])
    with database.writing() as connection:
        assert executions.remove_expired(connection, NOW + 3) == 2
    assert fire(database, NOW + 1, NOW + 2, NOW + 3, NOW + 4, now=NOW + 5) == 2
    assert [claimed.scheduled_for for claimed in claim(database, "t")] == [NOW + 3, NOW + 4]


def test_after_the_clock_has_gone_back_schedules_fire(database: Database) -> None:
    """A last firing that lies in the future says nothing of those before it."""
    declare(database, TASK)
    assert fire(database, NOW + 100, now=NOW + 100) == 1
    assert fire(database, NOW + 5, now=NOW + 5) == 1


def test_the_last_firing_only_moves_forward(database: Database) -> None:
    """An old firing that comes again does not set the schedule back."""
    declare(database, TASK)
    assert last(database) == {KEY: NOW}
    fire(database, NOW + 5)
    fire(database, NOW + 3)
    assert last(database) == {KEY: NOW + 5}


def test_a_restart_goes_on_where_the_schedule_was(database: Database) -> None:
    """So firings missed meanwhile are known."""
    declare(database, TASK)
    fire(database, NOW + 5)
    declare(database, TASK, now=NOW + 100)
    assert last(database) == {KEY: NOW + 5}


def test_a_changed_schedule_counts_from_now(database: Database) -> None:
    """The old one's history says nothing about the new one's firings; a removed one is forgotten."""
    declare(database, TASK)
    changed = msgspec.structs.replace(NIGHTLY, expression="0 3 * * *")
    declare(database, msgspec.structs.replace(TASK, schedules=(changed,)), now=NOW + 7)
    assert last(database) == {KEY: NOW + 7}
    declare(database, TaskSpec(name="t"))
    assert last(database) == {}
