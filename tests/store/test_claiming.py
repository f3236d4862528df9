"""Claims take the right work in the right order, and never more than a limit allows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from store_moves import NOW, SECOND, claim, end, ending, invoke, running, states, view

from conductor_protocol.units import moment
from conductor_supervisor.store import attempts, claiming, executions
from conductor_supervisor.store.claiming import LOCKED_FOR, Claimed, Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.front import Front


def test_a_claim_hands_over_what_a_runner_needs(database: Database) -> None:
    """Payload and event as they were given, and the claim's number."""
    (execution,) = invoke(database, "t", payload=Raw(b'{"a": 1}'))
    assert claim(database, "t") == [
        Claimed(
            id=execution,
            claim=1,
            task="t",
            attempt=0,
            event="conductor.invoke",
            scheduled_for=None,
            payload=b'{"a": 1}',
        )
    ]
    found = view(database, execution)
    assert (found.state, found.started) == ("running", moment(NOW))
    assert claim(database, "t") == []


def test_order_is_priority_then_due_then_age_over_all_tasks(database: Database) -> None:
    """Whichever tasks the rows belong to."""
    (old,) = invoke(database, "a")
    (young,) = invoke(database, "b")
    (urgent,) = invoke(database, "b", priority=1)
    (late,) = invoke(database, "a", now=NOW + SECOND)
    (lazy,) = invoke(database, "a", priority=-1)
    assert [claimed.id for claimed in claim(database, "a", "b", now=NOW + SECOND)] == [
        urgent,
        old,
        young,
        late,
        lazy,
    ]


def test_count_bounds_the_whole_claim_and_at_most_each_task(database: Database) -> None:
    """What one task leaves of the count, another gets."""
    invoke(database, "a", "a", "a", "b", "b", "b")
    first = claim(database, Wanted("a", 1), "b", count=3)
    assert [claimed.task for claimed in first] == ["a", "b", "b"]
    assert claim(database, "a", "b", count=0) == []
    assert [claimed.task for claimed in claim(database, Wanted("a", 0), "b", count=4)] == ["b"]


def test_tasks_take_turns(database: Database) -> None:
    """However many stand in front; those of a higher priority come first all the same."""
    invoke(database, *["a"] * 5)
    invoke(database, "b", "b", now=NOW + SECOND)
    invoke(database, "c", "a", priority=1, now=NOW + SECOND)
    found = claim(database, "a", "b", "c", count=6, now=NOW + SECOND)
    assert [claimed.task for claimed in found] == ["c", "a", "a", "b", "a", "b"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    queued=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-1, 1), st.integers(0, 3)), max_size=25),
    count=st.integers(1, 12),
    served=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_turns_are_the_same_however_little_each_task_is_asked_for_first(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    queued: list[tuple[str, int, int]],
    count: int,
    served: list[int],
) -> None:
    """As if all that is ready were put into one order."""
    monkeypatch.setattr(claiming, "LEAST_ASKED", 1)
    monkeypatch.setattr(claiming, "SHARES", 1)
    monkeypatch.setattr(claiming, "MORE", 2)
    turns = dict(zip("abcd", served, strict=True))
    rows = []
    for task, priority, due in queued:
        (execution,) = invoke(database, task, priority=priority, now=NOW + due)
        rows.append((task, priority, due, execution))
    places = {}
    for task in "abcd":
        mine = sorted((-priority, due, key) for name, priority, due, key in rows if name == task)
        for turn, (priority, due, key) in enumerate(mine):
            ahead = sum(other[0] < priority for other in mine)
            places[key] = (priority, turn - ahead, turns[task], due, key)
    wanted = [Wanted(task, 9, served=turns[task]) for task in "abcd"]
    allowed = [key for task in "abcd" for key in in_order(places, rows, task)[:9]]
    expected = sorted(allowed, key=places.__getitem__)[:count]
    assert [claimed.id for claimed in claim(database, *wanted, count=count, now=NOW + 9)] == expected
    rest = [Wanted(task, 99) for task in "abcd"]
    claim(database, *rest, count=99, now=NOW + 9)  # the next example begins with an empty queue


def in_order(
    places: dict[str, tuple[int, int, int, int, str]], rows: list[tuple[str, int, int, str]], task: str
) -> list[str]:
    """Return what is ready of a task, the first first."""
    return sorted((key for name, *_, key in rows if name == task), key=places.__getitem__)


def test_the_task_that_was_served_longest_ago_comes_first(database: Database) -> None:
    """So turns are taken also where each claim brings only one."""
    invoke(database, *["a"] * 5)
    invoke(database, "b", now=NOW + SECOND)
    both = [Wanted("a", 9, served=2), Wanted("b", 9, served=1)]
    assert [claimed.task for claimed in claim(database, *both, count=1, now=NOW + SECOND)] == ["b"]


def test_tasks_that_are_not_wanted_stay(database: Database) -> None:
    """Paused, outside their window or unknown: left alone."""
    ids = invoke(database, "a", "b")
    claim(database, "b", "c")
    assert states(database, ids) == ["ready", "running"]


def test_no_more_run_than_the_limit_allows(database: Database) -> None:
    """Counted in the database, over all supervisors; a place that becomes free is given again."""
    invoke(database, *["t"] * 10)
    first = claim(database, Wanted("t", 100, concurrency=3), by="one")
    assert len(first) == 3
    assert claim(database, Wanted("t", 100, concurrency=3), by="other") == []
    end(database, ending(first[0]))
    assert len(claim(database, Wanted("t", 100, concurrency=3), by="other")) == 1


def test_a_limit_lowered_below_what_runs_claims_nothing(database: Database) -> None:
    """An operator may lower it at any time; what runs goes on."""
    invoke(database, *["t"] * 5)
    claim(database, Wanted("t", 3))
    assert claim(database, Wanted("t", 100, concurrency=2)) == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(1, 4), st.integers(0, 3)), max_size=12
    )
)
def test_whatever_happens_the_limit_holds(
    database: Database, rounds: list[tuple[int, int, int, int]]
) -> None:
    """Any order of invocations, claims and endings, with a limit that changes now and then."""
    held: list[Claimed] = claim(database, "left-over")
    for invoked, count, limit, ended in rounds:
        invoke(database, *["t"] * invoked)
        before = len(held)
        held += claim(database, Wanted("t", 100, concurrency=limit), count=count)
        assert len(held) <= max(limit, before)
        end(database, *[ending(claimed) for claimed in held[:ended]])
        held = held[ended:]
    end(database, *[ending(claimed) for claimed in held])


def test_a_second_claim_has_a_higher_number(database: Database) -> None:
    """So the first one's voice can be told from the second's."""
    first = running(database)
    assert first.first_claim
    end(database, ending(first, "ready", "released"))
    (second,) = claim(database, "t")
    assert (second.claim, second.first_claim) == (2, False)


def test_counts_by_task_and_state(database: Database) -> None:
    """Each task with the states it has rows in."""
    invoke(database, "a", "a", "b")
    invoke(database, "b", delay=5)
    end(database, ending(claim(database, Wanted("a", 1))[0]))
    claim(database, "b")
    with database.reading() as connection:
        assert executions.counts(connection) == {
            "a": {"ready": 1, "completed": 1},
            "b": {"scheduled": 1, "running": 1},
        }


def test_suspects_are_claimed_apart(database: Database) -> None:
    """Or with all others, where nobody minds."""
    one, other, third = invoke(database, "t", "t", "t")
    for claimed in claim(database, "t"):
        suspect = claimed.id in (one, third)
        end(database, ending(claimed, "ready", "stopped", suspect=suspect))
    assert [c.id for c in claim(database, Wanted("t", 5, suspects=False))] == [other]
    (first,) = claim(database, Wanted("t", 1, suspects=True))
    assert (first.id, first.suspect) == (one, True)
    assert [c.id for c in claim(database, "t")] == [third]
    assert claim(database, Wanted("t", 5, suspects=True)) == []


def test_a_suspect_stays_one_whatever_ends_its_attempts(database: Database) -> None:
    """A failure, a release, a supervisor's death: only its own end takes the mark away."""
    claimed = running(database)
    end(database, ending(claimed, "ready", "stopped", suspect=True))
    for state, outcome in (("ready", "failed"), ("ready", "released")):
        (claimed,) = claim(database, Wanted("t", 1, suspects=True))
        end(database, ending(claimed, state, outcome))
    (claimed,) = claim(database, Wanted("t", 1, suspects=True))
    with database.writing() as connection:
        attempts.recover(connection, NOW, {"t": 3})
    assert [c.suspect for c in claim(database, "t")] == [True]


def test_suspects_and_others_share_their_tasks_limit(database: Database) -> None:
    """Not by one do they run above it."""
    invoke(database, "t", "t", "t")
    for claimed in claim(database, Wanted("t", 2)):
        end(database, ending(claimed, "ready", "stopped", suspect=True))
    assert len(claim(database, Wanted("t", 1, concurrency=2, suspects=True))) == 1
    assert len(claim(database, Wanted("t", 5, concurrency=2, suspects=False))) == 1
    assert claim(database, Wanted("t", 5, concurrency=2, suspects=True)) == []


@pytest.mark.parametrize("by_key", [None, 1])
def test_a_claim_that_finds_all_locked_tells_when_to_look_again(
    database: Database, held: Callable[..., AbstractContextManager[None]], by_key: int | None
) -> None:
    """Somebody keeps it for a moment: nobody may take the queue for empty meanwhile."""
    locked = invoke(database, "t", "t", concurrency_key="a")
    front = Front(lambda: 5.0)

    def look_again_at(wanted: Wanted) -> float | None:
        with database.writing() as connection:
            claims = claiming.claim(connection, [wanted], 2, "one", NOW, front)
            assert claims.claimed == []
            return claims.look_again_at

    with held(*locked):
        assert look_again_at(Wanted("t", 2, by_key=by_key)) == 5.0 + LOCKED_FOR
        assert look_again_at(Wanted("t", 2, by_key=by_key, suspects=True)) is None
        assert look_again_at(Wanted("t", 2, by_key=by_key, concurrency=0)) is None
        assert look_again_at(Wanted("other", 2, by_key=by_key)) is None
    assert len(claim(database, Wanted("t", 2, by_key=by_key))) == (by_key or 2)
    if by_key:
        assert look_again_at(Wanted("t", 2, by_key=by_key)) is None
