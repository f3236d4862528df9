"""Opens the database: transactions, migrations, and which errors are worth repeating.

SQLite: WAL, so readers and the writer do not wait for each other; ``synchronous=FULL``, so what was
acknowledged survives a power cut; a writing transaction takes the lock when it begins, so it never fails
halfway because somebody else wrote first.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from conductor_supervisor.errors import ForeignDatabase, NoDatabase, OutdatedDatabase, StoreError
from conductor_supervisor.store import schema
from conductor_supervisor.store.location import Location, locate

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another process that is writing."""

OLDEST_SQLITE = (3, 35)
"""The first version with RETURNING."""

_BEGIN = "conductor_begin"
"""Execution option of a connection: the statement that begins its transactions."""

_TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    }
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF
"""The lower byte of an SQLite error code is the kind of error; the rest is detail."""


class Database:
    """An open database. Safe to use from several threads; not across a fork."""

    def __init__(self, location: Location, engine: Engine) -> None:
        self._location = location
        self._engine = engine
        self._writer: Connection | None = None
        self._writing = threading.RLock()
        self._data_version: object = None
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that is open."""

    @classmethod
    def open(cls, url: str) -> Database:
        """Open a database, or make an empty one where there is none.

        :raises UsageError: if the URL cannot be meant.
        :raises StoreError: if the database cannot be used; the message says why and what to do.
        """
        location = locate(url)
        _check_reachable(location)
        engine = create_engine(
            URL.create("sqlite", database=str(location.path)),
            # The driver would begin transactions by rules of its own; here each one is begun in _begin.
            connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT},
        )
        event.listen(engine, "connect", _set_up_connection)
        event.listen(engine, "begin", _begin)
        database = cls(location, engine)
        try:
            with database.reading() as connection:
                connection.exec_driver_sql("PRAGMA schema_version")
        except DBAPIError as error:
            database.close()
            raise StoreError(f"{database.url_for_people} cannot be used: {reason(error)}") from error
        database._file = _file_at(location)
        return database

    @classmethod
    def look(cls, url: str) -> Database:
        """Open a database that is there, to read what Conductor keeps in it. Nothing is made or changed.

        :raises UsageError: if the URL cannot be meant.
        :raises NoDatabase: if there is none.
        :raises ForeignDatabase: if it has no tables of Conductor's.
        :raises OutdatedDatabase: if its tables are those of an older version.
        :raises StoreError: if it cannot be used, or was made by a newer version.
        """
        location = locate(url)
        if not location.path.exists():
            raise NoDatabase(
                f"there is no database at {location.path} yet; start a supervisor or invoke something first, "
                "or name the right one with --database"
            )
        _check_reachable(location)
        engine = create_engine(
            URL.create("sqlite", database=_uri(location), query={"mode": "rw", "uri": "true"}),
            connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT},
        )
        event.listen(engine, "connect", _forbid_writing)
        event.listen(engine, "begin", _begin)
        database = cls(location, engine)
        try:
            database._check_schema()
        except SQLAlchemyError as error:
            database.close()
            raise StoreError(f"{database.url_for_people} cannot be used: {reason(error)}") from error
        except StoreError:
            database.close()
            raise
        return database

    def _check_schema(self) -> None:
        with self.reading() as connection:
            found = _revision(connection)
        if found is None:
            raise ForeignDatabase(
                f"{self.url_for_people} has no tables of Conductor's; name the right database with "
                "--database, or, if it is to be shared, make them: conductor-supervisor migrate"
            )
        if found != schema.HEAD:
            self._refuse_newer(found)
            raise OutdatedDatabase(
                f"{self.url_for_people} was made by an older version of Conductor; "
                "bring it up to date: conductor-supervisor migrate"
            )

    @property
    def url_for_people(self) -> str:
        """The URL without credentials."""
        return self._location.for_people

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write. One at a time: others, in whatever process, wait for its end."""
        with self._writing:
            connection = self._writer_connection()
            with connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database and does not wait for writers."""
        with self._engine.begin() as connection:
            yield connection

    def changed_elsewhere(self) -> bool:
        """Tell whether anyone else has committed something since the last call. True at the first call."""
        with self._writing:
            # Asked of the driver, as SQLAlchemy would begin a transaction, and so take the write lock.
            with closing(self._writer_connection().connection.cursor()) as cursor:
                cursor.execute("PRAGMA data_version")
                version = cursor.fetchone()
            before, self._data_version = self._data_version, version
            return before != version

    def is_in_place(self) -> bool:
        """Tell whether the file that is open still has its name.

        One that was deleted or replaced goes on taking writes, which nobody will ever read.
        """
        return self._file == _file_at(self._location)

    def check_in_place(self) -> None:
        """To be called after a commit, before anybody hears of it.

        :raises StoreError: if the file that is open has been deleted or replaced.
        """
        if not self.is_in_place():
            raise StoreError(
                f"the database file {self._location.path} was deleted or replaced while it was in use; what "
                "was written since then is lost. Put the right file back, or let a new one be made, and "
                "start again"
            )

    def migrate(self) -> bool:
        """Bring the schema up to date. Any number of processes may do so at once. True if there was need.

        :raises StoreError: if the schema is newer than this code.
        """
        with self.reading() as connection:
            if _revision(connection) == schema.HEAD:
                return False
        with self.writing() as connection:
            found = _revision(connection)
            if found == schema.HEAD:
                return False
            if found is None:
                _create(connection)
            else:
                self._update(connection, found)
        return True

    def _update(self, connection: Connection, found: str) -> None:
        from conductor_supervisor.store import migrations

        self._refuse_newer(found)
        migrations.upgrade(connection)

    def _refuse_newer(self, found: str) -> None:
        from conductor_supervisor.store import migrations

        if found not in migrations.known_revisions():
            raise StoreError(
                f"{self.url_for_people} was made by a newer version of Conductor (its schema is {found}, "
                f"the newest that this version knows is {schema.HEAD}); "
                "upgrade here too: pip install --upgrade conductor-supervisor"
            )

    def close(self) -> None:
        """Close every connection."""
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._engine.dispose()

    def _writer_connection(self) -> Connection:
        if self._writer is None:
            self._writer = self._engine.connect().execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        return self._writer


def check_writable(url: str) -> None:
    """Take the write lock of a database that is there, and let go of it: nothing is changed.

    :raises StoreError: if it cannot be written.
    """
    location = locate(url)
    _check_reachable(location)
    try:
        with closing(sqlite3.connect(f"{_uri(location)}?mode=rw", BUSY_TIMEOUT, uri=True)) as driver:
            driver.execute("BEGIN IMMEDIATE")
            driver.rollback()
    except sqlite3.Error as error:
        raise StoreError(f"{location.for_people} cannot be written: {error}") from error


def is_transient(error: Exception) -> bool:
    """Tell whether a failed transaction is worth repeating: the cause (a lock, a full disk) may go away."""
    return _kind_of(error) in _TRANSIENT


def is_damaged(error: Exception) -> bool:
    """Tell whether the database's file is not what it should be: nothing that is written to it counts."""
    return _kind_of(error) in _DAMAGED


def _kind_of(error: Exception) -> int | None:
    """Return the kind of an error of SQLite, be it the driver's own or wrapped by SQLAlchemy."""
    told = error.orig if isinstance(error, DBAPIError) else error
    code: int | None = getattr(told, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY_CODE


def reason(error: SQLAlchemyError) -> str:
    """Return what the database said, in its own words and without the statement."""
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)


def _file_at(location: Location) -> tuple[int, int] | None:
    """Return device and inode of a database's file; None if there is none."""
    try:
        found = location.path.stat()
    except OSError:  # gone, or so far away that nobody can tell
        return None
    return found.st_dev, found.st_ino


def _check_reachable(location: Location) -> None:
    path, folder = location.path, location.path.parent
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old; Conductor needs 3.35 or later: "
            "use a Python that was built with a newer one"
        )
    if not folder.is_dir():
        raise StoreError(f"the folder {folder} does not exist; make it first: mkdir -p {folder}")
    if path.is_dir():
        raise StoreError(f"{path} is a folder; the database URL must name a file in it")
    # SQLite also makes files beside the database, and would say no more than "readonly database".
    for needed in (folder, path) if path.exists() else (folder,):
        if not os.access(needed, os.W_OK):
            raise StoreError(
                f"{needed} is not writable for user {os.getuid()}; "
                f"Conductor writes {path} and files beside it"
            )


def _uri(location: Location) -> str:
    return f"file:{quote(str(location.path))}"


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _set_up_connection(driver: sqlite3.Connection, _record: object) -> None:
    cursor = driver.cursor()
    try:
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = OFF")
    finally:
        cursor.close()


def _forbid_writing(driver: sqlite3.Connection, _record: object) -> None:
    driver.execute("PRAGMA query_only = ON").close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Switch to WAL, which stays in the file.

    While others switch too, SQLite refuses at once instead of waiting its timeout, so the waiting is here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(schema.VERSION_TABLE):
        return None
    return connection.scalar(select(schema.version.c.version_num))


def _create(connection: Connection) -> None:
    """Make the newest schema where there is none: what all the revisions lead to, but without Alembic."""
    schema.metadata.create_all(connection, checkfirst=False)
    schema.version.create(connection)
    connection.execute(insert(schema.version).values(version_num=schema.HEAD))
