"""How much work to take, and which runner gets it.

Prefetch is measured in time, not in number: a runner is handed several executions only of tasks whose recent
runs are short. What is not known yet is taken to be long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace

BUDGET = 0.02
"""Seconds of expected work in a runner's hands at most, beyond the execution that it runs."""

MOST_IN_HAND = 500
"""Executions in a runner's hands at most."""

LEAST = BUDGET / MOST_IN_HAND
"""Seconds that the shortest execution is taken to cost."""

SHORT = 0.002
"""Seconds of a task's runs up to which a runner may hold reports back until the next has ended."""

LATE_AFTER = BUDGET
"""Seconds that a runner's first execution may take before none is added behind it. If another runner is idle,
what is there is recalled.
"""

RECALL_AFTER = 0.05
"""Seconds after which it is recalled in any case: another supervisor may have an idle runner."""

_ROUNDING = 1e-9
"""Sums of costs are not exact."""


def expected(seconds: float | None) -> float:
    """Return what a task's next run is taken to cost, in seconds of the budget."""
    if seconds is None:
        return BUDGET
    return min(max(seconds, LEAST), BUDGET)


def room(load: float) -> float:
    """Return how much of the budget is left to a runner; less than a third is not worth a claim."""
    left = BUDGET - load
    return left if left >= BUDGET / 3 else 0.0


def places(rooms: Sequence[float], seconds: float | None) -> int:
    """Return how many executions of a task the runners with these rooms may take.

    One that is longer than the room may still come, as the last: else short ones, which refill the room as
    they end, would keep long ones out for as long as they last.
    """
    cost = expected(seconds)
    return sum(min(max(int(left / cost + _ROUNDING), 1), MOST_IN_HAND) for left in rooms if left)


class Loads:
    """What each of some runners has in hand, while more is handed out: to the one that has least."""

    __slots__ = ("_heap",)

    def __init__(self, loads: Mapping[int, float]) -> None:
        """:param loads: expected seconds in hand, by the runner's number."""
        self._heap = [(load, runner) for runner, load in loads.items()]
        heapify(self._heap)

    def take(self, cost: float, *, alone: bool = False) -> int | None:
        """Give this cost to the runner with the least load, or to none: see :func:`places`.

        :param alone: only to one that has nothing in hand.
        """
        if not self._heap:
            return None
        load, runner = self._heap[0]
        fits = load == 0 if alone else load + cost <= BUDGET + _ROUNDING or room(load) > 0
        if not fits:
            return None
        heapreplace(self._heap, (load + cost, runner))
        return runner
