"""PostgreSQL: any number of supervisors and clients, on any number of machines.

Read Committed with row locks where a decision follows from what was read; every statement names its schema,
so nothing hangs on session settings, which a transaction pooler would hand to strangers.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, Table, create_engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema

from conductor_supervisor.errors import NoDatabase, StoreError
from conductor_supervisor.store import schema
from conductor_supervisor.store.database import Database, Undecided, closed_if_unusable, reason
from conductor_supervisor.store.dialect import TRANSACTION, Executor, copy_rows, sql
from conductor_supervisor.store.location import ESCAPES, PostgresLocation
from conductor_supervisor.store.wakeups import Listener, channel

if TYPE_CHECKING:
    import psycopg

OLDEST_POSTGRESQL = 14

LOCK_PATIENCE = 30
"""Seconds to wait for others who write, where nobody else may."""

PLANS_FOR = 5.0
"""Seconds that the writer's prepared statements keep their plans. One that was made while a table was small
reads it from end to end, and PostgreSQL would keep it until it analyzes the table.
"""

POOL = 10
"""Connections that a process keeps at most, but for those that its threads need at one moment beyond."""

ENCODING = "UTF8"
"""Of databases and connections: payloads, results and errors hold any character."""

_UNLESS_TOLD: dict[str, str | int] = {
    "application_name": "conductor",
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""What libpq is told where the URL does not say it: a peer that is gone is found out within some 15 s."""

_TRANSIENT_CLASSES = frozenset(
    {
        "08",  # connection exceptions
        "40",  # transaction rollback: deadlocks, serialization failures
        "53",  # insufficient resources: disk full, too many connections
        "57",  # operator intervention: shutdown, crash recovery, a statement timeout
        "58",  # system errors: input and output
    }
)
_LOCK_TIMEOUT = "55P03"
"""A lock was not available within ``lock_timeout``."""

_TRANSIENT = frozenset(
    {
        "25006",  # read only: a standby, until it is promoted or the name leads to the new primary
        "25P03",  # idle in transaction for too long: we were stopped
        "25P04",  # a transaction timeout
        _LOCK_TIMEOUT,
    }
)
_FATAL = "FATAL:"
"""How a server's last words begin. A connection that it does not let in ends with them, without SQLSTATE."""

_NOT_YET = (
    "the database system is",  # starting up, shutting down, in recovery mode, not yet accepting connections
    "too many",  # clients already; connections for a role, or for a database
    "remaining connection slots",
)
"""What is in the last words of a server that lets in others, or later ones."""

_DAMAGED_CLASS = "XX"
_CONFLICT_CLASS = "40"
_NOT_ALLOWED = "42501"
_UNHEARD_OF = "22023"
"""The server has not got to this transaction's number: until lately it was a replica, and lagged behind."""

R = TypeVar("R")


class PostgresDatabase(Database):
    """A schema of a PostgreSQL database."""

    shared = True

    _location: PostgresLocation

    def __init__(
        self, location: PostgresLocation, engine: Engine, connect: Callable[[], psycopg.Connection]
    ) -> None:
        super().__init__(location, engine)
        self._schema = location.schema
        self._role = ""
        self._connect = connect
        self._readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writer: Connection | None = None
        self._writing = threading.Lock()
        self._plans_until = 0.0

    @classmethod
    def opened(cls, location: PostgresLocation) -> PostgresDatabase:
        """Connect.

        :raises StoreError: if that is not possible, the server is too old, or it cannot store every text.
        """
        connect = _connector(location)
        database = cls(location, _engine(location, connect), connect)
        with closed_if_unusable(database):
            database._check_server()
        return database

    def _check_server(self) -> None:
        with self._engine.connect() as connection:
            version: int = connection.scalar(_VERSION) // 10_000
            encoding: str = connection.scalar(_ENCODING)
            self._role = connection.scalar(_ROLE)
        if version < OLDEST_POSTGRESQL:
            raise StoreError(
                f"{self.url_for_people} is PostgreSQL {version}; Conductor needs {OLDEST_POSTGRESQL} or later"
            )
        if encoding != ENCODING:
            raise StoreError(
                f"{self.url_for_people} has the encoding {encoding}, which cannot hold every text; make a "
                f"database with another: CREATE DATABASE conductor ENCODING '{ENCODING}' TEMPLATE template0"
            )

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write, beside those of other threads."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database."""
        with self._readers.begin() as connection:
            yield connection

    def before_fork(self) -> None:
        """Nothing to do: what is locked is known to the server, not to the process."""

    def after_fork(self) -> None:
        """Nothing to do."""

    def transact(self, work: Callable[[Connection], R]) -> R:
        """Do some work in one transaction, on a connection of its own.

        :raises Undecided: if the connection broke while it was being committed.
        """
        with self._writing:
            connection = self._writer_connection()
            with self._dropped_if_broken(connection), connection.begin() as transaction:
                self._plan_anew_sometimes(connection)
                connection.info[TRANSACTION] = None
                result = work(connection)
                number: str | None = connection.info[TRANSACTION] or connection.scalar(_TRANSACTION_NUMBER)
                _commit(transaction, number, result)
            return result

    def has_committed(self, transaction: str) -> bool | None:
        """Ask the server what became of a transaction.

        :raises DBAPIError: while it is away.
        """
        try:
            with self._engine.begin() as connection:
                status: str | None = connection.scalar(_STATUS, {"number": transaction})
                if status != "in progress":
                    return status == "committed"
                # Its process has not noticed yet that we are gone. Rather than to wait for that, end it.
                connection.execute(_END_TRANSACTION, {"number": transaction})
        except DBAPIError as error:
            if _sqlstate(error.orig) != _UNHEARD_OF:
                raise
            return False
        return None

    def keep_others_from_writing(self, connection: Connection) -> None:
        """Lock every table, but for those who read, and have the server wait for us.

        :raises DBAPIError: if others write for longer than :data:`LOCK_PATIENCE`.
        """
        connection.execute(_TAKE_YOUR_TIME)
        connection.execute(_WAIT_FOR_LOCKS, {"time": f"{LOCK_PATIENCE}s"})
        connection.execute(_LOCK_TABLES)

    def load(
        self, connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[object]]
    ) -> None:
        """Insert any number of rows, in this order.

        :raises StoreError: if a row is not taken.
        """
        try:
            copy_rows(connection, table, columns, rows)
        except DBAPIError as error:
            raise StoreError(
                f"{table.name} in {self.url_for_people} does not take a row: {reason(error)}"
            ) from error

    def changed_elsewhere(self) -> bool:
        """Always: who has written cannot be seen here."""
        return True

    def announce(self, connection: Connection, by: str = "") -> None:
        """Notify those who listen, once the transaction is committed."""
        announce(connection, self._location.schema, by)

    def listener(self, me: str, wake: Callable[[], None]) -> Listener:
        """Return what listens on a connection of its own."""
        return Listener(self, me, wake)

    def notify(self, word: str) -> None:
        """Notify those who listen, at once."""
        with self.writing() as connection:
            self.announce(connection, word)

    @contextmanager
    def listening(self) -> Iterator[psycopg.Connection]:
        """Give a connection on which notifications arrive, if anything lets them through.

        :raises psycopg.Error: if there is none to be had.
        """
        from psycopg.sql import SQL, Identifier

        with closing(self._connect()) as driver:
            driver.autocommit = True
            driver.execute(SQL("LISTEN {}").format(Identifier(channel(self._location.schema))))
            yield driver

    def advice_if_damaged(self) -> str:
        """Return what an operator can do about a damaged database."""
        return "See the server's log; restore it from a backup, and start again"

    def check_writable(self) -> None:
        """Make sure that our role may write where Conductor does.

        :raises StoreError: if it may not.
        """
        try:
            with self.reading() as connection:
                lacking = connection.execute(_LACKING, {"schema": self._schema}).all()
                standby = connection.scalar(text("SELECT pg_is_in_recovery()"))
        except DBAPIError as error:
            raise StoreError(self.unusable(error)) from error
        if standby:
            raise StoreError(f"{self.url_for_people} is a standby, which cannot be written; name the primary")
        if lacking:
            role, table = lacking[0]
            raise StoreError(
                f"{self.url_for_people} cannot be written: the role {role} lacks rights on "
                f"{self._schema}.{table}; grant them: {self._grants()}"
            )

    def check_may_migrate(self) -> None:
        """:raises StoreError: if our role may not make or change the schema and its tables."""
        with closed_if_unusable(self), self.reading() as connection:
            if not connection.scalar(_MAY_MIGRATE, {"schema": self._schema}):
                raise StoreError(
                    f"the role {self._role} may not make or change Conductor's tables in "
                    f"{self.url_for_people}; {self._rights()}"
                )

    def _advice(self, error: SQLAlchemyError) -> str:
        lacks_rights = isinstance(error, DBAPIError) and _sqlstate(error.orig) == _NOT_ALLOWED
        return f"; {self._rights()}" if lacks_rights else ""

    def _rights(self) -> str:
        return (
            "let a role that has CREATE on the database run: conductor-supervisor migrate; then let it grant "
            f"to this one: {self._grants()}"
        )

    def _grants(self) -> str:
        return (
            f"GRANT USAGE ON SCHEMA {self._schema} TO {self._role}; GRANT SELECT, INSERT, UPDATE, DELETE ON "
            f"ALL TABLES IN SCHEMA {self._schema} TO {self._role}"
        )

    def close(self) -> None:
        """Close every connection.

        A transaction that another thread is in breaks: a server that hangs may keep it for ever.
        """
        if self._writing.acquire(blocking=False):
            try:
                self._drop_writer()
            finally:
                self._writing.release()
        elif self._writer is not None:
            _cut(self._writer)
        super().close()

    def _no_tables(self) -> NoDatabase:
        return NoDatabase(
            f"there are no tables of Conductor's in {self.url_for_people} (schema {self._schema}) yet; start "
            "a supervisor or invoke something first, or name the right database with --database"
        )

    @contextmanager
    def _migrating(self) -> Iterator[Connection]:
        with self.writing() as connection:
            connection.execute(_LOCK, {"what": f"conductor schema {self._schema}"})
            if not connection.scalar(_HAS_SCHEMA, {"schema": self._schema}):
                connection.execute(CreateSchema(str(self._schema)))
            # What Alembic writes has no schema's name in it.
            connection.execute(_USE_SCHEMA, {"schema": self._schema})
            yield connection

    def _writer_connection(self) -> Connection:
        if self._writer is None:
            self._writer = self._engine.connect()
        return self._writer

    @contextmanager
    def _dropped_if_broken(self, connection: Connection) -> Iterator[None]:
        """Begin with a new connection the next time, if this one breaks."""
        try:
            yield
        finally:
            if connection.invalidated or connection.closed:
                self._drop_writer()

    def _plan_anew_sometimes(self, connection: Connection) -> None:
        if time.monotonic() >= self._plans_until:
            connection.execute(_DISCARD_PLANS)
            self._plans_until = time.monotonic() + PLANS_FOR

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _cut(connection: Connection) -> None:
    """Shut down a connection's socket: whoever waits for the server has an error at once."""
    driver: psycopg.Connection | None = connection.connection.driver_connection
    if driver is not None and not driver.closed:
        with closing(socket.socket(fileno=os.dup(driver.fileno()))) as wire, suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)


def announce(connection: Executor, schema: str, by: str = "") -> None:
    """Wake the supervisors when this transaction is committed, and not before.

    :param schema: where our tables are.
    :param by: the supervisor that need not be told.
    """
    connection.scalar(_NOTIFY, {"channel": channel(schema), "word": by})


_DISCARD_PLANS = text("DISCARD PLANS")
_VERSION = text("SELECT CAST(current_setting('server_version_num') AS INTEGER)")
_ENCODING = text("SELECT current_setting('server_encoding')")
_ROLE = text("SELECT quote_ident(current_user)")
_MAY_MIGRATE = text(
    """
    SELECT CASE
        WHEN wanted.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
        ELSE has_schema_privilege(wanted.oid, 'USAGE') AND has_schema_privilege(wanted.oid, 'CREATE')
            AND NOT EXISTS (
                SELECT 1 FROM pg_class
                WHERE relnamespace = wanted.oid AND relname LIKE 'conductor%'
                    AND NOT pg_has_role(relowner, 'USAGE')
            )
    END
    FROM (SELECT) AS one LEFT JOIN pg_namespace AS wanted ON wanted.nspname = :schema
    """
)
_TRANSACTION_NUMBER = text("SELECT CAST(pg_current_xact_id_if_assigned() AS TEXT)")
_STATUS = text("SELECT pg_xact_status(CAST(CAST(:number AS TEXT) AS xid8))")
_END_TRANSACTION = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE usename = current_user AND backend_xid = CAST(CAST(:number AS TEXT) AS xid8)::xid
    """
)
_NOTIFY = text("SELECT pg_notify(:channel, :word)")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")
_TAKE_YOUR_TIME = text(
    """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')
    """
)
_WAIT_FOR_LOCKS = text("SELECT set_config('lock_timeout', :time, true)")
_LOCK_TABLES = sql(f"LOCK TABLE {', '.join(schema.metadata.tables)} IN SHARE ROW EXCLUSIVE MODE")
_HAS_SCHEMA = text("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = :schema)")
_USE_SCHEMA = text("SELECT set_config('search_path', quote_ident(:schema), true)")
_LACKING = text(
    """
    SELECT current_user, relname FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = :schema AND relkind = 'r' AND relname LIKE 'conductor%' AND relname <> :version
      AND EXISTS (
        SELECT 1 FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed
        WHERE NOT has_table_privilege(pg_class.oid, needed)
      )
    ORDER BY relname
    """
).bindparams(version=schema.VERSION_TABLE)


def _connector(location: PostgresLocation) -> Callable[[], psycopg.Connection]:
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError as error:
        raise StoreError(
            "PostgreSQL needs the package psycopg, which is not installed; "
            "write: pip install 'conductor-supervisor[postgres]'"
        ) from error
    try:
        told = conninfo_to_dict(location.uri)
    except (psycopg.ProgrammingError, UnicodeError) as error:
        raise StoreError(
            f"database: {location.for_people} is not understood{_without_secrets(str(error), location)}; "
            f"{ESCAPES}"
        ) from None
    unless_told = {name: value for name, value in _UNLESS_TOLD.items() if name not in told}
    # Else the environment, or a role's or database's own setting, could name one that lacks characters.
    conninfo = make_conninfo(location.uri, **unless_told, client_encoding=ENCODING)

    def connect() -> psycopg.Connection:
        try:
            driver = psycopg.connect(conninfo)
        except UnicodeError as error:  # a host's name has too long a part, for one
            raise StoreError(
                f"{location.for_people} cannot be used: a name in it cannot be: {error}"
            ) from error
        if _is_pooled(driver):
            # What one transaction prepares, the next may not find.
            driver.prepare_threshold = None
        return driver

    return connect


def _without_secrets(said: str, location: PostgresLocation) -> str:
    """Return what libpq says, if all that it quotes are names: it may be a password that it stumbled over."""
    quoted = set(_QUOTED.findall(said))
    return f": {said.strip()}" if quoted and quoted <= {"=", *location.parameter_names} else ""


_QUOTED = re.compile('"([^"]*)"')


def _engine(location: PostgresLocation, connect: Callable[[], psycopg.Connection]) -> Engine:
    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        # Whatever the role's or database's default is: after a lock, we read what others have left.
        isolation_level="READ COMMITTED",
        pool_size=POOL,
        max_overflow=-1,
        pool_pre_ping=True,
        execution_options={"schema_translate_map": {None: location.schema}},
    )


def _is_pooled(driver: psycopg.Connection) -> bool:
    """Tell whether a pooler stands between: the process that it said to be is not the one that answers."""
    row = driver.execute("SELECT pg_backend_pid()").fetchone()
    driver.rollback()
    return row is None or row[0] != driver.info.backend_pid


def _commit(transaction: RootTransaction, number: str | None, result: R) -> None:
    """:param number: None if nothing was written."""
    try:
        transaction.commit()
    except DBAPIError as error:
        transaction.rollback()  # SQLAlchemy keeps for it what it could not commit
        if number is not None and error.connection_invalidated:
            raise Undecided(number, result, error) from error
        raise


def is_transient(error: BaseException) -> bool:
    """Tell whether the cause (a restart, a lock, a full disk) may go away."""
    state = _sqlstate(error)
    if state is None:
        import psycopg

        # Without a word of the server's, it is the connection that failed, or there was none.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT


def is_turned_away(error: BaseException) -> bool:
    """Tell whether the server does not let us in: a wrong password, for one, or no such database."""
    said = str(error)
    return _sqlstate(error) is None and _FATAL in said and not any(words in said for words in _NOT_YET)


def is_conflict(error: BaseException) -> bool:
    """Tell whether the transaction met another's: a deadlock, or a serialization failure."""
    return (_sqlstate(error) or "").startswith(_CONFLICT_CLASS)


def is_held_up(error: BaseException) -> bool:
    """Tell whether the transaction waited for a lock for too long."""
    return _sqlstate(error) == _LOCK_TIMEOUT


def is_damaged(error: BaseException) -> bool:
    """Tell whether the server found its own files damaged."""
    state = _sqlstate(error)
    return state is not None and state[:2] == _DAMAGED_CLASS and state != "XX000"


def _sqlstate(error: BaseException | None) -> str | None:
    state: str | None = getattr(error, "sqlstate", None)
    return state
