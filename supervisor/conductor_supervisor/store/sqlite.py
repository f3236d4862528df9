"""SQLite: one file, one supervisor, any number of clients on the same machine.

WAL, so readers and the writer do not wait for each other; ``synchronous=FULL``, so what was acknowledged
survives a power cut; a writing transaction takes the lock when it begins, so it never fails halfway because
somebody else wrote first.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, insert

from conductor_supervisor.errors import ForeignDatabase, NoDatabase, StoreError
from conductor_supervisor.store.database import Database, closed_if_unusable
from conductor_supervisor.store.location import SqliteLocation
from conductor_supervisor.store.turnstile import turnstile

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another process that is writing."""

OLDEST_SQLITE = (3, 35)
"""The first version with RETURNING."""

LOAD_BATCH = 50
"""Rows, which may be large, in memory at once."""

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

R = TypeVar("R")


class SqliteDatabase(Database):
    """An open file."""

    shared = False

    def __init__(self, location: SqliteLocation, engine: Engine) -> None:
        super().__init__(location, engine)
        self._path = location.path
        self._lock = location.lock
        self._writer: Connection | None = None
        self._writing = threading.RLock()
        self._data_version: object = None
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that is open."""

    @classmethod
    def opened(cls, location: SqliteLocation) -> SqliteDatabase:
        """Open a file, or make an empty one where there is none.

        :raises StoreError: if it cannot be used.
        """
        _check_reachable(location)
        engine = create_engine(
            URL.create("sqlite", database=str(location.path)),
            # The driver would begin transactions by rules of its own; here each one is begun in _begin.
            connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT},
        )
        event.listen(engine, "connect", _set_up_connection)
        event.listen(engine, "begin", _begin)
        database = cls(location, engine)
        with closed_if_unusable(database), database.reading() as connection:
            connection.exec_driver_sql("PRAGMA schema_version")
        database._file = database._file_in_place()
        return database

    @classmethod
    def for_looking(cls, location: SqliteLocation) -> SqliteDatabase:
        """Open a file that is there, only to read it.

        :raises NoDatabase: if there is none.
        :raises StoreError: if it cannot be reached.
        """
        with _reaching(location.path):
            is_there = location.path.exists()
        if not is_there:
            raise NoDatabase(
                f"there is no database at {location.path} yet; start a supervisor or invoke something first, "
                "or name the right one with --database"
            )
        _check_reachable(location)
        engine = create_engine(
            URL.create("sqlite", database=_uri(location.path), query={"mode": "rw", "uri": "true"}),
            connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT},
        )
        event.listen(engine, "connect", _forbid_writing)
        event.listen(engine, "begin", _begin)
        return cls(location, engine)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write. One at a time: others, in whatever process, wait for its end."""
        with self._writing:
            connection = self._writer_connection()
            with turnstile(self._lock):
                transaction = connection.begin()
            with transaction:
                yield connection

    def before_fork(self) -> None:
        """Have no thread write: SQLite keeps a process's locks in its memory, and by what it has inherited
        the child would take the file for locked, for ever.
        """
        self._writing.acquire()

    def after_fork(self) -> None:
        """Go on, in the parent."""
        self._writing.release()

    def transact(self, work: Callable[[Connection], R]) -> R:
        """Do some work in one transaction."""
        with self.writing() as connection:
            return work(connection)

    def has_committed(self, transaction: str) -> bool | None:
        """Never asked: a commit of SQLite has failed, or it has not."""
        raise NotImplementedError(transaction)

    def keep_others_from_writing(self, connection: Connection) -> None:
        """Nothing to do: a writing transaction is alone."""

    def load(
        self, connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[object]]
    ) -> None:
        """Insert any number of rows, in this order."""
        rest = iter(rows)
        while batch := [dict(zip(columns, row, strict=True)) for row in islice(rest, LOAD_BATCH)]:
            connection.execute(insert(table), batch)

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
        return self._file == self._file_in_place()

    def check_in_place(self) -> None:
        """:raises StoreError: if the file that is open has been deleted or replaced."""
        if not self.is_in_place():
            raise StoreError(
                f"the database file {self._path} was deleted or replaced while it was in use; what "
                "was written since then is lost. Put the right file back, or let a new one be made, and "
                "start again"
            )

    def advice_if_damaged(self) -> str:
        """Return what an operator can do about a damaged file."""
        return (
            "Look at it with: sqlite3 FILE 'PRAGMA integrity_check', restore it from a backup, and start "
            "again"
        )

    def check_writable(self) -> None:
        """Take the write lock, and let go of it.

        :raises StoreError: if it cannot be had.
        """
        try:
            with closing(sqlite3.connect(f"{_uri(self._path)}?mode=rw", BUSY_TIMEOUT, uri=True)) as driver:
                driver.execute("BEGIN IMMEDIATE")
                driver.rollback()
        except sqlite3.Error as error:
            raise StoreError(f"{self.url_for_people} cannot be written: {error}") from error

    def close(self) -> None:
        """Close every connection."""
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            super().close()

    def _no_tables(self) -> ForeignDatabase:
        return ForeignDatabase(
            f"{self.url_for_people} has no tables of Conductor's; name the right database with "
            "--database, or, if it is to be shared, make them: conductor-supervisor migrate"
        )

    def _writer_connection(self) -> Connection:
        if self._writer is None:
            self._writer = self._engine.connect().execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        return self._writer

    def _file_in_place(self) -> tuple[int, int] | None:
        """Return device and inode of the file of our name; None if there is none."""
        try:
            found = self._path.stat()
        except OSError:  # gone, or so far away that nobody can tell
            return None
        return found.st_dev, found.st_ino


def is_transient(error: sqlite3.Error) -> bool:
    """Tell whether the cause (a lock, a full disk) may go away."""
    return _kind_of(error) in _TRANSIENT


def is_damaged(error: sqlite3.Error) -> bool:
    """Tell whether the file is not what it should be."""
    return _kind_of(error) in _DAMAGED


def _kind_of(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY_CODE


def _check_reachable(location: SqliteLocation) -> None:
    path, folder = location.path, location.path.parent
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old; Conductor needs 3.35 or later: "
            "use a Python that was built with a newer one"
        )
    with _reaching(path):
        is_folder, is_there = path.is_dir(), path.exists()
        has_folder = folder.is_dir()
    if not has_folder:
        raise StoreError(f"the folder {folder} does not exist; make it first: mkdir -p {folder}")
    if is_folder:
        raise StoreError(f"{path} is a folder; the database URL must name a file in it")
    # SQLite also makes files beside the database, and would say no more than "readonly database".
    for needed in (folder, path) if is_there else (folder,):
        if not os.access(needed, os.W_OK):
            raise StoreError(
                f"{needed} is not writable for user {os.getuid()}; "
                f"Conductor writes {path} and files beside it"
            )


@contextmanager
def _reaching(path: Path) -> Iterator[None]:
    """:raises StoreError: if a path may not be followed, or is too long."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be reached: {error.strerror}") from error


def _uri(path: Path) -> str:
    return f"file:{quote(str(path))}"


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
