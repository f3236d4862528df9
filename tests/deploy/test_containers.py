"""The image and the compose file are well formed, and fit the supervisor's times."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import COMPOSE, DOCKERFILE, PROGRAM, time_to_start, time_to_stop

from conductor_protocol.units import seconds
from conductor_supervisor import control
from conductor_supervisor.cautions import unknown_variables
from harness import parse

TEXT = DOCKERFILE.read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]


def test_the_dockerfile_is_without_faults() -> None:
    """As hadolint sees them."""
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert tool is not None
    said = subprocess.run([tool, "--no-color", str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_image_runs_what_exists_as_nobody_special() -> None:
    """Commands in their JSON form: a shell between would keep signals from the supervisor."""
    *_, user = re.findall(r"^USER (\d+):\d+$", TEXT, re.MULTILINE)
    assert f"--uid {user}" in TEXT
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", TEXT, re.MULTILINE)
    (start,) = re.findall(r"^CMD (.+)$", TEXT, re.MULTILINE)
    (probe,) = re.findall(r"^    CMD (.+)$", TEXT, re.MULTILINE)
    for program, *arguments in (json.loads(entry) + json.loads(start), json.loads(probe)):
        assert program == PROGRAM
        parse(arguments)


def test_the_image_is_not_called_ill_while_it_starts_or_is_slow() -> None:
    """The probe's times are longer than the supervisor's."""
    times = {name: seconds(value, name) for name, value in re.findall(r"--([a-z-]+)=(\d+s)", TEXT)}
    assert times["start-period"] >= time_to_start()
    assert times["timeout"] > control.ANSWER_TIME


def test_secrets_stay_out_of_the_image() -> None:
    """And databases, and what was built for another machine."""
    ignored = (DOCKERFILE.parent / ".dockerignore").read_text().split()
    assert {".git", ".venv", "**/.env", "**/*.db"} <= set(ignored)


def test_the_compose_file_follows_the_specification() -> None:
    """Every key and value."""
    compose_spec = pytest.importorskip("compose_spec", reason="no wheel for this machine")
    compose = compose_spec.PyCompose.from_yaml(COMPOSE.read_text())
    compose.validate()
    assert compose.service_names() == ["supervisor", "database"]


def test_compose_waits_for_a_supervisor_that_stops() -> None:
    """Longer than its grace and what follows."""
    supervisor = SERVICES["supervisor"]
    grace = supervisor["environment"]["CONDUCTOR_SHUTDOWN_GRACE"]
    assert seconds(supervisor["stop_grace_period"], "stop_grace_period") >= time_to_stop(grace)
    assert unknown_variables(supervisor["environment"]) == []


def test_what_the_image_expects_is_what_compose_gives() -> None:
    """A read-only file system, but for the runtime folder, which is the image's and its user's."""
    (folder,) = re.findall(r"CONDUCTOR_RUNTIME=(\S+)", TEXT)
    (user,) = re.findall(r"^USER (\d+):", TEXT, re.MULTILINE)
    supervisor = SERVICES["supervisor"]
    assert supervisor["read_only"] is True
    assert f"{folder}:uid={user},gid={user},mode=0700" in supervisor["tmpfs"]


def test_no_password_stands_in_the_compose_file() -> None:
    """It comes from .env, and compose refuses to start without."""
    for service in SERVICES.values():
        for value in service["environment"].values():
            assert not re.search(r"://\w+:(?!\$\{POSTGRES_PASSWORD:\?)", value)
    assert SERVICES["database"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
