"""Which runner gets what: one way for each kind of pool, over what the roster holds at this moment."""

from __future__ import annotations

from typing import Protocol

from conductor_supervisor.roster import Held, Pool, Roster, Task
from conductor_supervisor.rules import admission, sharing
from conductor_supervisor.rules.sharing import Hands


class Places(Protocol):
    """The places that a pool's runners have left. It is made anew for each look, and used up by it."""

    def has_room(self, suspects: bool) -> bool:
        """Tell whether there is a place: for a suspect, or for others."""

    def room(self, task: Task, suspects: bool) -> int:
        """Return how many executions of a task may be claimed: only suspects, or only others."""

    def for_sure(self, suspects: bool) -> int:
        """Return how many executions may be claimed if each turns out to be long."""

    def take(self, held: Held) -> tuple[int, float] | None:
        """Give an execution a place: its runner's number, and what it costs there; None if there is none."""


class PlacesInTurn:
    """Where runners execute one after another, places are measured in time."""

    def __init__(self, roster: Roster, pool: Pool) -> None:
        self._roster = roster
        loads = roster.loads(pool)
        self._loads = admission.Loads(loads)
        self._rooms = [left for load in loads.values() if (left := admission.room(load))]
        self._costs: dict[Task, float] = {}

    def has_room(self, suspects: bool) -> bool:
        """See :class:`Places`."""
        return bool(self._rooms) and not suspects

    def room(self, task: Task, suspects: bool) -> int:
        """See :class:`Places`."""
        if suspects:
            return 0
        if self._roster.survivors.get(task.spec.name):  # each needs a runner with nothing else in hand
            return self._rooms.count(admission.BUDGET)
        return admission.places(self._rooms, task.seconds)

    def for_sure(self, suspects: bool) -> int:
        """See :class:`Places`."""
        return 0 if suspects else len(self._rooms)

    def take(self, held: Held) -> tuple[int, float] | None:
        """See :class:`Places`."""
        cost = self._costs.get(held.task)
        if cost is None:
            cost = self._costs[held.task] = admission.expected(self._roster.seconds_of(held.task))
        number = self._loads.take(cost, alone=held.runs_alone)
        return None if number is None else (number, cost)


class PlacesAtOnce:
    """Where runners are shared, places are counted."""

    def __init__(self, roster: Roster, pool: Pool) -> None:
        self._hands = roster.hands(pool)
        self._at_once = roster.at_once
        self._waiting = sum(held.suspect and held.task.pool == pool for held in roster.waiting)

    def has_room(self, suspects: bool) -> bool:
        """See :class:`Places`."""
        return self._room(suspects) > 0

    def room(self, task: Task, suspects: bool) -> int:  # noqa: ARG002  # a place is a place
        """See :class:`Places`."""
        return self._room(suspects)

    def for_sure(self, suspects: bool) -> int:
        """See :class:`Places`."""
        return self._room(suspects)

    def _room(self, suspects: bool) -> int:
        if not suspects:
            return sharing.room(self._hands, self._at_once, self._waiting)
        ours = self._waiting + sum(hands.suspect for hands in self._hands.values())
        return sharing.suspects_at_once(len(self._hands)) - ours

    def take(self, held: Held) -> tuple[int, float] | None:
        """See :class:`Places`."""
        if held.suspect:
            number = sharing.choose_for_suspect(self._hands)
        else:
            number = sharing.choose(self._hands, self._at_once, self._waiting)
        if number is None:
            return None
        self._waiting -= held.suspect
        before = self._hands[number]
        self._hands[number] = Hands(before.executions + 1, before.suspect or held.suspect)
        return number, 1.0


def places(roster: Roster, pool: Pool) -> Places:
    """Return the places that a pool's runners have left."""
    return (PlacesAtOnce if pool.isolation == "shared" else PlacesInTurn)(roster, pool)
