"""Which shared runner takes what: never above its slots, suspects alone, and nobody waits for ever."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conductor_supervisor.rules.sharing import (
    Hands,
    choose,
    choose_for_suspect,
    reserved,
    room,
    suspects_at_once,
)

AT_ONCE = 4
EMPTY = Hands()
ALONE = Hands(1, suspect=True)

hands = st.dictionaries(st.integers(1, 6), st.just(ALONE) | st.integers(0, AT_ONCE).map(Hands), max_size=6)
waiting = st.integers(0, 5)


def test_the_runner_with_the_least_in_hand_is_chosen() -> None:
    """The first of them, where several have as little."""
    assert choose({1: Hands(3), 2: Hands(1), 3: Hands(1)}, AT_ONCE, 0) == 2
    assert choose({1: Hands(AT_ONCE)}, AT_ONCE, 0) is None
    assert choose({}, AT_ONCE, 0) is None


def test_a_runner_takes_nothing_beside_a_suspect() -> None:
    """Neither ordinary work nor another suspect."""
    assert choose({1: ALONE}, AT_ONCE, 0) is None
    assert choose_for_suspect({1: ALONE}) is None
    assert room({1: ALONE, 2: Hands(1)}, AT_ONCE, 0) == 3


def test_a_suspect_goes_to_an_empty_runner_only() -> None:
    """Whoever else was in it could be blamed in its place."""
    assert choose_for_suspect({1: Hands(1), 2: EMPTY}) == 2
    assert choose_for_suspect({1: Hands(1)}) is None


def test_a_waiting_suspect_reserves_the_runner_that_will_soonest_be_empty() -> None:
    """The others go on."""
    three = {1: Hands(3), 2: Hands(1), 3: Hands(2)}
    assert reserved(three, 1) == {2}
    assert choose(three, AT_ONCE, 1) == 3
    assert room(three, AT_ONCE, 1) == 1 + 2


@pytest.mark.parametrize(("runners", "suspects"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_suspects_get_half_of_the_runners_at_most(runners: int, suspects: int) -> None:
    """And one where there is only one: else they would never run."""
    assert suspects_at_once(runners) == suspects
    assert len(reserved(dict.fromkeys(range(runners), Hands(1)), 100)) == suspects


@given(hands, waiting)
def test_what_is_claimed_finds_a_place_and_never_above_the_slots(
    held: dict[int, Hands], waiting: int
) -> None:
    """As many as there is room for can be handed out one by one; then no runner takes more."""
    for _ in range(room(held, AT_ONCE, waiting)):
        runner = choose(held, AT_ONCE, waiting)
        assert runner is not None
        assert not held[runner].suspect
        held[runner] = Hands(held[runner].executions + 1)
        assert held[runner].executions <= AT_ONCE
    assert choose(held, AT_ONCE, waiting) is None


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**32))
def test_a_stream_of_ordinary_work_starves_no_suspect(runners: int, suspects: int, seed: int) -> None:
    """However executions end and others take their places, all suspects get their turn, each alone."""
    chance = random.Random(seed)
    held = dict.fromkeys(range(runners), Hands(AT_ONCE))
    in_database, waiting, done = suspects, 0, 0
    for _ in range(100 * suspects * (AT_ONCE + 1)):
        busy = [runner for runner in held if held[runner].executions]
        if busy:
            runner = chance.choice(busy)
            done += held[runner].suspect
            held[runner] = Hands(held[runner].executions - 1)
        claimed = suspects_at_once(runners) - waiting - sum(hands.suspect for hands in held.values())
        claimed = max(0, min(claimed, in_database))
        in_database, waiting = in_database - claimed, waiting + claimed
        while waiting and (empty := choose_for_suspect(held)) is not None:
            held[empty] = ALONE
            waiting -= 1
        while (taker := choose(held, AT_ONCE, waiting)) is not None:  # the stream has no end
            held[taker] = Hands(held[taker].executions + 1)
        assert all(hands == ALONE for hands in held.values() if hands.suspect)
        if done == suspects:
            break
    assert done == suspects
