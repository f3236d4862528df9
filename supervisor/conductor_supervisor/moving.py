"""Everything that one database keeps, moved into another: who has to stand still for it, and what becomes of
executions that nobody runs any more.

The source is only read. While it is copied nobody else writes on either side, and the target gets all in one
transaction: until its commit there is nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from msgspec import Struct
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError

from conductor_protocol.errors import UsageError
from conductor_protocol.units import Instant
from conductor_supervisor import aftermath
from conductor_supervisor.aftermath import Aftermath
from conductor_supervisor.clock import Clock
from conductor_supervisor.errors import (
    AlreadyRunning,
    ForeignDatabase,
    NoDatabase,
    OutdatedDatabase,
    StoreError,
)
from conductor_supervisor.generation import tasks_of
from conductor_supervisor.processes import leftovers
from conductor_supervisor.runtime import (
    LOCK,
    check_free,
    database_lock,
    database_lock_path,
    find_runtime_folder,
    folder_lock,
    holder_of,
    runtime_folder,
)
from conductor_supervisor.settings import Settings
from conductor_supervisor.store import attempts, copying, leases, tasks
from conductor_supervisor.store.copying import Checked, Progress
from conductor_supervisor.store.database import Database, Undecided, is_transient, reason
from conductor_supervisor.store.location import PostgresLocation, locate
from conductor_supervisor.store.schema import supervisors

UTC = "UTC"


class Moved(Struct, frozen=True):
    """What the new database has."""

    tables: list[Checked]
    """The same on both sides."""
    recovered: int
    """Executions that were running when the last supervisor died: they go on as after any such death."""


class Counted(Struct, frozen=True):
    """What would be moved."""

    rows: dict[str, int]
    """By table."""
    obstacle: str | None
    """Which supervisor has to be stopped first; None: the copy could be made at once."""


def count(source: str, target: str, settings: Settings) -> Counted:
    """Return how many rows would be moved. Nothing is made or changed, and no supervisor has to stop for it.

    :raises UsageError: if a URL cannot be meant, or both name the same database.
    :raises StoreError: if a database cannot be used, or the target has executions.
    """
    _check_two(source, target)
    with closing(Database.look(source)) as here, _worded(here), here.reading() as connection:
        rows = copying.counts(connection)
    try:
        _check_target(target)
        _check_stopped(source, target, settings)
    except AlreadyRunning as running:
        return Counted(rows, str(running))
    return Counted(rows, None)


def _check_stopped(source: str, target: str, settings: Settings) -> None:
    """Look for what :func:`move` would find locked on this machine, and for leases on the source.

    :raises AlreadyRunning: if a supervisor is running.
    """
    folder = find_runtime_folder(source, settings.runtime)
    locks = (find_runtime_folder(target) / LOCK, folder / LOCK, *map(database_lock_path, (source, target)))
    for lock in locks:
        if lock is not None:
            check_free(lock)
    former = holder_of(folder / LOCK)
    with closing(Database.look(source)) as here, _worded(here), here.reading() as connection:
        _check_leases(here, connection, former.name if former is not None else None)


def move(source: str, target: str, settings: Settings, clock: Clock, progress: Progress) -> Moved:
    """Copy everything, compare both sides, and take what nobody runs any more back to the queue there.

    :param source: URL; stays as it is.
    :param target: URL; gets the newest tables first.
    :raises UsageError: if a URL cannot be meant, or both name the same database.
    :raises AlreadyRunning: if a supervisor works on either.
    :raises StoreError: if a database cannot be used, or the target has executions; it is as before then.
    """
    _check_two(source, target)
    # Before anything is locked: the lock of a file is a file beside it, also where that is no database.
    Database.look(source).close()
    _check_target(target)
    with ExitStack() as stack:
        folder, former = _stand_still(stack, source, target, settings)
        here = stack.enter_context(closing(Database.open(source)))
        there = stack.enter_context(closing(Database.open(target)))
        leftovers.end_those_of_the_last_supervisor(folder)
        left = aftermath.read(folder, former)
        with _worded(here), here.writing() as reading:
            _have_alone(here, reading, former)
            with _worded(there):
                there.migrate()

            def work(writing: Connection) -> Moved:
                _have_alone(there, writing)
                _check_room(there, writing)
                tables = copying.copy(reading, there, writing, progress)
                return Moved(tables, _recover(writing, left, settings, clock.now()))

            with _worded(there):
                return _committed(there, work)


def _check_two(source: str, target: str) -> None:
    one, other = locate(source), locate(target)
    if one.identity == other.identity:
        raise UsageError(
            f"{other.for_people} is the database that is configured here; name another one to copy it to"
        )


def _check_target(url: str) -> None:
    """Refuse a database that cannot take a copy. It is not changed, be its tables those of an older version.

    :raises AlreadyRunning: if a supervisor has a lease there.
    :raises StoreError: if it cannot be used, or has executions.
    """
    try:
        there = Database.look(url)
    except (NoDatabase, ForeignDatabase):
        return  # it would get its tables first
    except OutdatedDatabase:
        there = Database.open(url)
    with closing(there), _worded(there), there.reading() as connection:
        _check_room(there, connection)
        if _has_leases(url, connection):
            _check_leases(there, connection)


def _has_leases(url: str, connection: Connection) -> bool:
    """Tell whether supervisors need a lease: those of the first versions did not."""
    location = locate(url)
    schema = location.schema if isinstance(location, PostgresLocation) else None
    return inspect(connection).has_table(supervisors.name, schema=schema)


def _stand_still(stack: ExitStack, source: str, target: str, settings: Settings) -> tuple[Path, str | None]:
    """Keep supervisors of this machine from beginning on either side.

    :return: the source's runtime folder, and which supervisor was there last.
    """
    folder = runtime_folder(source, settings.runtime)
    former = None
    for each in dict.fromkeys((runtime_folder(target), folder)):
        holder = holder_of(each / LOCK)
        former = holder.name if holder is not None else None
        stack.enter_context(folder_lock(each, former or ""))  # its name stays, for the next start
    for url in (source, target):
        stack.enter_context(database_lock(url))
    return folder, former


def _have_alone(database: Database, connection: Connection, dead: str | None = None) -> None:
    """Let nobody else write before the transaction ends.

    :param dead: a supervisor that is certainly dead, whatever its lease says.
    :raises AlreadyRunning: if a supervisor, on whatever machine, has a lease.
    :raises StoreError: if others go on writing, or we may not write.
    """
    # Before the tables are locked as well, for then a supervisor would have to wait.
    _check_leases(database, connection, dead)
    try:
        database.keep_others_from_writing(connection)
    except SQLAlchemyError as error:
        if not is_transient(error):
            database.check_writable()  # says which rights are lacking
            raise
        raise StoreError(
            f"{database.url_for_people} cannot be had alone, others are writing: {reason(error)}; see to it "
            "that their transactions end, then copy again"
        ) from error
    _check_leases(database, connection, dead)


def _check_leases(database: Database, connection: Connection, dead: str | None = None) -> None:
    alive = [member for member in leases.living(connection) if member.id != dead]
    if alive:
        who = ", ".join(f"process {member.pid} on {member.host}" for member in alive)
        raise AlreadyRunning(
            f"a supervisor works on {database.url_for_people} ({who}); stop it first, on its machine: "
            "conductor-supervisor stop"
        )


def _check_room(database: Database, connection: Connection) -> None:
    if copying.has_executions(connection):
        raise StoreError(
            f"{database.url_for_people} has executions already, and two databases cannot be joined; name one "
            "without, or another schema of it, as in postgresql://user@host/database?schema=moved"
        )


def _committed(database: Database, work: Callable[[Connection], Moved]) -> Moved:
    try:
        return database.transact(work)
    except Undecided as undecided:
        raise StoreError(
            f"{database.url_for_people} broke off while the copy was being committed, so it may be there or "
            f"not: {reason(undecided.cause)}; copy again: where it is there, that is refused"
        ) from undecided


def _recover(connection: Connection, left: Aftermath, settings: Settings, now: Instant) -> int:
    """Do for what was running what the next start would have done; return how many there were."""
    specs = tasks.declared(connection)
    known = tasks_of(specs, settings.timezone or UTC, settings)  # no ending of theirs asks for a window
    ended = aftermath.act_on_reports(connection, left.reports, known, now)
    recovered = attempts.recover(
        connection,
        now,
        {spec.name: spec.max_attempts for spec in specs},
        left.may_have_begun,
    )
    return ended + len(recovered.returned) + len(recovered.charged) + len(recovered.cancelled)


@contextmanager
def _worded(database: Database) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(database.unusable(error)) from error
