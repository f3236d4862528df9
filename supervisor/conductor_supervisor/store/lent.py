"""Connections that callers lend us, of whatever library: each runs our statements and leaves no trace.

A statement brings its own options, or its own cursor, for those of the connection are the caller's. What the
database says against it comes in the exceptions of the caller's library.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from sqlalchemy import ClauseElement, Connection, Executable, IteratorResult, Result, ScalarResult
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import await_only

from conductor_protocol.errors import UsageError
from conductor_supervisor.store.dialect import Parameters

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session


class Lent(ABC):
    """A connection that was lent. Fit for every function of the store that takes an ``Executor``."""

    kind: str
    """SQLAlchemy's name for the kind of database: ``sqlite``, ``postgresql``, or one that we do not know."""

    driver: Any
    """The driver's own connection."""

    @abstractmethod
    def execute(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Result[*tuple[Any, ...]]:
        """As SQLAlchemy's Connection does."""

    @abstractmethod
    def command(self, command: str) -> None:
        """Run a statement of transaction control."""

    @property
    @abstractmethod
    def is_lost(self) -> bool:
        """Whether it is closed or broken: there is nothing to undo then."""

    def check(self) -> None:
        """Make sure that the connection can be used as it is. Asked at our turn: another thread's statement
        may change it for as long as that lasts.

        :raises UsageError: if it cannot.
        """
        if _package(type(self.driver)) == "psycopg":
            _check_psycopg(self.driver)

    def scalar(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """As SQLAlchemy's Connection does."""
        return self.execute(statement, parameters).scalar()

    def scalars(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> ScalarResult[Any]:
        """As SQLAlchemy's Connection does."""
        return self.execute(statement, parameters).scalars()


Opened: TypeAlias = Callable[[str], AbstractContextManager[Lent]]
"""Makes use of what was lent, for a while. The argument is the schema that our tables are in."""


def lend(given: object) -> Opened:
    """Return what to do with a connection that is not awaited.

    :raises UsageError: if it is awaited, or no connection.
    """
    opener = _opener(_SYNC, given)
    if opener is not None:
        return lambda schema: opener(given, schema)
    if _opener(_ASYNC, given) is not None:
        raise UsageError(
            f"connection: a {_named(given)} is awaited, and this call is not; write its async twin: "
            "await app.invoke_async(..., connection=...)"
        )
    raise _no_connection(given)


def lend_async(given: object) -> Opened:
    """Return what to do, in a greenlet, with a connection that is awaited.

    :raises UsageError: if it is not awaited, or no connection.
    """
    opener = _opener(_ASYNC, given)
    if opener is not None:
        _check_greenlet()
        return lambda schema: opener(given, schema)
    if _opener(_SYNC, given) is not None:
        raise UsageError(
            f"connection: a {_named(given)} is not awaited, and would hold up the event loop; write "
            "app.invoke(..., connection=...), or lend an AsyncConnection or an AsyncSession"
        )
    raise _no_connection(given)


# SQLAlchemy


class _OfSqlalchemy(Lent):
    """SQLAlchemy's Connection, on whatever driver."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self._options = {**_PLAIN, "schema_translate_map": {None: schema}}
        self.kind = connection.dialect.name
        self.driver = connection.connection.driver_connection

    def execute(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Result[*tuple[Any, ...]]:
        return self._connection.execute(statement, parameters, execution_options=self._options)

    def command(self, command: str) -> None:
        self._connection.exec_driver_sql(command, execution_options=_PLAIN)

    @property
    def is_lost(self) -> bool:
        return self._connection.closed or self._connection.invalidated


_PLAIN: Mapping[str, Any] = {"stream_results": False, "yield_per": None}
"""Rows come at once, even if the caller has theirs come in portions: not every statement can do so."""


@contextmanager
def _connection(given: Connection, schema: str) -> Iterator[Lent]:
    yield _OfSqlalchemy(given, schema)


def _session(given: Session, schema: str) -> AbstractContextManager[Lent]:
    """A Session, or a scoped one."""
    return _connection(given.connection(), schema)


def _async_connection(given: AsyncConnection, schema: str) -> AbstractContextManager[Lent]:
    if given.sync_connection is None:
        raise UsageError(
            "connection: this AsyncConnection is not open yet; write: "
            "async with engine.begin() as connection: ..."
        )
    return _connection(given.sync_connection, schema)


def _async_session(given: AsyncSession, schema: str) -> AbstractContextManager[Lent]:
    return _session(given.sync_session, schema)


def _async_scoped_session(given: async_scoped_session[Any], schema: str) -> AbstractContextManager[Lent]:
    return _async_session(given.registry(), schema)


# Drivers


class _OfDriver(Lent):
    """A driver's connection, and a cursor of our own on it."""

    def __init__(self, kind: str, driver: object, cursor: Any, schema: str) -> None:
        self.kind = kind
        self.driver = driver
        self._cursor = cursor
        self._schema = schema

    def execute(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Result[*tuple[Any, ...]]:
        if isinstance(parameters, Sequence):
            compiled = self._compiled(statement, parameters[0])
            self._cursor.executemany(compiled.string, [compiled.construct_params(row) for row in parameters])
        else:
            compiled = self._compiled(statement, parameters or {})
            self._cursor.execute(compiled.string, compiled.construct_params(parameters))
        columns = [column[0] for column in self._cursor.description or ()]
        return IteratorResult(SimpleResultMetaData(columns), iter(self._cursor.fetchall() if columns else ()))

    def command(self, command: str) -> None:
        self._cursor.execute(command)

    @property
    def is_lost(self) -> bool:
        return bool(getattr(self.driver, "closed", False))  # sqlite3 does not tell, and does not break

    def _compiled(self, statement: Executable, parameters: Mapping[str, Any]) -> SQLCompiler:
        return _compile(statement, self.kind, self._schema, tuple(parameters))


@lru_cache(maxsize=64)
def _compile(statement: Executable, kind: str, schema: str, columns: tuple[str, ...]) -> SQLCompiler:
    compiled = cast("ClauseElement", statement).compile(
        dialect=_dialect(kind),
        column_keys=list(columns),
        schema_translate_map={None: schema},
        render_schema_translate=True,
    )
    return cast("SQLCompiler", compiled)


def _dialect(kind: str) -> Dialect:
    if kind == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.dialect(paramstyle="named")
    from sqlalchemy.dialects.postgresql import psycopg

    return psycopg.dialect()  # type: ignore[no-untyped-call]


@contextmanager
def _sqlite(given: sqlite3.Connection, schema: str) -> Iterator[Lent]:
    with closing(sqlite3.Cursor(given)) as cursor:
        cursor.row_factory = None
        text_factory, given.text_factory = given.text_factory, str
        try:
            yield _OfDriver("sqlite", given, cursor, schema)
        finally:
            given.text_factory = text_factory


@contextmanager
def _psycopg(given: psycopg.Connection[Any], schema: str) -> Iterator[Lent]:
    from psycopg import Cursor
    from psycopg.rows import tuple_row

    with Cursor(given, row_factory=tuple_row) as cursor:
        yield _OfDriver("postgresql", given, cursor, schema)


@contextmanager
def _async_psycopg(given: psycopg.AsyncConnection[Any], schema: str) -> Iterator[Lent]:
    from psycopg import AsyncCursor
    from psycopg.rows import tuple_row

    cursor = AsyncCursor(given, row_factory=tuple_row)
    try:
        yield _OfDriver("postgresql", given, _AwaitedCursor(cursor), schema)
    finally:
        await_only(cursor.close())


def _check_psycopg(given: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Make sure that answers come when they are asked for, and are text. Nothing is asked of the server.

    :raises UsageError: if they are not.
    """
    from psycopg.adapt import Transformer
    from psycopg.pq import Format, PipelineStatus

    if given.closed:
        return
    if given.pgconn.pipeline_status != PipelineStatus.OFF:
        raise UsageError(
            "connection: this one is in pipeline mode, where answers come later; invoke before or behind the "
            "block of connection.pipeline()"
        )
    encoding = given.info.parameter_status("client_encoding")
    if encoding not in ("UTF8", None):
        raise UsageError(
            f"connection: its client_encoding is {encoding}, which cannot hold every text; write: "
            'psycopg.connect(..., client_encoding="utf8")'
        )
    loaders = Transformer(given)
    for name in ("text", "varchar"):
        kind = given.adapters.types[name].oid
        if not isinstance(loaders.get_loader(kind, Format.TEXT).load(b"text"), str):
            raise UsageError(
                f"connection: a loader that is registered on it makes no str of {name}; lend one without"
            )


class _AwaitedCursor:
    """A cursor whose greenlet waits for what the event loop does."""

    def __init__(self, cursor: psycopg.AsyncCursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    def execute(self, query: str, parameters: Mapping[str, Any] | None = None) -> None:
        await_only(self._cursor.execute(query.encode(), parameters))

    def executemany(self, query: str, rows: Sequence[Mapping[str, Any]]) -> None:
        await_only(self._cursor.executemany(query.encode(), rows))

    def fetchall(self) -> list[tuple[Any, ...]]:
        return await_only(self._cursor.fetchall())

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        return self._cursor.description


def _django(given: Any, schema: str) -> AbstractContextManager[Lent]:
    """Django's ``connection``, which wraps that of a driver and opens it when it is used."""
    given.ensure_connection()
    opener = _opener(_DRIVERS, given.connection)
    if opener is None:
        raise UsageError(
            f"connection: Django's connection is a {_named(given.connection)}, which Conductor does not "
            "know; use psycopg 3 for PostgreSQL, or SQLite"
        )
    return opener(given.connection, schema)


# Which is which


_Opener: TypeAlias = Callable[[Any, str], AbstractContextManager[Lent]]
_Kinds: TypeAlias = Mapping[tuple[str, str], _Opener]
"""By the package and the name of a class. So no library is imported that the caller does not use."""

_DRIVERS: _Kinds = {("psycopg", "Connection"): _psycopg, ("sqlite3", "Connection"): _sqlite}
_SYNC: _Kinds = {
    **_DRIVERS,
    ("sqlalchemy", "Connection"): _connection,
    ("sqlalchemy", "Session"): _session,
    ("sqlalchemy", "scoped_session"): _session,
}
_ASYNC: _Kinds = {
    ("psycopg", "AsyncConnection"): _async_psycopg,
    ("sqlalchemy", "AsyncConnection"): _async_connection,
    ("sqlalchemy", "AsyncSession"): _async_session,
    ("sqlalchemy", "async_scoped_session"): _async_scoped_session,
}


def _opener(kinds: _Kinds, given: object) -> _Opener | None:
    if kinds is _SYNC and hasattr(given, "ensure_connection"):
        return _django
    names = ((_package(base), base.__qualname__) for base in type(given).__mro__)
    return next((kinds[name] for name in names if name in kinds), None)


def _named(given: object) -> str:
    kind = type(given)
    return f"{_package(kind)} {kind.__qualname__}"


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _no_connection(given: object) -> UsageError:
    return UsageError(
        "connection: expected a Connection or Session of SQLAlchemy, a Connection of psycopg 3 or sqlite3, "
        f"or Django's connection, got a {_named(given)}; write, for example: "
        "with engine.begin() as connection: app.invoke(..., connection=connection)"
    )


def _check_greenlet() -> None:
    if find_spec("greenlet") is None:
        raise UsageError(
            "connection: to write on an async connection, the package greenlet is needed, which is not "
            "installed; write: pip install greenlet"
        )
