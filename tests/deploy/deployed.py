"""The files of deploy/, and what the code says of the times in them."""

from __future__ import annotations

from pathlib import Path

from conductor_protocol.units import seconds
from conductor_supervisor.settings import Settings
from conductor_supervisor.supervisor import LONGEST_END

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "conductor-supervisor.service"
DOCKERFILE = DEPLOY / "container/Dockerfile"
COMPOSE = DEPLOY / "container/compose.yaml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))

PROGRAM = "conductor-supervisor"


def time_to_stop(grace: str | None = None) -> float:
    """Return the seconds that a supervisor may take to end.

    :param grace: its ``shutdown_grace``; None: the default.
    """
    return (Settings().shutdown_grace if grace is None else seconds(grace, "grace")) + LONGEST_END


def time_to_start() -> float:
    """Return the seconds that may pass until a supervisor is ready: the app is imported twice."""
    return 2 * Settings().import_timeout
