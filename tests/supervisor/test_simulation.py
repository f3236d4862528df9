"""Hundreds of supervisors' lives, simulated from seeds: whatever chance brings, the invariants hold.

One seed alone: ``SEED=123 pytest tests/supervisor/test_simulation.py``. More of them: ``SEEDS=5000``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from simulation import Told, simulate

from conductor_supervisor.store import schema
from conductor_supervisor.store.database import Database

SEEDS = int(os.environ.get("SEEDS", "60"))
AT_ONCE = 20
"""Seeds in one test, so that several processes can share them."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database that does not wait for the disk: here nobody pulls the plug."""
    database = Database.open(f"sqlite:///{tmp_path_factory.mktemp('simulation')}/conductor.db")
    database.migrate()
    with closing(database._writer_connection().connection.cursor()) as cursor:
        cursor.execute("PRAGMA synchronous = OFF")
    yield database
    database.close()


def run(seed: int, database: Database, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Simulate one seed on an empty database."""
    with database.writing() as connection:
        for table in schema.metadata.sorted_tables:
            connection.execute(table.delete())
    try:
        return simulate(seed, database, monkeypatch)
    except BaseException as error:
        error.add_note(f"to run it alone: SEED={seed} pytest tests/supervisor/test_simulation.py")
        raise


if "SEED" in os.environ:

    def test_the_seed_asked_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """The invariants hold for this one."""
        run(int(os.environ["SEED"]), database, monkeypatch)

else:

    @pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
    def test_the_invariants_hold_whatever_chance_brings(
        first: int, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is lost, repeated, run twice at once, run too often or charged wrongly; see ``Witness``."""
        met: Counter[str] = Counter()
        for seed in range(first, first + AT_ONCE):
            met += run(seed, database, monkeypatch).endings
        # A simulation in which nothing goes wrong would show nothing.
        assert met.keys() >= {"completed", "failed", "crashed", "cancelled", "released", "stopped", "lost"}

    def test_a_seed_tells_the_same_story_each_time(
        database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only so can a failure be looked into."""
        assert run(7, database, monkeypatch) == run(7, database, monkeypatch)
