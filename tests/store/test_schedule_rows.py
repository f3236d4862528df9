"""Each firing of a schedule makes one execution, whoever fires it and however often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event, Thread, current_thread

import msgspec
import pytest
from sqlalchemy import event, func, select
from store_moves import NOW, SECOND, ask, claim, end, ending, view

from conductor_protocol.manifest import ScheduleSpec, TaskSpec
from conductor_protocol.operations import Listed, ListExecutions
from conductor_protocol.units import moment
from conductor_supervisor.store import executions, schedules, schema
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


def test_a_schedule_that_older_code_has_taken_away_is_there_again_with_its_next_firing(
    database: Database,
) -> None:
    """During a rollout old and new code declare by turns; what is missed later is known all the same."""
    declare(database, TASK)
    declare(database, TaskSpec(name="t"))
    firing = Firing("t", "nightly", NOW + 5, expression=NIGHTLY.expression, tz=NIGHTLY.tz)
    with database.writing() as connection:
        assert schedules.fire(connection, [firing], NOW + 5) == 1
    declare(database, TASK, now=NOW + 100)
    assert last(database) == {KEY: NOW + 5}


@pytest.mark.parametrize("after", ["SELECT", "INSERT"])
def test_a_declaration_beside_a_firing_does_not_set_the_schedule_back(postgres_url: str, after: str) -> None:
    """Whichever comes first, at whatever moment the other comes."""
    with closing(Database.open(postgres_url)) as database:
        declare(database, TASK)
        firing = Thread(target=fire, args=(database, NOW + 5))

        def meanwhile(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
            if (
                statement.lstrip().startswith(after)
                and "conductor_schedules" in statement
                and not firing.ident
            ):
                firing.start()
                firing.join(0.3)  # it may have to wait for us

        event.listen(database._engine, "after_cursor_execute", meanwhile)
        declare(database, TASK, now=NOW + 100)
        firing.join()
        assert last(database) == {KEY: NOW + 5}


def test_declaring_and_firing_do_not_wait_for_each_other(postgres_url: str) -> None:
    """A start declares and makes up for the firing that another is just making."""
    with closing(Database.open(postgres_url)) as database:
        declare(database, TASK)
        fires, starts = Event(), Event()

        def meet(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
            if "conductor_schedules" not in statement and "conductor_executions" not in statement:
                return
            mine, others = (fires, starts) if current_thread() is firing else (starts, fires)
            mine.set()
            others.wait(0.3)

        def start() -> None:
            with database.writing() as connection:
                schedules.declare(connection, [TASK], NOW + 5)
                schedules.fire(connection, [Firing("t", "nightly", NOW + 5)], NOW + 5)

        with ThreadPoolExecutor() as pool:
            firing = current_thread()
            event.listen(database._engine, "after_cursor_execute", meet)
            started = pool.submit(start)
            fire(database, NOW + 5, now=NOW + 5)
            started.result()
        with database.reading() as connection:
            assert connection.scalar(select(func.count()).select_from(schema.executions)) == 1
