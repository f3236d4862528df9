"""What people are told to write is what they can write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conductor_supervisor.cli import called


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command in a folder that is not on the path, which is the current one."""
    path = tmp_path / "my bin" / called.PROGRAM
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    return path


def test_off_the_path_it_is_called_by_its_path(program: Path) -> None:
    """Whole, for it is to work in other folders, and quoted, for folders may have spaces."""
    assert called.command("my bin/conductor-supervisor") == f"'{program}'"


def test_on_the_path_it_is_called_by_its_name(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it was called."""
    monkeypatch.setenv("PATH", str(program.parent))
    assert called.command(str(program)) == "conductor-supervisor"
    assert called.command("conductor-supervisor") == "conductor-supervisor"


def test_another_one_on_the_path_is_not_meant(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another version."""
    other = tmp_path / "elsewhere" / called.PROGRAM
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert called.command(str(program)) == f"'{program}'"


def test_run_as_a_module_it_is_called_as_one(tmp_path: Path) -> None:
    """By the interpreter that runs it."""
    assert called.command(str(tmp_path / "__main__.py")) == f"{sys.executable} -m conductor_supervisor"
