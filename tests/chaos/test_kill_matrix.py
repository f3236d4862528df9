"""The kill matrix: {runner, supervisor, server, connection} x what can happen to them x every boundary.

``make chaos`` goes through all of it. One seed alone: ``SEED=123 pytest tests/chaos``. Only so many:
``SEEDS=50 make chaos``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from boundaries import DECKS, WRITES
from story import Plan, Story

from harness import Project

pytestmark = [pytest.mark.together, pytest.mark.timeout(600)]

FEW = (0, 6, 12, 1, 7, 13, 2, 3)
"""Seeds that have every kind of write once, and some messages."""


def _seeds() -> list[int]:
    if "SEED" in os.environ:
        return [int(os.environ["SEED"])]
    if "SEEDS" in os.environ:
        return list(range(int(os.environ["SEEDS"])))
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


def test_few_seeds_have_every_kind_of_write_once() -> None:
    """So that no write is left out of what runs before each merge."""
    met: dict[str, set[str]] = {}
    for plan in map(Plan, FEW):
        met.setdefault(plan.place, set()).update(c.kind for c in plan.cells if c.room == "supervisor")
    assert met["postgresql"] == set(WRITES)
    assert met["sqlite"] == {cell.kind for cell in DECKS[1].cells()}
