"""What operators should know of their settings, though nothing forbids it; ``start`` and ``doctor`` tell."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from conductor_protocol.birth import MARK
from conductor_protocol.manifest import Manifest
from conductor_supervisor.clock import CLOCK_FILE
from conductor_supervisor.lease import RENEWALS
from conductor_supervisor.readers import suggestion
from conductor_supervisor.settings import (
    DATABASE_VARIABLE,
    DEFAULT_DATABASE,
    PREFIX,
    SETTINGS,
    Settings,
    database_url,
)
from conductor_supervisor.store.location import locate

INTERNAL = frozenset({CLOCK_FILE, MARK, RENEWALS})
"""Variables that are no settings: tests set the clock and renew a lease by two, and what a runner starts has
the third."""


def cautions(settings: Settings, manifest: Manifest, environment: Mapping[str, str]) -> list[str]:
    """Return everything that is worth a warning."""
    elsewhere = clients_elsewhere(settings, manifest, environment)
    return [
        *unknown_variables(environment),
        *idle_queues(settings, manifest),
        *([] if elsewhere is None else [elsewhere]),
    ]


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return what to say of variables that are named like ours, and that nobody reads."""
    known = {variable for setting in SETTINGS for variable in setting.variables}
    return [
        f"the variable {name} is set, but there is no such setting{_meant(name, known)}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in known | INTERNAL
    ]


def _meant(name: str, known: Collection[str]) -> str:
    """Compare what follows the prefix, which makes all names alike."""
    near = difflib.get_close_matches(name.removeprefix(PREFIX), [k.removeprefix(PREFIX) for k in known], n=1)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""


def idle_queues(settings: Settings, manifest: Manifest) -> list[str]:
    """Return what to say of queues that have runners, and no task of the app is in."""
    wanted = {task.queue for task in manifest.tasks}
    return [
        f"{settings.config or 'settings'}: [queues.{name}]: no task of {manifest.app} is in this queue, so "
        f"its runners have nothing to do{suggestion(name, wanted)}"
        for name in settings.queues
        if name not in wanted
    ]


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
