"""The SQL that databases write differently, in one place.

Lists and tables of values travel as JSON in a single parameter. So one statement serves every length: it
stays prepared, meets no limit on the number of parameters, and SQLAlchemy has one value to handle and not
thousands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, cast

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Executable,
    Result,
    Row,
    Table,
    Text,
    TextClause,
    bindparam,
    literal_column,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from conductor_supervisor.store.schema import metadata

if TYPE_CHECKING:
    import psycopg

AnyRow: TypeAlias = "Row[*tuple[Any, ...]]"
"""A row whose columns are known by name."""

Parameters: TypeAlias = "Mapping[str, Any] | Sequence[Mapping[str, Any]]"
"""The values for a statement, or for each time that it is run."""


class Executor(Protocol):
    """What runs statements: SQLAlchemy's Connection, or what stands for a connection that was lent."""

    def execute(
        self, statement: Executable, parameters: Parameters | None = None
    ) -> Result[*tuple[Any, ...]]:
        """Run a statement."""

    def scalar(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a statement; return the first column of its first row, or None."""

    def scalars(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Iterable[Any]:
        """Run a statement; return the first column of its rows."""


ALL_TASKS = ("*",)
"""What those lock who declare tasks: no task has such a name."""

ENOUGH_FOR_BULK = 20
"""Rows from which on it is worth the trouble to insert them in a quicker way than usual."""

_encode = msgspec.json.Encoder().encode


def as_list(texts: Sequence[str]) -> str:
    """Return texts as a parameter for :func:`one_of`."""
    return _encode(texts).decode()


def one_of(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Return the condition that a column holds one of the texts in the parameter ``name``."""
    return _OneOf(column, bindparam(name, type_=Text))


def as_rows(rows: Sequence[tuple[str | int | None, ...]]) -> str:
    """Return rows as a parameter for :class:`JsonRows`."""
    return _encode(rows).decode()


class JsonRows:
    """A table of values in the parameter ``name``; ``rows[0]`` is its first column."""

    def __init__(self, name: str, *types: type[TypeEngine[Any]]) -> None:
        rows = _JsonRows(bindparam(name, type_=Text)).table_valued("value")
        self._columns = [_JsonField(rows.c.value, index, kind()) for index, kind in enumerate(types)]

    def __getitem__(self, index: int) -> ColumnElement[Any]:
        return self._columns[index]


class _OneOf(FunctionElement[bool]):
    """Whether a column holds an element of a JSON array of texts."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: object = None) -> Self:  # noqa: ARG002
        """It is a condition already: SQLite would be given ``... = 1``, and scan the table."""
        return self


class _JsonRows(FunctionElement[str]):
    """The elements of a JSON array of arrays, as rows."""

    inherit_cache = True


class _JsonField(FunctionElement[Any]):
    """One element of a row, by index, as a value of a type."""

    inherit_cache = True

    def __init__(self, row: ColumnElement[str], index: int, kind: TypeEngine[Any]) -> None:
        self.type = kind
        super().__init__(row, literal_column(str(index)))


@compiles(_OneOf, "sqlite")
def _one_of_sqlite(element: _OneOf, compiler: SQLCompiler, **options: Any) -> str:
    column, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({texts}))"  # noqa: S608 - compiled from parts


@compiles(_JsonRows, "sqlite")
def _rows_sqlite(element: _JsonRows, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_JsonField, "sqlite")
def _field_sqlite(element: _JsonField, compiler: SQLCompiler, **options: Any) -> str:
    row, index = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_extract({row}, '$[{index}]')"


@compiles(_OneOf, "postgresql")
def _one_of_postgresql(element: _OneOf, compiler: SQLCompiler, **options: Any) -> str:
    # As an array, which the planner looks up in an index; of a set of rows it would guess the size.
    column, texts = (compiler.process(clause, **options) for clause in element.clauses)
    return f"{column} = ANY (ARRAY(SELECT json_array_elements_text(CAST({texts} AS JSON))))"


@compiles(_JsonRows, "postgresql")
def _rows_postgresql(element: _JsonRows, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_elements(CAST({compiler.process(element.clauses, **options)} AS JSON))"


@compiles(_JsonField, "postgresql")
def _field_postgresql(element: _JsonField, compiler: SQLCompiler, **options: Any) -> str:
    row, index = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST({row} ->> {index} AS {compiler.dialect.type_compiler_instance.process(element.type)})"


class ByteOrder(FunctionElement[str]):
    """A text to order by: the same order in every database, whatever language it is set up for."""

    type = Text()
    inherit_cache = True


@compiles(ByteOrder, "sqlite")
def _byte_order_sqlite(element: ByteOrder, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)  # it knows no other


@compiles(ByteOrder, "postgresql")
def _byte_order_postgresql(element: ByteOrder, compiler: SQLCompiler, **options: Any) -> str:
    return f'{compiler.process(element.clauses, **options)} COLLATE "C"'


class ByteLength(FunctionElement[int]):
    """How many bytes a text has in UTF-8; of NULL, none."""

    type = BigInteger()
    inherit_cache = True


@compiles(ByteLength, "sqlite")
def _byte_length_sqlite(element: ByteLength, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce(length(CAST({compiler.process(element.clauses, **options)} AS BLOB)), 0)"


@compiles(ByteLength, "postgresql")
def _byte_length_postgresql(element: ByteLength, compiler: SQLCompiler, **options: Any) -> str:
    return f"coalesce(octet_length({compiler.process(element.clauses, **options)}), 0)"


class DatabaseNow(FunctionElement[int]):
    """The database's own clock, in microseconds since 1970."""

    type = BigInteger()
    inherit_cache = True


@compiles(DatabaseNow, "sqlite")
def _now_sqlite(_element: DatabaseNow, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


@compiles(DatabaseNow, "postgresql")
def _now_postgresql(_element: DatabaseNow, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


class TransactionNumber(FunctionElement[str]):
    """What the server calls this transaction, which will write; NULL where nobody ever asks for it."""

    type = Text()
    inherit_cache = True


@compiles(TransactionNumber, "sqlite")
def _number_sqlite(_element: TransactionNumber, _compiler: SQLCompiler, **_options: Any) -> str:
    return "NULL"


@compiles(TransactionNumber, "postgresql")
def _number_postgresql(_element: TransactionNumber, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(pg_current_xact_id() AS TEXT)"


TRANSACTION = "conductor transaction"
"""Where a connection's ``info`` has the number of the transaction under way, if a statement has told it."""


class Patience(FunctionElement[str]):
    """Tell the server how much patience to have with this transaction, and that it goes by indexes.

    It ends it if for so many seconds we leave it alone, or take nothing of what it sends. A statement fails
    that waits for a lock for so many milliseconds; 0: it waits. Whatever a supervisor writes
    names few rows, so no plan that reads a table from end to end is right, as small as the table may be.
    """

    type = Text()
    inherit_cache = True

    def __init__(self, seconds: int, lock_milliseconds: int) -> None:
        super().__init__(literal_column(f"'{seconds}s'"), literal_column(f"'{lock_milliseconds}ms'"))


@compiles(Patience, "sqlite")
def _patience_sqlite(_element: Patience, _compiler: SQLCompiler, **_options: Any) -> str:
    return "NULL"  # there is no server, and the lock goes with the process


@compiles(Patience, "postgresql")
def _patience_postgresql(element: Patience, compiler: SQLCompiler, **options: Any) -> str:
    time, lock_time = (compiler.process(each, **options) for each in element.clauses)
    # Elsewhere it is not supported, and each attempt would be a line in the server's log.
    deaf = f"CASE WHEN version() ~ 'linux' THEN set_config('tcp_user_timeout', {time}, true) ELSE '' END"
    return (
        f"set_config('idle_in_transaction_session_timeout', {time}, true) || {deaf} "
        f"|| set_config('lock_timeout', {lock_time}, true) || set_config('enable_seqscan', 'off', true)"
    )


class sql(TextClause):  # noqa: N801 - a statement in the making, used as SQLAlchemy's text()
    """A statement as text, in which our tables are named plainly: where they are is the database's affair."""

    inherit_cache = True


@compiles(sql)
def _name_tables(element: sql, compiler: SQLCompiler, **options: Any) -> str:
    def qualified(found: re.Match[str]) -> str:
        table = metadata.tables.get(found[0])
        return found[0] if table is None else compiler.preparer.format_table(table)

    written: str = compiler.visit_textclause(element, **options)  # type: ignore[no-untyped-call]
    return _TABLE.sub(qualified, written)


_TABLE = re.compile(r"\bconductor_[a-z]+\b")


def insert_unless_there(table: Table, *columns: str) -> sql:
    """Return an INSERT that leaves a row alone which breaks a unique constraint.

    SQLAlchemy has this only as a statement of one dialect, though both databases write it the same.
    """
    names = ", ".join(columns)
    values = ", ".join(f":{column}" for column in columns)
    return sql(f"INSERT INTO {table.name} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING")  # noqa: S608 - names from the schema


class InsertSet(sql):
    """An INSERT of the rows in the parameter ``rows``, which :func:`as_objects` writes, in their order.

    It leaves a row alone which breaks a unique constraint, and returns the ids of those that it has inserted.
    """

    inherit_cache = True

    def __init__(self, table: Table) -> None:
        names = ", ".join(table.c.keys())
        values = ", ".join(f"json_extract(value, '$.{name}')" for name in table.c.keys())  # noqa: SIM118
        insert = f"INSERT INTO {table.name} ({names})"
        unless_there = "ON CONFLICT DO NOTHING RETURNING id"
        # WHERE true: else SQLite would read ON as part of a join.
        super().__init__(f"{insert} SELECT {values} FROM json_each(:rows) WHERE true {unless_there}")  # noqa: S608 - names from the schema
        typed = ", ".join(f"{column.name} {column.type}" for column in table.c)
        # Taken apart once a row: field by field, a large payload would be read again for each.
        given = f"json_to_recordset(CAST(:rows AS JSON)) AS given ({typed})"
        self.on_postgresql = sql(f"{insert} SELECT {names} FROM {given} {unless_there}")  # noqa: S608 - the same


@compiles(InsertSet, "postgresql")
def _insert_set_postgresql(element: InsertSet, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.on_postgresql, **options)


def as_objects(rows: Sequence[Mapping[str, str | int | None]]) -> str:
    """Return rows, with their columns' names, as a parameter for :class:`InsertSet`."""
    return _encode(rows).decode()


def insert_rows(connection: Executor, table: Table, rows: Sequence[Mapping[str, str | int | None]]) -> None:
    """Insert rows that all have the same columns; many at once as quickly as the database can take them."""
    if len(rows) < ENOUGH_FOR_BULK or not isinstance(connection, Connection):
        connection.execute(table.insert(), rows)
        return
    columns = list(rows[0])
    values = map(itemgetter(*columns), rows)
    if connection.dialect.name == "postgresql":
        copy_rows(connection, table, columns, values)
    else:  # as SQLAlchemy would, which takes as long to prepare a row as SQLite to insert it
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({places})", list(values))  # noqa: S608 - names from the schema


def copy_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Insert any number of rows, in this order, by PostgreSQL's COPY.

    :raises DBAPIError: if a row is not taken, or the connection breaks: as from any other statement.
    """
    import psycopg
    from psycopg.sql import SQL, Identifier

    statement = SQL("COPY {} ({}) FROM STDIN").format(
        Identifier(schema_of(connection) or "", table.name), SQL(", ").join(map(Identifier, columns))
    )
    driver = cast("psycopg.Connection", connection.connection.driver_connection)
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError(f"COPY {table.name}", None, error) from error
    except BaseException:
        # Interrupted, the driver may leave the COPY under way; then not even a rollback gets through.
        connection.invalidate()
        raise


def schema_of(connection: Connection) -> str | None:
    """Return the database's schema that our tables are in; None: there is only one."""
    found: str | None = connection.get_execution_options().get("schema_translate_map", {}).get(None)
    return found


def lock_tasks(connection: Connection, names: Sequence[str]) -> None:
    """Have every other supervisor wait with its decisions about these tasks until this transaction ends.

    What the transaction reads after this is what the others have left. In SQLite a writing transaction is
    alone anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_TASKS, {"names": as_list(names)})


# In one order for all, so that two who want several never wait for each other.
_LOCK_TASKS = sql(
    """
    SELECT pg_advisory_xact_lock(CAST(CAST('conductor_executions' AS regclass) AS oid)::int4, lock)
    FROM (
        SELECT DISTINCT hashtext(name) AS lock FROM json_array_elements_text(CAST(:names AS JSON)) AS name
        ORDER BY lock
    ) AS locks
    """
)
