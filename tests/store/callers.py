"""Callers with a connection of their own: of every library that may be lent, on both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
)
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

ORDER = "INSERT INTO orders (number) VALUES (1)"
"""What the caller writes beside the invocation."""


def is_sqlite(url: str) -> bool:
    """Tell which kind of database a URL is of."""
    return url.startswith("sqlite")


def run(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement on a connection that nobody lends, and commit it; return its rows."""
    with closing(sqlite3.connect(file(url)) if is_sqlite(url) else psycopg.connect(url)) as connection:
        cursor = connection.cursor()
        cursor.execute(statement)  # type: ignore[arg-type]
        rows = cursor.fetchall() if cursor.description else []
        connection.commit()
    return rows


def file(url: str) -> str:
    """Return the path in a URL of SQLite's."""
    return url.removeprefix("sqlite:///")


# Callers that do not await


def execute(lent: Any, statement: str) -> None:
    """Do some of the caller's own work on the caller's connection."""
    of_sqlalchemy = type(lent).__module__.startswith("sqlalchemy")
    lent.execute(text(statement) if of_sqlalchemy else statement)


@contextmanager
def engine(url: str, driver: str = "psycopg", **options: Any) -> Iterator[Engine]:
    """An engine of the caller's."""
    made = create_engine(url.replace("postgresql:", f"postgresql+{driver}:"), **options)
    try:
        yield made
    finally:
        made.dispose()


@contextmanager
def core(url: str, driver: str = "psycopg") -> Iterator[Any]:
    """A Connection of SQLAlchemy's."""
    with engine(url, driver) as made, made.connect() as connection:
        yield connection


@contextmanager
def core_with_psycopg2(url: str) -> Iterator[Any]:
    """The same on another driver."""
    with core(url, "psycopg2") as connection:
        yield connection


@contextmanager
def orm(url: str) -> Iterator[Any]:
    """A Session of SQLAlchemy's."""
    with engine(url) as made, Session(made) as session:
        yield session


@contextmanager
def scoped(url: str) -> Iterator[Any]:
    """A scoped session, as Flask-SQLAlchemy's ``db.session`` is one."""
    with engine(url) as made:
        session = scoped_session(sessionmaker(made))
        try:
            yield session
        finally:
            session.remove()


@contextmanager
def driver(url: str) -> Iterator[Any]:
    """The driver's own connection, as it comes."""
    with closing(sqlite3.connect(file(url)) if is_sqlite(url) else psycopg.connect(url)) as connection:
        yield connection


Caller = Callable[[str], AbstractContextManager[Any]]
CALLERS: Mapping[str, tuple[Caller, ...]] = {
    "sqlite_url": (core, orm, scoped, driver),
    "postgres_url": (core, core_with_psycopg2, orm, scoped, driver),
}
"""By the fixture of the database."""


# Callers that await


async def execute_async(lent: Any, statement: str) -> None:
    """See :func:`execute`."""
    of_sqlalchemy = type(lent).__module__.startswith("sqlalchemy")
    await lent.execute(text(statement) if of_sqlalchemy else statement)


@asynccontextmanager
async def async_engine(url: str, driver: str = "psycopg", **options: Any) -> AsyncIterator[AsyncEngine]:
    """An engine of the caller's."""
    name = url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", f"postgresql+{driver}:")
    made = create_async_engine(name, **options)
    try:
        yield made
    finally:
        await made.dispose()


@asynccontextmanager
async def async_core(url: str, driver: str = "psycopg") -> AsyncIterator[Any]:
    """An AsyncConnection of SQLAlchemy's."""
    async with async_engine(url, driver) as made, made.connect() as connection:
        yield connection


@asynccontextmanager
async def async_core_with_asyncpg(url: str) -> AsyncIterator[Any]:
    """The same on another driver."""
    async with async_core(url, "asyncpg") as connection:
        yield connection


@asynccontextmanager
async def async_orm(url: str) -> AsyncIterator[Any]:
    """An AsyncSession of SQLAlchemy's."""
    async with async_engine(url) as made, AsyncSession(made) as session:
        yield session


@asynccontextmanager
async def async_scoped(url: str) -> AsyncIterator[Any]:
    """The same, scoped."""
    async with async_engine(url) as made:
        session = async_scoped_session(async_sessionmaker(made), lambda: "here")
        try:
            yield session
        finally:
            await session.remove()


@asynccontextmanager
async def async_driver(url: str) -> AsyncIterator[Any]:
    """The driver's own connection, as it comes."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


AsyncCaller = Callable[[str], AbstractAsyncContextManager[Any]]
ASYNC_CALLERS: Mapping[str, tuple[AsyncCaller, ...]] = {
    "sqlite_url": (async_core, async_orm, async_scoped),
    "postgres_url": (async_core, async_core_with_asyncpg, async_orm, async_scoped, async_driver),
}
"""By the fixture of the database."""
