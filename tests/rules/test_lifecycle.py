"""The table of legal moves is complete, and nothing else moves."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from conductor_protocol.operations import FINISHED, AttemptOutcome, State
from conductor_supervisor.rules.lifecycle import (
    CHARGED,
    INITIAL,
    MEANING,
    MOVES,
    Event,
    IllegalMove,
    as_markdown,
    next_state,
)

STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)


@pytest.mark.parametrize(("state", "event"), [pair for pair in product(STATES, EVENTS) if pair not in MOVES])
def test_a_move_that_is_not_in_the_table_is_refused(state: State, event: Event) -> None:
    """The error names the state, the event, and what would have been legal."""
    with pytest.raises(IllegalMove, match=f'"{event}" is not legal for an execution that is {state}'):
        next_state(state, event)


def test_a_legal_move_gives_the_next_state() -> None:
    """Straight from the table."""
    assert {(state, event): next_state(state, event) for state, event in MOVES} == MOVES


def test_every_state_can_be_reached_and_every_event_happens() -> None:
    """No state or event stands in the types alone."""
    reached = set(INITIAL)
    while fresh := {after for (state, _), after in MOVES.items() if state in reached} - reached:
        reached |= fresh
    assert reached == set(STATES)
    assert {event for _, event in MOVES} == set(EVENTS) == set(MEANING)


def test_from_every_state_there_is_a_way_to_an_end() -> None:
    """No execution can be caught for ever."""
    ending = set(FINISHED)
    while fresh := {state for (state, _), after in MOVES.items() if after in ending} - ending:
        ending |= fresh
    assert ending == set(STATES)


def test_only_a_client_moves_what_is_finished() -> None:
    """No late event of a runner or supervisor can."""
    assert {event for state, event in MOVES if state in FINISHED} == {"retried_by_client"}


def test_a_completed_execution_never_moves_again() -> None:
    """Its result stands."""
    assert not [state for state, _ in MOVES if state == "completed"]


def test_only_a_claim_makes_an_execution_run() -> None:
    """So two cannot run it at once."""
    assert [move for move, after in MOVES.items() if after == "running"] == [("ready", "claimed")]


def test_cancelling_is_legal_until_the_end() -> None:
    """In each state that is not finished."""
    assert {state for state, event in MOVES if event == "cancelled"} == set(STATES) - FINISHED


def test_only_failures_and_crashes_charge_an_attempt() -> None:
    """Every other ending leaves the attempt to be had again."""
    assert set(get_args(AttemptOutcome)) >= CHARGED == {"failed", "crashed"}


def test_the_table_in_the_documentation_has_a_row_for_each_move() -> None:
    """With a heading of two lines."""
    lines = as_markdown().splitlines()
    assert len(lines) == 2 + len(MOVES)
    assert "| ready | claimed | a supervisor took it for one of its runners | running |" in lines
    assert {line.count("|") for line in lines} == {5}
