"""The kill matrix: {runner, supervisor, server, connection} x what can happen to them x every boundary.

``make chaos`` goes through all of it. One seed alone: ``SEED=123 pytest tests/chaos``. The first fifty:
``SEEDS=50 make chaos``.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from boundaries import DECKS, DEEDS, WRITES, Deck
from orders import MOMENTS, RECEIVING, SENDING
from story import Plan, Story, seeds_of_one_pass

from harness import Project

pytestmark = [pytest.mark.together, pytest.mark.timeout(600)]

FEW = (0, 1, 6, 90)
"""Seeds that have every kind of write once, on both databases."""


def _seeds() -> list[int]:
    if "SEED" in os.environ:
        return [int(os.environ["SEED"])]
    if "CHAOS" in os.environ:
        return list(range(int(os.environ.get("SEEDS", seeds_of_one_pass()))))
    return list(FEW)


@pytest.mark.parametrize("seed", _seeds())
def test_the_invariants_hold_whatever_dies(
    seed: int, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, repeated, run beside itself, above a limit or outside a window, or charged wrongly."""
    plan = Plan(seed)
    print(f"seed {seed}: {plan}")
    monkeypatch.setenv("CONDUCTOR_CLOCK", str(tmp_path / "clock"))
    server = url = None
    if plan.place == "postgresql":
        server, url = request.getfixturevalue("postgres"), request.getfixturevalue("durable_url")
    with ExitStack() as stack:
        try:
            Story(plan, stack.enter_context(Project(tmp_path, url)), server).tell()
        except BaseException as error:
            error.add_note(f"seed {seed}: {plan}\nto run it alone: SEED={seed} .venv/bin/pytest tests/chaos")
            raise


def test_the_few_seeds_have_every_kind_of_write() -> None:
    """So that none is left out of what runs before each merge."""
    cells = [cell for plan in map(Plan, FEW) for cell in plan.cells if cell.room == "supervisor"]
    assert {cell.kind for cell in cells} == set(WRITES)


@pytest.mark.parametrize("deck", DECKS, ids=lambda deck: f"{deck.room}-{deck.place}-{deck.isolation}")
def test_the_matrix_has_every_moment_and_every_deed_of_each_kind_once(deck: Deck) -> None:
    """Wherever a boundary stands in the code, it is met."""
    cells = deck.cells()
    assert len(set(cells)) == len(cells)
    deeds = Counter((cell.kind, cell.moment) for cell in cells)
    assert set(deeds.values()) == {len(DEEDS[deck.room, deck.place])}
    for kind in {cell.kind for cell in cells}:
        assert {cell.moment for cell in cells if cell.kind == kind} in (
            set(MOMENTS),
            set(SENDING),
            set(RECEIVING),
        )
