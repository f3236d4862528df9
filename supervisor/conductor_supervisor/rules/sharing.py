"""Shared runners: how many executions each takes, and which of them it takes.

Up to so many at once, each new one to the runner that has the least in hand. Suspects (see
:mod:`conductor_supervisor.rules.suspicion`) run alone: a runner takes one only when it is empty, and nothing
else while it holds it. So that ordinary work, which may come in a stream without end, cannot keep a suspect
waiting for ever, the runner with the least in hand is *reserved* while one waits: it takes nothing until it
is empty. So that suspects, which may be many, cannot keep ordinary work waiting, at most half of the runners
are given to them; where there is only one, suspects and ordinary work take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Hands(NamedTuple):
    """What one shared runner holds."""

    executions: int = 0
    suspect: bool = False
    """Whether one of them is a suspect; then it is the only one, but for what came before it was one."""


def suspects_at_once(runners: int) -> int:
    """Return how many suspects may be in our hands, in so many runners or on the way to them."""
    return max(1, runners // 2) if runners else 0


def reserved(hands: Mapping[int, Hands], waiting: int) -> set[int]:
    """Return the runners that take no ordinary work, while so many suspects wait for a runner.

    It is stable: a reserved runner takes nothing, so it stays among those with the least in hand until it is
    empty, whatever the others do.
    """
    holding = {runner for runner, held in hands.items() if held.suspect}
    for_waiting = min(waiting, max(0, suspects_at_once(len(hands)) - len(holding)))
    others = sorted(hands.keys() - holding, key=lambda runner: (hands[runner].executions, runner))
    return holding.union(others[:for_waiting])


def room(hands: Mapping[int, Hands], at_once: int, waiting: int) -> int:
    """Return how many ordinary executions the runners may take.

    :param at_once: how many each may run at once.
    :param waiting: how many suspects wait for a runner.
    """
    closed = reserved(hands, waiting)
    return sum(max(0, at_once - held.executions) for runner, held in hands.items() if runner not in closed)


def choose(hands: Mapping[int, Hands], at_once: int, waiting: int) -> int | None:
    """Return the runner that takes an ordinary execution: the one with the least in hand; None: none may."""
    closed = reserved(hands, waiting)
    fit = [runner for runner, held in hands.items() if runner not in closed and held.executions < at_once]
    return min(fit, key=lambda runner: (hands[runner].executions, runner), default=None)


def choose_for_suspect(hands: Mapping[int, Hands]) -> int | None:
    """Return the runner that takes a suspect: one with nothing in hand; None if there is none."""
    return min((runner for runner, held in hands.items() if not held.executions), default=None)
