"""How much work is taken, and who gets it: measured in expected time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conductor_supervisor.rules.admission import BUDGET, MOST_IN_HAND, Loads, expected, places, room

LOADS = st.floats(0, 2 * BUDGET)
SECONDS = st.none() | st.floats(0, 100)


def test_what_is_not_known_yet_is_taken_to_be_long() -> None:
    """One at a time, until the first has ended."""
    assert expected(None) == BUDGET
    assert places([BUDGET, BUDGET], None) == 2


def test_short_executions_are_taken_by_the_budget_and_never_too_many() -> None:
    """Twenty of a millisecond; of those that take no time, as many as a runner may have."""
    assert places([BUDGET], 0.001) == 20
    assert places([BUDGET], 0.0) == MOST_IN_HAND
    assert places([BUDGET], 3600.0) == 1


def test_a_runner_is_asked_for_more_when_a_good_part_of_its_work_is_done() -> None:
    """A claim for every single one would cost more than it brings."""
    assert room(0.0) == BUDGET
    assert room(BUDGET * 0.9) == 0.0
    assert room(BUDGET * 2) == 0.0


def test_a_long_execution_comes_behind_short_ones() -> None:
    """Short ones refill the room as they end; they must not keep it out for as long as they last."""
    half = BUDGET / 2
    assert places([room(half)], 3600.0) == 1
    assert Loads({1: half}).take(expected(3600.0)) == 1


def test_a_runner_without_room_gets_nothing_that_does_not_fit() -> None:
    """Neither by claiming for it nor by handing to it."""
    full = BUDGET * 0.9
    assert places([room(full)], 3600.0) == 0
    assert Loads({1: full}).take(expected(3600.0)) is None
    assert Loads({1: full}).take(expected(0.001)) == 1


@pytest.mark.parametrize(("loads", "runner"), [({}, None), ({1: 0.01, 2: 0.0, 3: 0.005}, 2)])
def test_the_runner_with_the_least_load_is_chosen(loads: dict[int, float], runner: int | None) -> None:
    """If there is any."""
    assert Loads(loads).take(0.001) == runner


def test_what_is_handed_out_counts_at_once() -> None:
    """The next goes to another; what must be alone goes only where nothing is."""
    loads = Loads({1: 0.0, 2: 0.0})
    assert [loads.take(0.001), loads.take(0.001, alone=True), loads.take(0.001, alone=True)] == [1, 2, None]


@given(st.lists(LOADS, max_size=8), SECONDS)
def test_all_that_is_claimed_for_empty_runners_finds_a_place(
    loads: list[float], seconds: float | None
) -> None:
    """If nothing else comes between, it can be handed to the runners that have them."""
    runners = Loads(dict(enumerate(loads)))
    for _ in range(places([room(load) for load in loads], seconds)):
        assert runners.take(expected(seconds)) is not None


@given(st.dictionaries(st.integers(), LOADS, min_size=1), SECONDS)
def test_no_runner_is_chosen_above_its_budget_but_for_the_last(
    loads: dict[int, float], seconds: float | None
) -> None:
    """Once the budget is spent nothing more is handed out."""
    chosen = Loads(loads).take(expected(seconds))
    assert chosen is None or loads[chosen] < BUDGET
