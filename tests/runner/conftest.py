"""Real runners under a supervisor that the test plays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from fake_supervisor import FakeSupervisor

SAMPLE = Path(__file__).with_name("sample_app.py")


class StartRunner(Protocol):
    """Starts a runner of the sample app."""

    def __call__(self, attribute: str = "app", *, max_result: int = ...) -> FakeSupervisor:
        """Return the supervisor of a runner that has not been welcomed yet."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartRunner]:
    """Start runners of any app in the sample module; none outlives the test."""
    with ExitStack() as stack:

        def start_runner(attribute: str = "app", *, max_result: int = 1024 * 1024) -> FakeSupervisor:
            return stack.enter_context(
                FakeSupervisor(tmp_path, f"{SAMPLE}:{attribute}", max_result=max_result)
            )

        yield start_runner


class SpareRunner:
    """One runner for many tests: starting a process takes longer than most of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._supervisor: FakeSupervisor | None = None

    def get(self) -> FakeSupervisor:
        """Return a runner with nothing in hand and nothing on its mind."""
        (self.folder / "touched").unlink(missing_ok=True)
        if self._supervisor is None or not self._supervisor.works():
            self.close()
            self._supervisor = FakeSupervisor(self.folder, f"{SAMPLE}:app").welcome()
        return self._supervisor

    def close(self) -> None:
        """End the runner."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None


@pytest.fixture(scope="module")
def spare_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpareRunner]:
    """The runner that the tests of a module share, replaced when one of them leaves it in disorder."""
    spare = SpareRunner(tmp_path_factory.mktemp("runner"))
    yield spare
    spare.close()


@pytest.fixture
def supervisor(spare_runner: SpareRunner) -> FakeSupervisor:
    """A runner of the sample app, let in and ready for work, which earlier tests may have used."""
    return spare_runner.get()


@pytest.fixture
def touched(supervisor: FakeSupervisor) -> Path:
    """The file in which handlers of ``supervisor`` leave their marks."""
    return supervisor.folder / "touched"
