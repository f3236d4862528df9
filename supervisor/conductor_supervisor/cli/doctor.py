"""``doctor``: is everything in place? Each check is a function that returns what it found."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import zoneinfo
from collections.abc import Callable
from contextlib import closing
from typing import Literal, TypeAlias

import click
from msgspec import Struct
from msgspec.json import encode

from conductor_protocol.errors import ConductorError
from conductor_protocol.units import counted, moment, size_in_words
from conductor_supervisor import control
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, json_option, located
from conductor_supervisor.errors import ForeignDatabase, NotRunning, OutdatedDatabase, StoreError
from conductor_supervisor.overrides import effective

OLDEST_PYTHON = (3, 11)
PACKAGES = ("conductor-supervisor", "click", "croniter", "msgspec", "psutil", "pyzmq", "rich", "sqlalchemy")
LITTLE_SPACE = 100 * 1024 * 1024
"""Bytes free beside the database below which it is worth a warning."""

Health: TypeAlias = Literal["ok", "warning", "problem"]


class Finding(Struct, frozen=True):
    """What one check found."""

    check: str
    health: Health
    found: str
    advice: str = ""
    """What to do, where something is to be done."""


@click.command()
@json_option
@located
def doctor(site: Site, as_json: bool) -> None:
    """Check that everything is in place.

    Python, packages, app, database, runtime folder. The exit status is 1 if there is a problem.
    """
    findings = _examine(site)
    if as_json:
        render.show_json(findings)
    else:
        render.table(
            ["CHECK", "", "FOUND"],
            [[finding.check, finding.health, finding.found] for finding in findings],
        )
        for finding in findings:
            if finding.advice:
                apart = "\n" if "\n" in finding.advice else " "
                render.say(f"\n{finding.check}:{apart}{finding.advice}")
    if any(finding.health == "problem" for finding in findings):
        click.get_current_context().exit(1)


def _examine(site: Site) -> list[Finding]:
    findings = [_finding(name, check, site) for name, check in CHECKS.items()]
    try:
        site.url  # noqa: B018 - asks the app
    except ConductorError:
        return [
            *findings,
            Finding("database", "problem", "not checked: only the app knows which"),
        ]
    return [*findings, *(_finding(name, check, site) for name, check in CHECKS_AT_DATABASE.items())]


def _finding(name: str, check: Check, site: Site) -> Finding:
    try:
        return check(name, site)
    except ConductorError as error:
        first_line, _, more = str(error).partition("\n")
        found, _, advice = first_line.partition("; ")
        return Finding(name, "problem", found, "\n".join(part for part in (advice, more) if part))
    except OSError as error:
        return Finding(name, "problem", f"cannot be checked: {error}")


def _python(name: str, _site: Site) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        return Finding(name, "problem", version, "install Python 3.11 or later")
    return Finding(name, "ok", f"{version} at {sys.executable}")


def _packages(name: str, _site: Site) -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            return Finding(name, "problem", f"{package} is missing", f"write: pip install {package}")
    return Finding(name, "ok", ", ".join(f"{package} {found}" for package, found in versions.items()))


def _sqlite(name: str, _site: Site) -> Finding:
    from conductor_supervisor.store.sqlite import OLDEST_SQLITE

    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        return Finding(
            name, "problem", sqlite3.sqlite_version, f"use a Python that was built with {wanted} or later"
        )
    return Finding(name, "ok", sqlite3.sqlite_version)


def _zones(name: str, _site: Site) -> Finding:
    known = len(zoneinfo.available_timezones())
    if known < 100:
        return Finding(name, "problem", f"{known} zones", "write: pip install tzdata")
    return Finding(name, "ok", f"{known} zones")


def _settings(name: str, site: Site) -> Finding:
    from conductor_supervisor.cautions import unknown_variables

    source = site.settings.config or "defaults, variables and options; there is no conductor.toml here"
    unknown = unknown_variables(os.environ)
    return Finding(name, "warning" if unknown else "ok", source, "\n".join(unknown))


def _app(name: str, site: Site) -> Finding:
    from conductor_supervisor.cautions import idle_queues

    if site.manifest is None:
        return Finding(
            name,
            "warning",
            "none is named",
            'put  app = "shop.tasks:app"  into conductor.toml, or name it at start',
        )
    idle = idle_queues(site.settings, site.manifest)
    found = f"{site.manifest.app} with {counted(len(effective(site.manifest, site.settings)), 'task')}"
    return Finding(name, "warning" if idle else "ok", found, "\n".join(idle))


def _database(name: str, site: Site) -> Finding:
    where = site.database_for_people
    try:
        if not site.has_database():
            _check_may_migrate(site)
            return Finding(name, "warning", "there is none yet", "the first start or invocation makes it")
    except ForeignDatabase:
        return Finding(
            name,
            "warning",
            f"{where} has no tables of Conductor's",
            "the first start or invocation makes them; if that is not meant, name another with --database",
        )
    except OutdatedDatabase:
        _check_may_migrate(site)
        return Finding(
            name, "warning", f"{where} has the tables of an older version", "the next start updates them"
        )
    site.database.check_writable()
    return Finding(name, "ok", f"{where} can be written, and has the newest schema")


def _check_may_migrate(site: Site) -> None:
    """:raises StoreError: if a start would not have the right to make or update the tables."""
    from conductor_supervisor.store.database import Database
    from conductor_supervisor.store.location import PostgresLocation, locate

    if isinstance(locate(site.url), PostgresLocation):  # SQLite would make a file, and has no rights
        with closing(Database.open(site.url)) as database:
            database.check_may_migrate()


def _clients(name: str, site: Site) -> Finding:
    from conductor_supervisor.cautions import clients_elsewhere

    if site.manifest is None:
        return Finding(name, "ok", "not checked: no app is named")
    caution = clients_elsewhere(site.settings, site.manifest, os.environ)
    if caution is None:
        return Finding(name, "ok", "Python clients that are started here use the same database")
    return Finding(name, "warning", "Python clients would use another database", caution)


def _space(name: str, site: Site) -> Finding:
    from conductor_supervisor.store.location import SqliteLocation, locate

    location = locate(site.url)
    if not isinstance(location, SqliteLocation):
        return Finding(name, "ok", "the database's server sees to it")
    folder = location.path.parent
    if not folder.is_dir():
        raise StoreError(f"the folder {folder} does not exist; make it first: mkdir -p {folder}")
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE:
        return Finding(name, "warning", f"{size_in_words(free)} free in {folder}", "make room")
    return Finding(name, "ok", f"{size_in_words(free)} free in {folder}")


def _runtime(name: str, site: Site) -> Finding:
    import tempfile

    from conductor_supervisor.runtime import runtime_folder

    folder = runtime_folder(site.url, site.settings.runtime)
    with tempfile.TemporaryFile(dir=folder):
        return Finding(name, "ok", f"{folder}, {len(os.fsencode(folder))} bytes: short enough for sockets")


def _supervisor(name: str, site: Site) -> Finding:
    try:
        answer = site.ask(control.AskStatus())
    except NotRunning:
        return Finding(name, "warning", "none is running here", "start one: conductor-supervisor start")
    if not isinstance(answer, control.Status):
        return Finding(name, "problem", f"gave an answer of another kind: {answer}")
    found = f"process {answer.pid}, {answer.state} since {render.local(moment(answer.started))}"
    if different := _differences(site):
        return Finding(
            name,
            "warning",
            f"{found}; the code here declares other tasks than it runs",
            f"{different}; let it read the code anew: conductor-supervisor reload",
        )
    return Finding(name, "ok", found)


def _differences(site: Site) -> str:
    """Say in which tasks the app, as a start would find it, differs from what the supervisor runs."""
    try:
        if site.manifest is None:
            return ""
        here = {spec.name: encode(spec) for spec in effective(site.manifest, site.settings)}
    except ConductorError:  # told by the check of the app
        return ""
    runs = {spec.name: encode(spec) for spec in site.declared_last()}
    differing = {
        "only here": here.keys() - runs.keys(),
        "no more here": runs.keys() - here.keys(),
        "otherwise here": {name for name in here.keys() & runs.keys() if here[name] != runs[name]},
    }
    return "; ".join(f"{how}: {', '.join(sorted(names))}" for how, names in differing.items() if names)


Check: TypeAlias = Callable[[str, Site], Finding]

CHECKS: dict[str, Check] = {
    "Python": _python,
    "packages": _packages,
    "SQLite": _sqlite,
    "time zones": _zones,
    "settings": _settings,
    "app": _app,
}
"""By name, in the order in which they are made."""

CHECKS_AT_DATABASE: dict[str, Check] = {
    "disk space": _space,
    "database": _database,
    "clients": _clients,
    "runtime folder": _runtime,
    "supervisor": _supervisor,
}
"""Those that need to know which database is meant."""
