"""Where the queue begins, when what has left it cannot be cleared away."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_moves import NOW, SECOND, invoke

from conductor_supervisor.store import claiming
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.front import LONGEST, SHARE, SLOW, Front


class Seconds:
    """A clock by which each look takes as long as the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.a_look_takes = 0.0

    def __call__(self) -> float:
        self.now += self.a_look_takes
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    """A clock in the test's hands."""
    return Seconds()


@pytest.fixture
def take(database: Database, seconds: Seconds) -> Callable[..., list[str]]:
    """Claim some of a task by what earlier claims have found out; return the ids."""
    front = Front(seconds)

    def take(most: int, task: str = "t") -> list[str]:
        with database.writing() as connection:
            claims = claiming.claim(connection, [Wanted(task, most)], most, "one", NOW, front)
        return [one.id for one in claims.claimed]

    return take


def test_quick_looks_always_begin_at_the_beginning(
    database: Database, take: Callable[..., list[str]]
) -> None:
    """So what came to stand in front is taken first."""
    first, second = invoke(database, "t", "t")
    assert take(1) == [first]
    (early,) = invoke(database, "t", now=NOW - SECOND)
    assert take(2) == [early, second]


def test_after_a_slow_look_the_next_begin_behind_what_was_claimed(
    database: Database, seconds: Seconds, take: Callable[..., list[str]]
) -> None:
    """Until the slow look has been spared long enough; nothing is passed over for good."""
    all_of_them = invoke(database, *["t"] * 5)
    seconds.a_look_takes = SLOW * 1.1
    assert take(2) == all_of_them[:2]
    seconds.a_look_takes = 0.0
    (early,) = invoke(database, "t", now=NOW - SECOND)
    assert take(2) == all_of_them[2:4]
    assert take(2) == all_of_them[4:]
    assert take(2) == []
    seconds.now += SLOW * 2 * SHARE
    assert take(2) == [early]


def test_a_higher_priority_is_seen_all_the_same(
    database: Database, seconds: Seconds, take: Callable[..., list[str]]
) -> None:
    """It stands in a stretch of its own; so does a lower one, which comes last."""
    low = invoke(database, "t", priority=-1)
    usual = invoke(database, *["t"] * 3)
    seconds.a_look_takes = SLOW * 1.1
    assert take(1) == usual[:1]
    seconds.a_look_takes = 0.0
    high = invoke(database, "t", priority=1)
    assert take(2) == [*high, usual[1]]
    assert take(5) == [usual[2], *low]


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_is_looked_at_but_not_claimed_is_not_passed_over(
    database: Database, seconds: Seconds, at_once: int
) -> None:
    """Of two tasks together, only the first in the queue are claimed."""
    front = Front(seconds)
    seconds.a_look_takes = SLOW * 1.1
    first = invoke(database, "a", "b", "a", "b", "a", "b")
    wanted = [Wanted("a", at_once), Wanted("b", at_once)]
    taken: list[str] = []
    with database.writing() as connection:
        for _ in range(6 // at_once):
            claims = claiming.claim(connection, wanted, at_once, "one", NOW, front)
            seconds.a_look_takes = 0.0
            taken += [one.id for one in claims.claimed]
    assert taken == first


def test_a_claim_that_finds_nothing_tells_when_all_is_looked_at_again(
    database: Database, seconds: Seconds
) -> None:
    """So that nobody takes the queue for empty meanwhile."""
    front = Front(seconds)
    wanted = [Wanted("t", 2)]
    seconds.a_look_takes = SLOW * 1.1
    invoke(database, "t")
    with database.writing() as connection:
        first = claiming.claim(connection, wanted, 2, "one", NOW, front)
        seconds.a_look_takes = 0.0
        second = claiming.claim(connection, wanted, 2, "one", NOW, front)
        assert (len(first.claimed), first.look_again_at) == (1, None)
        assert (len(second.claimed), second.look_again_at) == (0, front.spared_until(["t"]))
        assert second.look_again_at is not None
        seconds.now = second.look_again_at
        third = claiming.claim(connection, wanted, 2, "one", NOW, front)
    assert (len(third.claimed), third.look_again_at) == (0, None)


def test_what_a_rolled_back_claim_has_found_out_is_forgotten(database: Database, seconds: Seconds) -> None:
    """What it took stands where it stood."""
    front = Front(seconds)
    ids = invoke(database, *["t"] * 3)
    seconds.a_look_takes = SLOW * 1.1

    def claim_two() -> list[str]:
        found = claiming.claim(connection, [Wanted("t", 2)], 2, "one", NOW, front)
        seconds.a_look_takes = 0.0
        return [one.id for one in found.claimed]

    with database.writing() as connection:
        undone = connection.begin_nested()
        assert claim_two() == ids[:2]
        undone.rollback()
        front.forget()
        assert claim_two() == ids[:2]


def test_a_look_that_took_for_ever_is_not_spared_for_ever(
    database: Database, seconds: Seconds, take: Callable[..., list[str]]
) -> None:
    """The disk may have stood still: what came to stand in front meanwhile is not kept waiting for that."""
    first, second = invoke(database, "t", "t")
    seconds.a_look_takes = 30.0
    assert take(1) == [first]
    seconds.a_look_takes = 0.0
    (early,) = invoke(database, "t", now=NOW - SECOND)
    assert take(1) == [second]
    seconds.now += LONGEST
    assert take(1) == [early]
