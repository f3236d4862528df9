"""Executions come in: all or none, each key once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing

import msgspec
import pytest
from msgspec import Raw
from sqlalchemy import event, text
from store_moves import NOW, SECOND, ask, claim, end, ending, invoke, states, view

from conductor_protocol.operations import (
    CancelExecution,
    Invoked,
    InvokeMany,
    NewExecution,
    Refused,
)
from conductor_protocol.units import moment
from conductor_supervisor.door import Door
from conductor_supervisor.store import executions
from conductor_supervisor.store.database import Database
from conductor_supervisor.writes import Look, Seen, apply


def test_everything_asked_is_kept(database: Database) -> None:
    """What a client gives with an invocation is what it reads back."""
    (execution,) = invoke(
        database,
        "resize",
        payload=Raw('{"name": "Zoë", "n": 123456789012345678901234567890}'.encode()),
        metadata=Raw(b'{"tenant": 7}'),
        priority=-5,
        dedupe_key="k ö'ey",
    )
    found = view(database, execution)
    assert found.payload == {"name": "Zoë", "n": 123456789012345678901234567890}
    assert found.metadata == {"tenant": 7}
    assert (found.task, found.state, found.priority, found.dedupe_key) == ("resize", "ready", -5, "k ö'ey")
    assert (found.created, found.due, found.attempt) == (moment(NOW), moment(NOW), 0)


def test_delayed_work_is_scheduled_and_promoted_when_due(database: Database) -> None:
    """Neither a microsecond too early nor forgotten."""
    (later,) = invoke(database, "t", delay=10)
    (at,) = invoke(database, "t", run_at=NOW + 20 * SECOND, delay=1)
    (past,) = invoke(database, "t", run_at=NOW - SECOND)
    assert states(database, [later, at, past]) == ["scheduled", "scheduled", "ready"]
    assert view(database, later).waiting_for == "delay"
    with database.writing() as connection:
        assert executions.next_due(connection) == NOW + 10 * SECOND
        assert executions.promote(connection, NOW + 10 * SECOND - 1) == 0
        assert executions.promote(connection, NOW + 10 * SECOND) == 1
        assert executions.next_due(connection) == NOW + 20 * SECOND
        assert executions.promote(connection, NOW + 20 * SECOND) == 1
        assert executions.next_due(connection) is None
    assert view(database, later).waiting_for is None


def test_promotion_is_bounded(database: Database) -> None:
    """A million due at once does not make one endless transaction; the first due go first."""
    ids = [invoke(database, "t", delay=delay)[0] for delay in (3, 1, 2)]
    with database.writing() as connection:
        assert executions.promote(connection, NOW + 10 * SECOND, limit=2) == 2
    assert states(database, ids) == ["scheduled", "ready", "ready"]


def test_a_look_tells_what_is_held_up_from_what_is_due_next(
    database: Database, held: Callable[..., AbstractContextManager[None]]
) -> None:
    """Somebody keeps what is due locked: to look again at once would find the same."""
    (locked,) = invoke(database, "t", delay=1)
    invoke(database, "t", delay=2)
    invoke(database, "t", delay=20)

    def look(second: int) -> Seen:
        found: list[Seen] = []
        with database.writing() as connection:
            for effect in apply(connection, [Look("one", found.append, print)], NOW + second * SECOND):
                effect()
        return found[0]

    with held(locked):
        assert look(1) == Seen(0, NOW + 2 * SECOND, [], set(), held_up=True)
        assert look(2).promoted == 1
        assert look(2) == Seen(0, NOW + 20 * SECOND, [], set(), held_up=True)
    assert look(2) == Seen(1, NOW + 20 * SECOND, [], set())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (NewExecution(task="no spaces"), "task: expected letters"),
        (NewExecution(task="t", priority=40000), "priority: expected -32768 to 32767, got 40000"),
        (NewExecution(task="t", delay=-1.0), "delay: expected zero or more"),
        (NewExecution(task="t", delay=1e300), "at most to the year 9999"),
        (NewExecution(task="t", delay=float("nan")), "delay: expected"),
        (NewExecution(task="t", run_at=10**18), "run_at: expected a moment from 1970 to 9999"),
        (NewExecution(task="t", dedupe_key="\ud800"), "dedupe_key: expected text"),
    ],
)
def test_all_or_none(database: Database, bad: NewExecution, said: str) -> None:
    """One that cannot be stored keeps the others out too, and the client reads why."""
    answer = ask(database, InvokeMany([NewExecution(task="t"), bad]))
    assert isinstance(answer, Refused)
    assert said in answer.message
    with database.reading() as connection:
        assert executions.counts(connection) == {}


def test_ids_are_in_order_of_creation(database: Database) -> None:
    """So a list sorted by id is a list sorted by age."""
    ids = invoke(database, *["t"] * 500) + invoke(database, *["t"] * 500)
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000


def test_nothing_asked_nothing_made(database: Database) -> None:
    """An empty call is no error."""
    assert ask(database, InvokeMany([])) == Invoked([], [])


def test_a_key_gives_the_unfinished_one_back(database: Database) -> None:
    """Be it scheduled, ready or running, from an earlier call or from this one."""
    ask_for = InvokeMany([NewExecution(task="t", dedupe_key="k"), NewExecution(task="t", dedupe_key="k")])
    first = ask(database, ask_for)
    assert isinstance(first, Invoked)
    assert first.ids[0] == first.ids[1]
    assert first.created == [True, False]
    claim(database, "t")
    assert ask(database, ask_for) == Invoked(first.ids, [False, False])


def test_a_key_belongs_to_its_task(database: Database) -> None:
    """Two tasks may use the same key."""
    one, other = invoke(database, "a", "b", dedupe_key="k")
    assert one != other


def test_many_keys_cost_few_statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken or free, twice in one call, of several tasks: each gets what it would get alone."""
    monkeypatch.setattr(executions, "PORTION_ROWS", 300)
    taken = [NewExecution(task="a", dedupe_key=f"k{number}") for number in range(400)]
    owners = ask(database, InvokeMany(taken))
    assert isinstance(owners, Invoked)
    free = [NewExecution(task="b", dedupe_key=f"k{number}") for number in range(100)]
    statements: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *of: statements.append(of[2]))
    asked = [NewExecution(task="a"), *reversed(taken), *free, *free]
    answer = ask(database, InvokeMany(asked))
    assert len(statements) < 20
    assert isinstance(answer, Invoked)
    assert answer.ids[1:401] == owners.ids[::-1]
    assert answer.ids[401:501] == answer.ids[501:]
    assert len(set(answer.ids)) == 501
    assert answer.created == [True] + [False] * 400 + [True] * 100 + [False] * 100


def test_large_payloads_are_inserted_in_portions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One statement takes some at a time, and one at least."""
    monkeypatch.setattr(executions, "PORTION_SIZE", 10)
    payloads = [Raw(msgspec.json.encode("x" * size)) for size in (1, 20, 1, 1, 3, 8, 1)]
    new = [
        NewExecution(task="t", payload=payload, dedupe_key=str(key)) for key, payload in enumerate(payloads)
    ]
    answer = ask(database, InvokeMany(new))
    assert isinstance(answer, Invoked)
    assert [view(database, one).payload for one in answer.ids] == list(map(msgspec.json.decode, payloads))


def test_a_key_is_free_when_its_owner_has_finished(database: Database) -> None:
    """Whether it completed or was cancelled."""
    (first,) = invoke(database, "t", dedupe_key="k")
    end(database, ending(claim(database, "t")[0]))
    (second,) = invoke(database, "t", dedupe_key="k")
    ask(database, CancelExecution(second))
    (third,) = invoke(database, "t", dedupe_key="k")
    assert len({first, second, third}) == 3


def _invoke_keys(url: str) -> list[str]:
    door = Door(url)
    answers = [
        door.perform(InvokeMany([NewExecution(task="t", dedupe_key=f"k{number}")])) for number in range(20)
    ]
    door.close()
    return [answer.ids[0] for answer in answers if isinstance(answer, Invoked)]


def test_processes_that_use_the_same_keys_get_the_same_executions(database_url: str) -> None:
    """Twenty keys from three processes at once make twenty executions."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        answers = pool.map(_invoke_keys, [database_url] * 3)
        pool.close()
        pool.join()
    assert all(ids == answers[0] for ids in answers)
    assert len(set(answers[0])) == 20


def test_threads_that_share_a_door_get_the_same_executions(database_url: str) -> None:
    """The same through one door."""
    door = Door(database_url)
    asked = InvokeMany([NewExecution(task="t", dedupe_key=f"k{number}") for number in range(20)])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(door.perform, [asked] * 8))
    door.close()
    assert all(isinstance(answer, Invoked) for answer in answers)
    assert len({tuple(answer.ids) for answer in answers if isinstance(answer, Invoked)}) == 1


def test_clients_with_the_same_keys_in_another_order_do_not_wait_for_each_other(postgres_url: str) -> None:
    """One has the first key and has not committed; whoever has the second waits for nobody."""
    with closing(Database.open(postgres_url)) as database, ThreadPoolExecutor(1) as pool:
        first, second = NewExecution(task="t", dedupe_key="1"), NewExecution(task="t", dedupe_key="2")
        with database.writing() as connection:
            one = executions.insert(connection, [first], NOW)
            others = pool.submit(ask, database, InvokeMany([second, first]))
            while not _somebody_waits(database):
                time.sleep(0.01)
            two = executions.insert(connection, [second], NOW)
        assert others.result() == Invoked([*two.ids, *one.ids], [False, False])


def _somebody_waits(database: Database) -> bool:
    with database.reading() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))
