"""Writing inside a caller's own transaction, on a connection that they lend.

We commit nothing of theirs, and roll back nothing but what we have written. That stands in a savepoint: if a
statement of ours fails, their transaction goes on as if we had not been there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import select, text
from sqlalchemy.util import greenlet_spawn

from conductor_protocol.errors import UsageError
from conductor_supervisor.errors import ForeignDatabase
from conductor_supervisor.store import schema
from conductor_supervisor.store.database import check_revision
from conductor_supervisor.store.dialect import Executor
from conductor_supervisor.store.lent import Lent, Opened, lend, lend_async
from conductor_supervisor.store.location import Location, PostgresLocation, SqliteLocation
from conductor_supervisor.store.turns import awaited_turn, turn

R = TypeVar("R")
Work: TypeAlias = Callable[[Executor], R]
Turn: TypeAlias = Callable[[object], AbstractContextManager[None]]


def write_on(given: object, location: Location, work: Work[R]) -> R:
    """Do some work inside the transaction of a connection that was lent; return what it returned.

    A connection that is in no transaction, because it commits each statement by itself, commits this too.

    :param given: what the caller calls a connection.
    :param location: the database that it must lead to.
    :raises UsageError: if it is no connection, is awaited, or leads elsewhere.
    :raises StoreError: if there are no tables of Conductor's, or not those of this version.
    """
    return _write(lend(given), location, work, turn)


async def write_on_async(given: object, location: Location, work: Work[R]) -> R:
    """See :func:`write_on`; the event loop goes on while the database works."""
    return await greenlet_spawn(_write, lend_async(given), location, work, awaited_turn)


def _write(opened: Opened, location: Location, work: Work[R], turn: Turn) -> R:
    with (
        opened(_MAIN if isinstance(location, SqliteLocation) else location.schema) as lent,
        turn(lent.driver),
    ):
        lent.check()
        _check_destination(lent, location)
        with _all_or_nothing(lent):
            check_revision(str(lent.scalar(_REVISION)), location)
            return work(lent)


_MAIN = "main"
"""What SQLite calls the file that a connection was opened with."""

_REVISION = select(schema.version.c.version_num)


# All or nothing


class _Bounds(NamedTuple):
    """How our part of a transaction begins and ends."""

    begin: str
    end: tuple[str, ...]
    undo: tuple[str, ...]


_SAVEPOINT = _Bounds(
    "SAVEPOINT conductor",
    end=("RELEASE SAVEPOINT conductor",),
    undo=("ROLLBACK TO SAVEPOINT conductor", "RELEASE SAVEPOINT conductor"),
)


@contextmanager
def _all_or_nothing(lent: Lent) -> Iterator[None]:
    """Asked after a first statement: that has begun the transaction, where library or driver begin one."""
    bounds = _bounds_in_sqlite(lent.driver) if lent.kind == "sqlite" else _bounds_in_postgresql(lent.driver)
    lent.command(bounds.begin)
    try:
        yield
        for command in bounds.end:
            lent.command(command)
    except BaseException:  # a coroutine may be cancelled, and a user may press Ctrl-C
        if _can_undo(lent):
            for command in bounds.undo:
                lent.command(command)
        raise


def _can_undo(lent: Lent) -> bool:
    """Tell whether there is something to undo: SQLite rolls all back by itself where the disk is full."""
    return not lent.is_lost and (lent.kind != "sqlite" or lent.driver.in_transaction)


def _bounds_in_postgresql(driver: Any) -> _Bounds:
    if _is_in_transaction(driver):
        return _SAVEPOINT
    return _Bounds("BEGIN", end=("COMMIT",), undo=("ROLLBACK",))


def _is_in_transaction(driver: Any) -> bool:
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return bool(driver.is_in_transaction())
    if hasattr(driver, "info"):  # psycopg and psycopg2
        return bool(driver.info.transaction_status != _IDLE)
    return not driver.autocommit


_IDLE = 0
"""libpq's ``PQTRANS_IDLE``."""


def _bounds_in_sqlite(driver: Any) -> _Bounds:
    if driver.in_transaction:
        return _SAVEPOINT
    # IMMEDIATE: who reads first and locks later may find that somebody else has written in between.
    begin, undo = "BEGIN IMMEDIATE", ("ROLLBACK",)
    if driver.isolation_level is None or getattr(driver, "autocommit", None) is True:
        return _Bounds(begin, end=("COMMIT",), undo=undo)
    # Python's sqlite3 begins a transaction only before a first write; ours is one. The caller ends it.
    return _Bounds(begin, end=(), undo=undo)


# Where it leads


def _check_destination(lent: Lent, location: Location) -> None:
    if isinstance(location, PostgresLocation):
        _check_postgresql(lent, location)
    else:
        _check_sqlite(lent, location)


def _check_postgresql(lent: Lent, location: PostgresLocation) -> None:
    if lent.kind != "postgresql":
        raise _elsewhere(location, f"a database of {lent.kind}")
    if not lent.scalar(_HAS_TABLES, {"schema": location.schema, "name": schema.VERSION_TABLE}):
        raise _no_tables(location, f"the schema {location.schema} of this connection's database")


def _check_sqlite(lent: Lent, location: SqliteLocation) -> None:
    if lent.kind != "sqlite":
        raise _elsewhere(location, f"a database of {lent.kind}")
    file = next(row[2] for row in lent.execute(text("PRAGMA database_list")) if row[1] == _MAIN)
    if not file or not _is_same_file(Path(file), location.path):
        raise _elsewhere(location, file or "a database in memory")
    if not lent.scalar(_HAS_TABLES_IN_FILE, {"name": schema.VERSION_TABLE}):
        raise _no_tables(location, file)


# Of the catalog, where everybody may look: a statement that fails would abort the caller's transaction.
_HAS_TABLES = text(
    "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = :schema AND tablename = :name)"
)
_HAS_TABLES_IN_FILE = text("SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE name = :name)")


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _elsewhere(location: Location, found: str) -> UsageError:
    return UsageError(
        f"connection: expected one to the app's database, {location.for_people}, got one to {found}; lend a "
        "connection to the app's database, or name the right one to the app, by Conductor(database=...) or "
        "CONDUCTOR_DATABASE_URL"
    )


def _no_tables(location: Location, where: str) -> ForeignDatabase:
    return ForeignDatabase(
        f"connection: there are no tables of Conductor's in {where}; if it leads to the app's database, "
        f"{location.for_people}, make them: conductor-supervisor migrate"
    )
