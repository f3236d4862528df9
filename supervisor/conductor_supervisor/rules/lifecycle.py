"""Every legal move of an execution, in one table.

The store's statements make these moves and no others; the documentation's table is rendered from here, and
the tests walk it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from conductor_protocol.operations import AttemptOutcome, State
from conductor_supervisor.errors import SupervisorError

Event: TypeAlias = Literal[
    "due",
    "claimed",
    "completed",
    "failed",
    "retried",
    "released",
    "window_closed",
    "returned",
    "cancelled",
    "retried_by_client",
]

MEANING: dict[Event, str] = {
    "due": "its time has come, or its window has opened",
    "claimed": "a supervisor took it for one of its runners",
    "completed": "the handler returned",
    "failed": "the attempt failed, and it was the last",
    "retried": "the attempt failed, and another will follow",
    "released": "the handler was released for a shutdown",
    "window_closed": "the handler was released, or stopped, because its window closed",
    "returned": "taken back uncharged: not begun, stopped at a shutdown, or its supervisor died",
    "cancelled": "somebody cancelled it",
    "retried_by_client": "somebody gave it new attempts",
}
"""What happens in the world when an event occurs."""

INITIAL: frozenset[State] = frozenset({"scheduled", "ready"})
"""States in which an execution is created: due later, or due now."""

MOVES: dict[tuple[State, Event], State] = {
    ("scheduled", "due"): "ready",
    ("scheduled", "cancelled"): "cancelled",
    ("ready", "claimed"): "running",
    ("ready", "cancelled"): "cancelled",
    ("running", "completed"): "completed",
    ("running", "failed"): "failed",
    ("running", "retried"): "scheduled",
    ("running", "released"): "ready",
    ("running", "window_closed"): "scheduled",
    ("running", "returned"): "ready",
    ("running", "cancelled"): "cancelled",
    ("failed", "retried_by_client"): "ready",
    ("cancelled", "retried_by_client"): "ready",
}
"""Every legal move: the state before and the event, to the state after."""

CHARGED: frozenset[AttemptOutcome] = frozenset({"failed", "crashed"})
"""Endings that use up one of the attempts that a task allows."""


class IllegalMove(SupervisorError):
    """An event came that has no meaning in the execution's state: a mistake in the supervisor's own code."""


def next_state(state: State, event: Event) -> State:
    """Return the state after an event.

    :raises IllegalMove: if the table has no such move.
    """
    try:
        return MOVES[state, event]
    except KeyError:
        possible = ", ".join(legal for origin, legal in MOVES if origin == state) or "none"
        raise IllegalMove(
            f'the event "{event}" is not legal for an execution that is {state}; legal events: {possible}'
        ) from None


def as_markdown() -> str:
    """Return the table for the documentation."""
    rows = [f"| {state} | {event} | {MEANING[event]} | {after} |" for (state, event), after in MOVES.items()]
    return "\n".join(["| state | event | meaning | next state |", "| --- | --- | --- | --- |", *rows, ""])
