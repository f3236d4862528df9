"""What is worth a warning though nothing forbids it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conductor_protocol.manifest import Manifest, TaskSpec
from conductor_supervisor.cautions import cautions
from conductor_supervisor.settings import QueueSettings, Settings


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(
    settings: Settings, database: str | None = None, environment: dict[str, str] | None = None
) -> list[str]:
    """Return the cautions for an app whose code names this database."""
    return cautions(settings, Manifest("shop:app", (), database=database), environment or {})


@pytest.mark.parametrize(
    ("settings", "in_code", "in_environment"),
    [
        (Settings(), None, None),
        (Settings(), "sqlite:///other.db", None),
        (Settings(database="sqlite:///other.db"), "sqlite:///./other.db", None),
        (Settings(database="sqlite:///other.db"), None, "sqlite:///other.db"),
    ],
)
def test_clients_that_use_the_same_database_are_no_caution(
    settings: Settings, in_code: str | None, in_environment: str | None
) -> None:
    """However it is written: paths are compared, not texts."""
    environment = {"CONDUCTOR_DATABASE_URL": in_environment} if in_environment else {}
    assert told(settings, in_code, environment) == []


def test_clients_that_use_the_default_are_told_the_variable(tmp_path: Path) -> None:
    """For they do not read conductor.toml."""
    (caution,) = told(Settings(database="sqlite:///other.db"))
    assert f"Python clients of shop:app use sqlite:///{tmp_path}/conductor.db (the default)" in caution
    assert caution.endswith(f"set CONDUCTOR_DATABASE_URL=sqlite:///{tmp_path}/other.db for them")


def test_clients_that_use_the_variable_are_told_it_anew(tmp_path: Path) -> None:
    """An option of the command wins over the variable for the supervisor alone."""
    (caution,) = told(
        Settings(database="sqlite:///other.db"), None, {"CONDUCTOR_DATABASE_URL": "sqlite:///a.db"}
    )
    assert f"use sqlite:///{tmp_path}/a.db (CONDUCTOR_DATABASE_URL)" in caution


def test_code_that_names_a_database_is_to_name_ours(tmp_path: Path) -> None:
    """For it wins over the variable in every client."""
    (caution,) = told(Settings(database="sqlite:///other.db"), "sqlite:///mine.db")
    assert "Conductor(database=...) in the code" in caution
    assert f'write Conductor(database="sqlite:///{tmp_path}/other.db")' in caution


def test_a_variable_that_nobody_reads_is_told_with_the_one_that_was_meant() -> None:
    """Those that are read, and those of other programs, are not."""
    environment = {
        "CONDUCTOR_RUNERS": "3",
        "CONDUCTOR_RUNNERS": "3",
        "CONDUCTOR_CLOCK": "clock",
        "CONDUCTOR_DATABASE_URL": "sqlite:///conductor.db",
        "RUNERS": "3",
    }
    assert told(Settings(), environment=environment) == [
        "the variable CONDUCTOR_RUNERS is set, but there is no such setting; did you mean CONDUCTOR_RUNNERS?"
    ]


def test_a_queue_without_tasks_is_told_with_the_one_that_was_meant() -> None:
    """Its runners would wait for ever."""
    manifest = Manifest("shop:app", (TaskSpec("resize", queue="media"), TaskSpec("mail")))
    queues = {name: QueueSettings(1) for name in ("media", "medai")}
    settings = Settings(queues=queues, config="conductor.toml")
    (caution,) = cautions(settings, manifest, {})
    assert caution.startswith("conductor.toml: [queues.medai]: no task of shop:app is in this queue")
    assert caution.endswith("; did you mean media?")
