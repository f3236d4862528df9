"""The unit is what systemd understands, keeps out what can be kept out, and fits the supervisor's times."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deployed import PROGRAM, UNIT, time_to_start, time_to_stop

from conductor_supervisor import reload
from conductor_supervisor.cautions import unknown_variables
from conductor_supervisor.cli.operate import PATIENCE as RELOAD_PATIENCE
from conductor_supervisor.settings import Settings
from harness import parse

TOOL = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(TOOL is None, reason="systemd-analyze is not installed")

MOST_EXPOSED = 15
"""Tenths on the scale of ``systemd-analyze security``; 100 is worst, and a service as it comes has 96."""


def service() -> dict[str, list[str]]:
    """Return what the unit's section of the service says, by key."""
    _, _, section = UNIT.read_text().partition("[Service]\n")
    section, _, _ = section.partition("\n[Install]")
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def only(key: str) -> str:
    (value,) = service()[key]
    return value


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert TOOL is not None
    return subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=60)


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    """It names unknown keys and values, and what cannot be started: here the program is another one."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(f"/srv/shop/.venv/bin/{PROGRAM}", sys.executable))
    said = analyze("verify", "--man=no", str(unit))
    assert (said.returncode, [line for line in said.stderr.splitlines() if unit.name in line]) == (0, [])


@needs_systemd
def test_the_service_is_as_little_exposed_as_it_can_be() -> None:
    """What is left open is what tasks and isolation need."""
    said = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(UNIT))
    assert said.returncode == 0, said.stdout[-200:]


def test_the_times_fit_the_supervisors() -> None:
    """Whoever changes a default has to look at the unit."""
    assert float(only("TimeoutStopSec")) >= time_to_stop()
    assert float(only("TimeoutStartSec")) >= time_to_start()
    assert float(only("TimeoutStartSec")) >= Settings().import_timeout + RELOAD_PATIENCE
    assert float(only("WatchdogSec")) > 2 * reload.ENDING


def test_what_the_unit_runs_exists() -> None:
    """Commands and variables."""
    for key in ("ExecStart", "ExecReload"):
        program, *arguments = only(key).split()
        assert Path(program).name == PROGRAM
        parse(arguments)
    variables = dict(value.split("=", 1) for value in service()["Environment"])
    assert unknown_variables(variables) == []


def test_runners_die_alone() -> None:
    """Neither a stop nor a kill by the kernel takes the supervisor's runners or the supervisor along."""
    assert (only("KillMode"), only("OOMPolicy")) == ("mixed", "continue")


def test_the_supervisor_alone_speaks_for_the_service() -> None:
    """And its runtime folder is the one of the unit, for its user alone."""
    assert (only("Type"), only("NotifyAccess")) == ("notify", "main")
    assert (only("RuntimeDirectoryMode"), only("RuntimeDirectoryPreserve")) == ("0700", "yes")
    assert f"CONDUCTOR_RUNTIME=%t/{only('RuntimeDirectory')}" in service()["Environment"]


def test_the_runtime_folder_leaves_room_for_sockets() -> None:
    """With %t as it is for a system's service."""
    assert len(os.fsencode(f"/run/{only('RuntimeDirectory')}")) < 80
