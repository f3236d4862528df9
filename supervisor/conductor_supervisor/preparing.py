"""Before the loop: the runtime folder and the database are put in order, after whatever was before us."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from conductor_protocol.units import MICROSECONDS
from conductor_supervisor import aftermath
from conductor_supervisor.aftermath import Aftermath
from conductor_supervisor.clock import Clock
from conductor_supervisor.errors import StoreError
from conductor_supervisor.generation import schedules_of
from conductor_supervisor.intake import Schedule
from conductor_supervisor.processes import leftovers
from conductor_supervisor.roster import Task
from conductor_supervisor.store import attempts, changes, executions, leases, schedules, tasks
from conductor_supervisor.store.attempts import Recovered
from conductor_supervisor.store.database import Database, despite_conflicts
from conductor_supervisor.store.dialect import ALL_TASKS, lock_tasks
from conductor_supervisor.store.leases import Member
from conductor_supervisor.store.schedules import Firing

log = logging.getLogger(__name__)


def prepare(
    database: Database,
    folder: Path,
    former: str | None,
    known: Mapping[str, Task],
    zone: str,
    clock: Clock,
    me: Member,
    lease: float,
) -> list[Schedule]:
    """Put all in order; return the schedules of the tasks.

    :param former: who has used the folder before us, and is dead.
    :param known: what the code declares.
    :param lease: how many seconds ours shall last, where supervisors need one.
    :raises StoreError: if the database cannot be used.
    """
    _end_leftovers(folder)
    left = aftermath.read(folder, former)
    try:
        database.migrate()
        found = despite_conflicts(lambda: begin(database, known, zone, clock, left, me, lease))
    except SQLAlchemyError as error:
        raise StoreError(database.unusable(error)) from error
    aftermath.sweep(folder)
    return found


def begin(
    database: Database,
    known: Mapping[str, Task],
    zone: str,
    clock: Clock,
    left: Aftermath,
    me: Member,
    lease: float,
) -> list[Schedule]:
    """Put the database in order, in one transaction; return the schedules of the tasks."""
    with database.writing() as connection:
        if database.shared:
            leases.end_if_stopped(connection)
        lock_tasks(connection, ALL_TASKS)
        if database.shared:
            _join(connection, me, lease, left)
        _recover(connection, known, clock, left)
        return _declare(connection, known, zone, clock, me)


def _end_leftovers(folder: Path) -> None:
    """End what the last supervisor's runners have left, if it died."""
    left = leftovers.end_those_of_the_last_supervisor(folder)
    if left:
        log.warning("processes of the last supervisor that were still alive and are killed: %d", left)


def _join(connection: Connection, me: Member, lease: float, left: Aftermath) -> None:
    """Take a lease. Whoever was in our folder before is dead, so nobody need wait until its lease ends."""
    leases.renew(connection, me, round(lease * MICROSECONDS))
    if left.supervisor is not None:
        leases.remove(connection, left.supervisor)
    leases.remove_expired(connection, me.id)


def _recover(connection: Connection, known: Mapping[str, Task], clock: Clock, left: Aftermath) -> None:
    """Take back what dead supervisors were running."""
    now = clock.now()
    ended = aftermath.act_on_reports(connection, left.reports, known, now)
    most = {name: task.spec.max_attempts for name, task in known.items()}
    recovered = attempts.recover(connection, now, most, left.may_have_begun)
    _say(recovered, ended)


def _say(recovered: Recovered, ended: int) -> None:
    if lost := len(recovered.returned) + len(recovered.charged) + len(recovered.cancelled):
        log.warning(
            "executions that were running when the last supervisor died: %d; "
            "of these go on: %d; are charged an attempt: %d",
            lost,
            len(recovered.returned),
            len(recovered.charged),
        )
    if ended:
        log.info("%d executions had ended just before the last supervisor died", ended)


def _declare(
    connection: Connection, known: Mapping[str, Task], zone: str, clock: Clock, me: Member
) -> list[Schedule]:
    """Write down what the code declares, and make up for cron firings that were missed."""
    now = clock.now()
    specs = [task.spec for task in known.values()]
    executions.reopen_windows(connection)
    tasks.declare(connection, specs, now)
    schedules.declare(connection, specs, now)
    changes.declare(connection, specs, me.id)
    last = schedules.last_firings(connection)
    found = schedules_of(specs, zone, now)
    missed: list[Firing] = [
        schedule.firing(at)
        for schedule in found
        for at in schedule.cron.catch_up(schedule.catch_up, last[schedule.task, schedule.name], now)
    ]
    schedules.fire(connection, missed, now)
    if missed:
        log.info("cron firings that were missed and are made up for: %d", len(missed))
    return found
