"""The SQL that databases write differently, in one place.

Lists and tables of values travel as JSON in a single parameter. So one statement serves every length: it
stays prepared, meets no limit on the number of parameters, and SQLAlchemy has one value to handle and not
thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Row, Table, Text, TextClause, bindparam, literal_column, select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

AnyRow: TypeAlias = "Row[*tuple[Any, ...]]"
"""A row whose columns are known by name."""

_encode = msgspec.json.Encoder().encode


def as_list(texts: Sequence[str]) -> str:
    """Return texts as a parameter for :func:`one_of`."""
    return _encode(texts).decode()


def one_of(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Return the condition that a column holds one of the texts in the parameter ``name``."""
    values = _JsonTexts(bindparam(name, type_=Text)).table_valued("value")
    return column.in_(select(values.c.value))


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


class _JsonTexts(FunctionElement[str]):
    """The elements of a JSON array of texts, as rows."""

    inherit_cache = True


class _JsonRows(FunctionElement[str]):
    """The elements of a JSON array of arrays, as rows."""

    inherit_cache = True


class _JsonField(FunctionElement[Any]):
    """One element of a row, by index, as a value of a type."""

    inherit_cache = True

    def __init__(self, row: ColumnElement[str], index: int, kind: TypeEngine[Any]) -> None:
        self.type = kind
        super().__init__(row, literal_column(str(index)))


@compiles(_JsonTexts, "sqlite")
@compiles(_JsonRows, "sqlite")
def _elements_sqlite(element: FunctionElement[str], compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_JsonField, "sqlite")
def _field_sqlite(element: _JsonField, compiler: SQLCompiler, **options: Any) -> str:
    row, index = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_extract({row}, '$[{index}]')"


@compiles(_JsonTexts, "postgresql")
def _texts_postgresql(element: _JsonTexts, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS JSON))"


@compiles(_JsonRows, "postgresql")
def _rows_postgresql(element: _JsonRows, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_elements(CAST({compiler.process(element.clauses, **options)} AS JSON))"


@compiles(_JsonField, "postgresql")
def _field_postgresql(element: _JsonField, compiler: SQLCompiler, **options: Any) -> str:
    row, index = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST({row} ->> {index} AS {compiler.dialect.type_compiler_instance.process(element.type)})"


def insert_unless_there(table: Table, *columns: str) -> TextClause:
    """Return an INSERT that leaves a row alone which breaks a unique constraint.

    SQLAlchemy has this only as a statement of one dialect, though both databases write it the same.
    """
    names = ", ".join(columns)
    values = ", ".join(f":{column}" for column in columns)
    return text(f"INSERT INTO {table.name} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING")  # noqa: S608 - names from the schema
