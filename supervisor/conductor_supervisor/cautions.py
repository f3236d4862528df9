"""What operators should know of their settings, though nothing forbids it; ``start`` and ``doctor`` tell."""

from __future__ import annotations

from collections.abc import Mapping

from conductor_protocol.manifest import Manifest
from conductor_supervisor.settings import DATABASE_VARIABLE, DEFAULT_DATABASE, Settings, database_url
from conductor_supervisor.store.location import locate


def cautions(settings: Settings, manifest: Manifest, environment: Mapping[str, str]) -> list[str]:
    """Return everything that is worth a warning."""
    found = [clients_elsewhere(settings, manifest, environment)]
    return [caution for caution in found if caution is not None]


def clients_elsewhere(settings: Settings, manifest: Manifest, environment: Mapping[str, str]) -> str | None:
    """Return what to say if the app's own clients, started here, would use another database than we do.

    They are Python programs and read no ``conductor.toml``.
    """
    url, source = _clients_database(manifest, environment)
    theirs, ours = locate(url), locate(database_url(settings, manifest))
    if theirs.identity == ours.identity:
        return None
    remedy = (
        f'write Conductor(database="{ours.for_people}") there, or leave the database to the code here'
        if manifest.database is not None
        else f"set {DATABASE_VARIABLE}={ours.for_people} for them"
    )
    return (
        f"Python clients of {manifest.app} use {theirs.for_people} ({source}), but this supervisor uses "
        f"{ours.for_people}: what they invoke would not run here. They do not read conductor.toml; {remedy}"
    )


def _clients_database(manifest: Manifest, environment: Mapping[str, str]) -> tuple[str, str]:
    if manifest.database is not None:
        return manifest.database, "Conductor(database=...) in the code"
    if url := environment.get(DATABASE_VARIABLE):
        return url, DATABASE_VARIABLE
    return DEFAULT_DATABASE, "the default"
