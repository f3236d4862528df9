"""A database, of whatever kind: transactions, migrations, and which errors are worth repeating.

What differs between the kinds is in ``sqlite`` and ``postgresql``, and in the SQL of ``dialect``. Neither
driver is imported before a database of its kind is opened.
"""

from __future__ import annotations

import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy import Connection, Engine, Table, insert, inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from conductor_supervisor.errors import (
    ForeignDatabase,
    NoDatabase,
    OutdatedDatabase,
    StoreAway,
    StoreError,
)
from conductor_supervisor.store import schema
from conductor_supervisor.store.location import Location, SqliteLocation, locate

if TYPE_CHECKING:
    from conductor_supervisor.store.wakeups import Listener

CONFLICTS_AT_MOST = 5
"""Times that one piece of work may meet others' and is begun anew."""

R = TypeVar("R")


@dataclass
class Undecided(Exception, Generic[R]):
    """The connection broke while a transaction was being committed: it may have been, or not."""

    transaction: str
    """What :meth:`Database.has_committed` wants to know."""
    result: R
    """What the transaction's work returned."""
    cause: DBAPIError


class Database(ABC):
    """An open database. Safe to use from several threads; not across a fork."""

    shared: bool
    """Whether several supervisors may work on it at once."""

    def __init__(self, location: Location, engine: Engine) -> None:
        self._location = location
        self._engine = engine

    @staticmethod
    def open(url: str) -> Database:
        """Open a database; SQLite's is made where there is none.

        :raises UsageError: if the URL cannot be meant.
        :raises StoreAway: if the database cannot be used just now.
        :raises StoreError: if the database cannot be used; the message says why and what to do.
        """
        location = locate(url)
        if isinstance(location, SqliteLocation):
            from conductor_supervisor.store.sqlite import SqliteDatabase

            return SqliteDatabase.opened(location)
        from conductor_supervisor.store.postgresql import PostgresDatabase

        return PostgresDatabase.opened(location)

    @staticmethod
    def look(url: str) -> Database:
        """Open a database that is there, to read what Conductor keeps in it. Nothing is made or changed.

        :raises UsageError: if the URL cannot be meant.
        :raises NoDatabase: if there is none.
        :raises ForeignDatabase: if it has no tables of Conductor's.
        :raises OutdatedDatabase: if its tables are those of an older version.
        :raises StoreError: if it cannot be used, or was made by a newer version.
        """
        location = locate(url)
        database: Database
        if isinstance(location, SqliteLocation):
            from conductor_supervisor.store.sqlite import SqliteDatabase

            database = SqliteDatabase.for_looking(location)
        else:
            from conductor_supervisor.store.postgresql import PostgresDatabase

            database = PostgresDatabase.opened(location)
        with closed_if_unusable(database):
            database.check_schema()
        return database

    @property
    def url_for_people(self) -> str:
        """The URL without credentials."""
        return self._location.for_people

    # Transactions

    @abstractmethod
    def before_fork(self) -> None:
        """Get ready for a fork, which leaves the child nothing of what is going on here."""

    @abstractmethod
    def after_fork(self) -> None:
        """Go on, in the parent."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction that may write."""

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database and does not wait for writers."""
        with self._engine.begin() as connection:
            yield connection

    @abstractmethod
    def transact(self, work: Callable[[Connection], R]) -> R:
        """Do some work in one transaction, on a connection kept for this; return what it returned.

        Nothing is committed if this raises, but for one case.

        :raises Undecided: if nobody can know yet whether it was committed.
        """

    @abstractmethod
    def has_committed(self, transaction: str) -> bool | None:
        """Tell whether an undecided transaction was committed; None: that is not decided yet, ask again.

        :raises DBAPIError: while the database is away.
        """

    @abstractmethod
    def keep_others_from_writing(self, connection: Connection) -> None:
        """Let nobody else write before this transaction, a writing one, ends. It may take its time.

        :raises DBAPIError: a transient one, if others who are writing do not come to an end.
        """

    @abstractmethod
    def load(
        self, connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[object]]
    ) -> None:
        """Insert any number of rows, in this order, as fast as the database can.

        :raises StoreError: if it does not take a row.
        """

    @abstractmethod
    def changed_elsewhere(self) -> bool:
        """Tell whether anyone else may have committed something since the last call. True at the first."""

    def announce(self, connection: Connection, by: str = "") -> None:  # noqa: B027 - who polls needs none
        """Tell supervisors that listen, once this transaction is committed, that it has news for them.

        :param by: the supervisor that need not be told.
        """

    def listener(self, me: str, wake: Callable[[], None]) -> Listener | None:  # noqa: ARG002
        """Return what hears of changes by others, where the database can tell of them.

        :param me: whose own changes do not matter.
        :param wake: called, by a thread of the listener's, when there was one.
        """
        return None

    def is_in_place(self) -> bool:
        """Tell whether what is open can still be found under its name."""
        return True

    def check_in_place(self) -> None:  # noqa: B027 - only a file can be replaced
        """To be called after a commit, before anybody hears of it.

        :raises StoreError: if what is open cannot be found under its name any more.
        """

    def unusable(self, error: SQLAlchemyError) -> str:
        """Return what to tell of a failed transaction: what the database said, and what to do about it."""
        return f"{self.url_for_people} cannot be used: {reason(error)}{self._advice(error)}"

    def _advice(self, error: SQLAlchemyError) -> str:  # noqa: ARG002
        """Return the end of a sentence that says what to do."""
        return ""

    @abstractmethod
    def advice_if_damaged(self) -> str:
        """Return what an operator can do about a damaged database."""

    @abstractmethod
    def check_writable(self) -> None:
        """Make sure that it can be written: nothing is changed.

        :raises StoreError: if it cannot.
        """

    # The schema

    def migrate(self) -> bool:
        """Bring the schema up to date. Any number of processes may do so at once. True if there was need.

        :raises StoreAway: if the database cannot be used just now.
        :raises StoreError: if the schema is newer than this code, or we may not change it.
        """
        try:
            return self._migrate()
        except SQLAlchemyError as error:
            kind = StoreAway if is_transient(error) else StoreError
            raise kind(self.unusable(error)) from error

    def check_may_migrate(self) -> None:  # noqa: B027 - only a server knows rights
        """Make sure that we have the right to bring the schema up to date; nothing is changed.

        :raises StoreError: if we have not.
        """

    def _migrate(self) -> bool:
        with self.reading() as connection:
            if self._revision(connection) == schema.HEAD:
                return False
        with self._migrating() as connection:
            found = self._revision(connection)
            if found == schema.HEAD:
                return False
            if found is None:
                _create(connection)
            else:
                self._update(connection, found)
        return True

    def _migrating(self) -> AbstractContextManager[Connection]:
        """A transaction that may change the schema; one at a time, whatever process asks."""
        return self.writing()

    @abstractmethod
    def _no_tables(self) -> NoDatabase | ForeignDatabase:
        """Return what is to be said of a database without tables of Conductor's."""

    def check_schema(self) -> None:
        """Make sure that the newest schema is there, and change nothing.

        :raises NoDatabase: if there are no tables in a schema of our own.
        :raises ForeignDatabase: if there are none beside those of another application.
        :raises OutdatedDatabase: if they are those of an older version.
        :raises StoreError: if they are those of a newer one.
        """
        with self.reading() as connection:
            found = self._revision(connection)
        if found is None:
            raise self._no_tables()
        check_revision(found, self._location)

    def _revision(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table(schema.VERSION_TABLE, schema=self._schema):
            return None
        return connection.scalar(select(schema.version.c.version_num))

    _schema: str | None = None
    """The database's schema that the tables are in; None: there is only one."""

    def _update(self, connection: Connection, found: str) -> None:
        from conductor_supervisor.store import migrations

        _refuse_newer(found, self._location)
        migrations.upgrade(connection)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def check_revision(found: str, location: Location) -> None:
    """Make sure that a database has the newest schema.

    :param found: the revision that is noted in it.
    :raises OutdatedDatabase: if its schema is an older one.
    :raises StoreError: if it is a newer one.
    """
    if found == schema.HEAD:
        return
    _refuse_newer(found, location)
    raise OutdatedDatabase(
        f"{location.for_people} was made by an older version of Conductor; "
        "bring it up to date: conductor-supervisor migrate"
    )


def _refuse_newer(found: str, location: Location) -> None:
    from conductor_supervisor.store import migrations

    if found not in migrations.known_revisions():
        raise StoreError(
            f"{location.for_people} was made by a newer version of Conductor (its schema is {found}, "
            f"the newest that this version knows is {schema.HEAD}); "
            "upgrade here too: pip install --upgrade conductor-supervisor"
        )


@contextmanager
def closed_if_unusable(database: Database) -> Iterator[None]:
    """Look whether a database that was just opened can be used, and close it if not.

    :raises StoreAway: if it cannot just now: nobody is there, or the server lets nobody in yet.
    :raises StoreError: if it cannot; the message says why.
    """
    try:
        yield
    except SQLAlchemyError as error:
        database.close()
        kind = StoreAway if is_transient(error) and not _is_turned_away(error) else StoreError
        raise kind(database.unusable(error)) from error
    except StoreError:
        database.close()
        raise


def is_transient(error: Exception) -> bool:
    """Tell whether a failed transaction is worth repeating: the cause (a lock, a full disk) may go away."""
    told = _told_by_driver(error)
    if isinstance(told, sqlite3.Error):
        from conductor_supervisor.store import sqlite

        return sqlite.is_transient(told)
    if _is_of_psycopg(told):
        from conductor_supervisor.store import postgresql

        return postgresql.is_transient(told)
    return False


def _is_turned_away(error: Exception) -> bool:
    """Tell whether a server that is there does not let us in, and would not later."""
    told = _told_by_driver(error)
    if _is_of_psycopg(told):
        from conductor_supervisor.store import postgresql

        return postgresql.is_turned_away(told)
    return False


def is_conflict(error: Exception) -> bool:
    """Tell whether a transaction failed only because it met another's, and may be repeated at once."""
    told = _told_by_driver(error)
    if _is_of_psycopg(told):
        from conductor_supervisor.store import postgresql

        return postgresql.is_conflict(told)
    return False


def despite_conflicts(work: Callable[[], R]) -> R:
    """Do the work of a transaction of its own, and again where it was rolled back because it met another's.

    :raises DBAPIError: as the work does; a conflict too, if it comes again and again.
    """
    for _ in range(CONFLICTS_AT_MOST):
        try:
            return work()
        except DBAPIError as error:
            if not is_conflict(error):
                raise
    return work()


def is_held_up(error: Exception) -> bool:
    """Tell whether a transaction failed because somebody keeps a lock for long."""
    told = _told_by_driver(error)
    if _is_of_psycopg(told):
        from conductor_supervisor.store import postgresql

        return postgresql.is_held_up(told)
    return False


def is_damaged(error: Exception) -> bool:
    """Tell whether the database is not what it should be: nothing that is written to it counts."""
    told = _told_by_driver(error)
    if isinstance(told, sqlite3.Error):
        from conductor_supervisor.store import sqlite

        return sqlite.is_damaged(told)
    if _is_of_psycopg(told):
        from conductor_supervisor.store import postgresql

        return postgresql.is_damaged(told)
    return False


def reason(error: SQLAlchemyError) -> str:
    """Return what the database said, in its own words and without the statement."""
    return _STATEMENT.sub("", str(error.orig)).strip() if isinstance(error, DBAPIError) else str(error)


_STATEMENT = re.compile(r"\nLINE \d+: .*\n *\^")
"""Where PostgreSQL points at the place in a statement that it means."""


def _told_by_driver(error: Exception) -> BaseException:
    """Return the driver's own error, where SQLAlchemy has wrapped it."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _is_of_psycopg(error: BaseException) -> bool:
    """Asked by name: whoever uses SQLite need not have psycopg."""
    return type(error).__module__.partition(".")[0] == "psycopg"


def _create(connection: Connection) -> None:
    """Make the newest schema where there is none: what all the revisions lead to, but without Alembic."""
    schema.metadata.create_all(connection, checkfirst=False)
    schema.version.create(connection)
    connection.execute(insert(schema.version).values(version_num=schema.HEAD))
