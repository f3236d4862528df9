"""The databases that are measured, each as its users have it: with its default durability."""

from __future__ import annotations

import atexit
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import psycopg
from sqlalchemy import make_url

from testbed.postgresql import PostgresServer

Kind: TypeAlias = Literal["SQLite", "PostgreSQL"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_numbers = count()


@contextmanager
def new(kind: Kind, folder: Path) -> Iterator[str]:
    """The URL of an empty database; one of PostgreSQL's is dropped at the end."""
    if kind == "SQLite":
        yield f"sqlite:///{folder}/conductor.db"
        return
    name = f"bench_{next(_numbers)}"
    server().execute(f"CREATE DATABASE {name}")
    try:
        yield server().url(name)
    finally:
        server().execute(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def server() -> PostgresServer:
    """The server of this process, with PostgreSQL's own defaults; it ends with us."""
    server = PostgresServer(shared_buffers="128MB", autovacuum_naptime="1min")
    atexit.register(server.remove)
    return server


def row(url: str, query: str) -> tuple[float, ...]:
    """Read one row of a database, without Conductor."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(make_url(url).database or "")) as file:
            found: tuple[float, ...] = file.execute(query).fetchone()
            return found
    with psycopg.connect(url, options="-c search_path=conductor") as connection:
        answer = connection.execute(query.encode()).fetchone()
        assert answer is not None, query
        return answer
