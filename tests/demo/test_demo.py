"""The demo: what it prints happened, and it harms no folder that is not its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from conductor_protocol.errors import UsageError
from conductor_protocol.operations import AttemptView, ExecutionView, StepView
from conductor_supervisor.cli.demo import Tour
from conductor_supervisor.cli.demo_stage import NOTES, TUTORIAL, Folder, Store, plain_environment
from conductor_supervisor.errors import AlreadyRunning
from conductor_supervisor.runtime import database_lock

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A part of the standard library that is large enough to be stopped in the middle."""
    target = tmp_path / "library"
    for package in (
        "asyncio",
        "email",
        "encodings",
        "http",
        "importlib",
        "multiprocessing",
        "unittest",
        "xml",
    ):
        shutil.copytree(Path(sysconfig.get_path("stdlib"), package), target / package)
    return target


@pytest.mark.together
def test_the_census_is_stopped_resumed_and_equal_to_a_plain_count(tmp_path: Path, library: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "conductor_supervisor", "demo", "--library", str(library)],
        cwd=tmp_path,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = [line.strip().removeprefix("ok").strip() for line in done.stdout.splitlines() if "  ok  " in line]
    assert len(facts) == 8, done.stdout
    assert "SIGSEGV" in done.stdout
    assert "\x1b" not in done.stdout
    assert str(tmp_path / "conductor-demo" / "conductor.db") in done.stdout
    folder, *tries = done.stdout.split("Try next:")[1].strip().splitlines()
    assert [line.split("  (")[0].split()[:3] for line in tries] == [
        [sys.executable, "-m", "conductor_supervisor"]
    ] * 4
    show = subprocess.run(
        tries[0].split(), cwd=folder.split()[1], capture_output=True, text=True, check=False
    )
    assert "SIGSEGV" in show.stdout


def test_the_tutorial_is_the_example(tmp_path: Path) -> None:
    """The demo runs examples/census.py as it stands."""
    folder = Folder(tmp_path / "demo")
    folder.prepare()
    example = Path(__file__).parents[2] / "examples" / "census.py"
    assert (folder.path / TUTORIAL).read_text() == example.read_text()


def test_a_second_run_starts_afresh(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.prepare()
    (folder.path / NOTES).write_text("json\n")
    folder.prepare()
    assert not (folder.path / NOTES).exists()


def test_somebodys_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(UsageError, match=r"thesis\.txt is not from the demo.*--folder"):
        Folder(tmp_path).prepare()
    assert (tmp_path / "thesis.txt").read_text() == "ten years of work"


def test_a_tutorial_that_somebody_has_changed_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.prepare()
    (folder.path / TUTORIAL).write_text("# my own tasks")
    with pytest.raises(UsageError, match="was changed since"):
        folder.prepare()


def test_a_running_supervisor_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.prepare()
    with database_lock(folder.url), pytest.raises(AlreadyRunning):
        folder.prepare()


def test_a_step_that_ran_twice_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Folder(tmp_path / "demo")
    folder.prepare()
    (folder.path / NOTES).write_text("json\njson\n")
    tour = Tour(folder, cast(Store, StoreWithOneCensus()), "lib")
    tour.compare()
    assert not tour.all_held
    assert "NO  every step ran once" in capsys.readouterr().out


class StoreWithOneCensus:
    """A census of one package, completed in one run."""

    def get(self, execution: str) -> ExecutionView:
        return ExecutionView(
            id=execution,
            task="census",
            state="completed",
            created=NOW,
            due=NOW,
            result={},
            attempts=[AttemptView(number=1, outcome="completed", started=NOW)],
            steps=[
                StepView(name=name, started=NOW, ended=NOW, attempt=1)
                for name in ("list packages", "count json")
            ],
        )
