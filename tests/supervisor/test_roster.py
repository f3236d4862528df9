"""Who holds what: the roster counts loads and times, and finds what is asked for."""

from __future__ import annotations

import math
import time

import pytest
from holdings import DEFAULT, held, runner, task
from hypothesis import given
from hypothesis import strategies as st

from conductor_supervisor.roster import Pool, Roster
from conductor_supervisor.rules.admission import BUDGET, LATE_AFTER, LEAST, RECALL_AFTER


def test_each_pool_has_its_runners_in_slots_numbered_through() -> None:
    """The numbers are those that people see."""
    slots = Roster({Pool(): 2, Pool("media"): 1}).slots
    assert [(slot.number, slot.pool) for slot in slots] == [(1, Pool()), (2, Pool()), (3, Pool("media"))]


def test_no_two_runners_ever_have_the_same_number() -> None:
    """A message of a dead runner must not be taken for its successor's."""
    roster = Roster({Pool(): 1})
    assert len({roster.new_number() for _ in range(100)}) == 100


def test_time_counts_only_for_the_one_that_runs() -> None:
    """The others begin to count when those before them are gone."""
    one, first, second = runner(), held("a"), held("b")
    one.hand(first, 0.001)
    one.hand(second, 0.001)
    assert (first.began is not None, second.began) == (True, None)
    one.take_back("a", 1)
    assert second.began is not None
    assert one.first() is second


@pytest.mark.parametrize(("execution", "claim"), [("b", 1), ("a", 2)])
def test_nothing_is_taken_back_that_is_not_there_under_this_claim(execution: str, claim: int) -> None:
    """Another claim is another life of the execution."""
    one = runner()
    one.hand(held("a", claim=1), 0.001)
    assert one.take_back(execution, claim) is None
    assert one.first() is not None


def test_what_is_taken_back_frees_what_it_was_counted_for() -> None:
    """Also if the task has turned out longer or shorter meanwhile."""
    job, one = task(), runner()
    for name in "abc":
        one.hand(held(name, of=job), 0.004)
    job.took(5.0)
    one.take_back("a", 1)
    assert one.load == pytest.approx(0.008)


@given(st.lists(st.floats(0.0001, 0.02), min_size=1, max_size=50), st.randoms(use_true_random=False))
def test_a_runner_with_empty_hands_has_no_load(costs: list[float], random: object) -> None:
    """Whatever order things come back in, and however floats round."""
    one = runner()
    names = [str(number) for number in range(len(costs))]
    for name, cost in zip(names, costs, strict=True):
        one.hand(held(name), cost)
    random.shuffle(names)  # type: ignore[attr-defined]
    for name in names:
        assert one.take_back(name, 1) is not None
        assert one.load >= 0
    assert one.load == 0


def test_a_recall_is_over_when_nothing_is_left_to_recall() -> None:
    """Else a later one would never be sent."""
    one = runner()
    one.hand(held("a"), 0.001)
    one.hand(held("b"), 0.001)
    one.recalled = True
    one.take_back("a", 1)
    assert not one.recalled


def test_a_runner_takes_no_work_behind_an_execution_that_turned_out_long() -> None:
    """It would wait there for nobody knows how long."""
    roster, one, other = Roster({}), runner(1), runner(2)
    roster.runners = {1: one, 2: other}
    late = held("a")
    one.hand(late, 0.001)
    assert roster.loads(DEFAULT) == {1: LEAST, 2: 0.0}
    late.began = time.monotonic() - 2 * LATE_AFTER
    assert roster.loads(DEFAULT) == {2: 0.0}


def test_what_a_runner_runs_does_not_count_as_work_ahead_unless_it_is_long() -> None:
    """Nothing should wait behind a long one; and a runner that runs anything is not empty."""
    one = runner(1)
    assert one.load_ahead() == 0.0
    one.hand(held("a"), 0.01)
    assert one.load_ahead() == LEAST
    one.hand(held("b"), 0.01)
    assert one.load_ahead() == pytest.approx(0.01)
    long = runner(2)
    long.hand(held("c"), BUDGET)
    assert long.load_ahead() == BUDGET


def test_what_waits_behind_another_is_recalled_soon_if_a_runner_is_idle_and_later_in_any_case() -> None:
    """Once: not while a recall is under way, nor where nothing waits."""
    roster, one, other = Roster({}), runner(1), runner(2)
    roster.runners = {1: one, 2: other}
    first = held("a")
    one.hand(first, 0.001)
    assert moments(roster) == {1: math.inf, 2: math.inf}
    one.hand(held("b"), 0.001)
    assert first.began is not None
    assert moments(roster) == {1: first.began + LATE_AFTER, 2: math.inf}
    other.hand(held("c"), 0.001)
    assert moments(roster) == {1: first.began + RECALL_AFTER, 2: math.inf}
    one.recalled = True
    assert moments(roster) == {1: math.inf, 2: math.inf}
    one.recalled, one.recall_from = False, first.began + 7  # the last one has brought nothing
    assert moments(roster) == {1: first.began + 7, 2: math.inf}


def moments(roster: Roster) -> dict[int, float]:
    """Return when each runner is asked for what it has not begun."""
    return {runner.number: at for runner, at in roster.recalls()}


def test_only_ready_runners_of_the_pool_take_work() -> None:
    """Not those that are being born or stopped, and not those of another queue."""
    roster = Roster({})
    roster.runners = {number: runner(number) for number in (1, 2, 3)} | {4: runner(4, Pool("media"))}
    roster.runners[1].phase = "starting"
    roster.runners[2].phase = "stopping"
    assert roster.loads(DEFAULT).keys() == {3}
    assert roster.loads(Pool("media")).keys() == {4}


def test_an_execution_is_found_with_its_runner_or_without() -> None:
    """In a runner's hands, waiting for one, or not ours."""
    roster, one = Roster({}), runner()
    roster.runners = {1: one}
    running, waiting = held("a"), held("b")
    one.hand(running, 0.001)
    roster.waiting.append(waiting)
    assert roster.find("a") == (one, running)
    assert roster.find("b") == (None, waiting)
    assert roster.find("c") is None


def test_hands_are_empty_when_nobody_holds_anything() -> None:
    """Neither a runner nor those that wait for one."""
    roster, one = Roster({}), runner()
    roster.runners = {1: one}
    assert roster.empty_handed()
    roster.waiting.append(held("a"))
    assert not roster.empty_handed()
    one.hand(roster.waiting.pop(), 0.001)
    assert not roster.empty_handed()


def test_a_task_learns_quickly_that_it_is_long_and_slowly_that_it_is_short() -> None:
    """Work that waits behind a long run costs more than a claim too few."""
    job = task()
    job.took(0.001)
    job.took(1.001)
    assert job.seconds == pytest.approx(0.501)
    job.took(0.001)
    assert job.seconds == pytest.approx(0.401)
