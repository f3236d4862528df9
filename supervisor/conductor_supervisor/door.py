"""The door that leads from clients to the store. The supervisor need not run for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from weakref import WeakSet

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from conductor_protocol.operations import MAX_PAYLOAD, Answer, Invoked, InvokeMany, Operation
from conductor_supervisor.clock import clock_from_environment
from conductor_supervisor.errors import StoreAway, StoreError
from conductor_supervisor.runtime import RUNTIME_VARIABLE, find_runtime_folder, poke
from conductor_supervisor.store import leases
from conductor_supervisor.store.database import Database, despite_conflicts, is_transient
from conductor_supervisor.store.dialect import Executor
from conductor_supervisor.store.location import Location, PostgresLocation, locate
from conductor_supervisor.store.perform import invoke, is_write, perform
from conductor_supervisor.store.postgresql import announce

MAX_PAYLOAD_VARIABLE = "CONDUCTOR_MAX_PAYLOAD"
"""Environment variable that says how many bytes a payload may have, as the setting ``max_payload`` does."""


class Door:
    """Performs operations on a database, each in a transaction of its own.

    Nothing is opened before the first operation. Safe to use from several threads, and in both processes
    after a fork.
    """

    def __init__(self, url: str, runtime: str | None = None, max_payload: int | None = None) -> None:
        """
        :param runtime: the supervisor's runtime folder, where it is not the usual one.
        :param max_payload: bytes; by default what the environment says.
        :raises UsageError: if the URL, or what the environment says, cannot be meant.
        """
        self._url = url
        _import_driver(locate(url))
        self._folder = find_runtime_folder(url, runtime or os.environ.get(RUNTIME_VARIABLE) or None)
        self._max_payload = _max_payload() if max_payload is None else max_payload
        self._database: Database | None = None
        self._opening = threading.Lock()
        _doors.add(self)

    def perform(self, operation: Operation) -> Answer:
        """Perform one operation and answer it. A new database gets its tables first.

        :raises StoreAway: if the database cannot be used just now.
        :raises StoreError: if it cannot be used.
        """
        database = self._open()
        try:
            if not is_write(operation):
                with database.reading() as connection:
                    return perform(connection, operation, clock_from_environment().now())
            answer = despite_conflicts(lambda: self._write(database, operation))
        except SQLAlchemyError as error:
            doubt = "; whether it was written is not known" if _may_be_written(operation, error) else ""
            kind = StoreAway if is_transient(error) else StoreError
            raise kind(f"{database.unusable(error)}{doubt}") from error
        database.check_in_place()
        poke(self._folder)
        return answer

    def _write(self, database: Database, operation: Operation) -> Answer:
        with database.writing() as connection:
            if _locks_for_others(operation):
                leases.end_if_stopped(connection)
            answer = perform(connection, operation, clock_from_environment().now(), self._max_payload)
            database.announce(connection)
        return answer

    def perform_on(self, connection: object, operation: InvokeMany) -> Answer:
        """Perform an operation inside the caller's transaction, on a connection of the caller's own.

        It is done when the caller commits. Our own database is not opened.

        :raises UsageError: if it is no connection, is awaited, or leads to another database.
        :raises StoreError: if there are no tables of Conductor's, or not those of this version.
        """
        from conductor_supervisor.store.borrowing import write_on

        location = locate(self._url)
        return write_on(connection, location, self._invoking(operation, location))

    async def perform_on_async(self, connection: object, operation: InvokeMany) -> Answer:
        """See :meth:`perform_on`; for connections that are awaited."""
        from conductor_supervisor.store.borrowing import write_on_async

        location = locate(self._url)
        return await write_on_async(connection, location, self._invoking(operation, location))

    def _invoking(self, operation: InvokeMany, location: Location) -> Callable[[Executor], Answer]:
        def work(connection: Executor) -> Answer:
            answer = invoke(connection, operation, clock_from_environment().now(), self._max_payload)
            # SQLite has no word to send with a commit: there the supervisor looks often.
            if isinstance(location, PostgresLocation) and isinstance(answer, Invoked) and any(answer.created):
                announce(connection, location.schema)
            return answer

        return work

    def close(self) -> None:
        """Close the database, if it is open. The door opens again when it is used."""
        with self._opening:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _open(self) -> Database:
        with self._opening:
            if self._database is not None and not self._database.is_in_place():
                self._database.close()
                self._database = None
            if self._database is None:
                database = Database.open(self._url)
                try:
                    database.migrate()
                except BaseException:
                    database.close()
                    raise
                self._database = database
            return self._database

    def before_fork(self) -> None:
        """Wait until no thread opens the database: what it has locked, the child would take for locked."""
        self._opening.acquire()
        if self._database is not None:
            self._database.before_fork()

    def after_fork(self) -> None:
        """Go on, in the parent; the child begins anew by itself."""
        if self._database is not None:
            self._database.after_fork()
        self._opening.release()

    def begin_anew(self) -> None:
        """On the child's side of a fork: leave what the parent opened, and open again when used."""
        if self._database is not None:
            _inherited.append(self._database)
        self._database = None
        self._opening = threading.Lock()


def _import_driver(location: Location) -> None:
    """Import what will open the database, now, while a fork would wait for it (see ``conductor.client``)."""
    if isinstance(location, PostgresLocation):
        with suppress(ImportError):  # that is told when the database is opened
            for module in ("psycopg.conninfo", "psycopg.sql"):
                import_module(module)
            create_engine("postgresql+psycopg://")  # imports what belongs to the driver
    else:
        create_engine("sqlite://")


def _locks_for_others(operation: Operation) -> bool:
    """Tell whether a supervisor or a client may have to wait until we have committed."""
    if isinstance(operation, InvokeMany):
        return any(new.dedupe_key is not None for new in operation.executions)
    return is_write(operation)


def _may_be_written(operation: Operation, error: SQLAlchemyError) -> bool:
    """Tell whether the connection broke where the answer to a commit may have been lost."""
    return is_write(operation) and isinstance(error, DBAPIError) and error.connection_invalidated


def _max_payload() -> int:
    """Return what the environment allows; a client does not read the supervisor's ``conductor.toml``."""
    told = os.environ.get(MAX_PAYLOAD_VARIABLE)
    if not told:
        return MAX_PAYLOAD
    from conductor_supervisor.readers import payload_size

    return payload_size(told, MAX_PAYLOAD_VARIABLE)


_doors: WeakSet[Door] = WeakSet()
_inherited: list[Database] = []
"""Databases that the parent opened. SQLite forbids to use them, and to close them, on this side of a fork."""


def _after_fork() -> None:
    for door in list(_doors):
        door.begin_anew()


os.register_at_fork(after_in_child=_after_fork)
