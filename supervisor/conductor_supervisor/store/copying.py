"""All that one database keeps, copied into another one and compared with it there.

Rows are carried one by one, however many there are, in an order that is the same in every database. Steps
and output get new positions on the way, in their order: so the numbering goes on behind them by itself, and
needs no rights of ours.

Who lives (``supervisors``) is not copied: it is true of one database only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TypeAlias

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Select, Table, Text, delete, func, select
from sqlalchemy.exc import DBAPIError

from conductor_supervisor.errors import StoreError
from conductor_supervisor.store.database import Database, reason
from conductor_supervisor.store.dialect import ByteOrder
from conductor_supervisor.store.schema import (
    attempts,
    executions,
    output,
    pauses,
    schedules,
    starts,
    steps,
    tasks,
)

ROWS_AT_ONCE = 50
"""Rows that are in memory at once: each may have several megabytes."""

Progress: TypeAlias = Callable[[str, int], None]
"""Hears what is under way, such as ``copying steps``, and how many rows it has just got through."""

_encode = msgspec.msgpack.Encoder().encode


class Kept(Struct, frozen=True):
    """A table whose rows are copied."""

    table: Table
    key: tuple[str, ...]
    """Columns by which the rows are ordered."""

    @property
    def name(self) -> str:
        """What it is called for people."""
        return self.table.name.removeprefix("conductor_")

    @property
    def columns(self) -> list[str]:
        """The columns that are copied: all, but for positions."""
        return [column.name for column in self.table.columns if column.identity is None]

    def in_order(self) -> Select[tuple[object, ...]]:
        """Return the query for all rows in order, a few at a time."""
        statement = select(*(self.table.c[name] for name in self.columns))
        by = [_ordered(self.table.c[name]) for name in self.key]
        return statement.order_by(*by).execution_options(yield_per=ROWS_AT_ONCE)


def _ordered(column: ColumnElement[str]) -> ColumnElement[str]:
    return ByteOrder(column) if isinstance(column.type, Text) else column


KEPT = (
    Kept(executions, ("id",)),
    Kept(steps, ("position",)),
    Kept(attempts, ("execution_id", "claim")),
    Kept(output, ("position",)),
    Kept(starts, ("execution_id", "claim")),
    Kept(schedules, ("task", "name")),
    Kept(tasks, ("name",)),
    Kept(pauses, ("kind", "name")),
)
"""In the order in which they are copied."""


class Checked(Struct, frozen=True):
    """What a table holds."""

    table: str
    rows: int
    sha256: str
    """Of all rows, in order."""


def counts(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has, by its name for people."""
    return {kept.name: connection.scalar(_COUNT[kept.name]) or 0 for kept in KEPT}


_COUNT = {kept.name: select(func.count()).select_from(kept.table) for kept in KEPT}


def has_executions(connection: Connection) -> bool:
    """Tell whether there is any execution."""
    return connection.scalar(_ANY) is not None


_ANY = select(executions.c.id).limit(1)


def copy(
    source: Connection, database: Database, target: Connection, progress: Progress = lambda _what, _rows: None
) -> list[Checked]:
    """Copy all rows into a database without executions, in the caller's transactions; compare both sides.

    What the target has declared, and paused, gives way to what the source has.

    :raises StoreError: if the target does not take a row, or has not kept what it was given.
    """
    for kept in KEPT:
        target.execute(delete(kept.table))
    for kept in KEPT:
        with closing(_watched(source, kept, f"copying {kept.name}", progress)) as rows:
            database.load(target, kept.table, kept.columns, _storable(kept, rows))
    return [_compared(kept, source, target, progress) for kept in KEPT]


def _watched(
    connection: Connection, kept: Kept, what: str, progress: Progress
) -> Generator[tuple[object, ...], None, None]:
    """Give all rows of a table in order, and tell of every few of them. Close it before the connection.

    :raises StoreError: if they cannot be read.
    """
    progress(what, 0)
    try:
        with connection.execute(kept.in_order()) as found:
            for few in found.partitions():
                yield from map(tuple, few)
                progress(what, len(few))
    except DBAPIError as error:
        raise StoreError(f"{what}: the rows cannot be read: {reason(error)}") from error


def _storable(kept: Kept, rows: Iterator[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """Refuse what SQLite holds and PostgreSQL does not, by the name of the execution that it belongs to."""
    for row in rows:
        for column, value in zip(kept.columns, row, strict=True):
            if isinstance(value, str) and "\0" in value:
                raise StoreError(
                    f"{kept.name}: {column} of {row[0]} has a zero character, which not every database can "
                    "hold; nothing was copied. Only an older version has written such; have the execution "
                    "finished and removed, then copy again"
                )
        yield row


def _compared(kept: Kept, source: Connection, target: Connection, progress: Progress) -> Checked:
    here = check(source, kept, progress)
    there = check(target, kept, progress)
    if here != there:
        raise StoreError(
            f"{kept.name}: the copy is not what was copied: {here.rows} rows with the checksum {here.sha256} "
            f"became {there.rows} rows with {there.sha256}; nothing was kept. Does a trigger of the new "
            "database's change them?"
        )
    return there


def check(connection: Connection, kept: Kept, progress: Progress = lambda _what, _rows: None) -> Checked:
    """Read all rows of a table, count them, and make their checksum."""
    rows, digest = 0, hashlib.sha256()
    with closing(_watched(connection, kept, f"checking {kept.name}", progress)) as found:
        for row in found:
            rows += 1
            digest.update(_encode(row))
    return Checked(kept.name, rows, digest.hexdigest())
