"""The bare SQL underneath: what a database takes for such rows without Conductor and without handlers."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import psycopg
from sqlalchemy import make_url

from benchmarks import databases
from benchmarks.databases import Kind
from conductor import Conductor
from conductor_supervisor.store import executions

TABLE = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, task TEXT NOT NULL, state TEXT NOT NULL, payload TEXT NOT NULL,
                   due BIGINT NOT NULL, result TEXT);
"""
INDEX = "CREATE INDEX ready ON jobs (task, due, id) WHERE state = 'ready'"

BATCH = 100
"""Jobs that are claimed, and finished, by one statement."""


class Jobs(Protocol):
    """A table of jobs in one kind of database."""

    def insert(self, rows: Sequence[tuple[str, int]]) -> None:
        """Insert jobs in one transaction, in the quickest way there is."""

    def insert_one(self, row: tuple[str, int]) -> None:
        """Insert one job, and commit."""

    def turn(self, finished: Sequence[str]) -> list[str]:
        """Finish jobs and claim a batch of others, with one commit for both; return these."""


class _SqliteJobs:
    INSERT = "INSERT INTO jobs VALUES (?, 'empty', 'ready', 'null', ?, NULL)"
    CLAIM = """
    UPDATE jobs SET state = 'running' WHERE id IN
        (SELECT id FROM jobs WHERE state = 'ready' AND task = 'empty' ORDER BY due, id LIMIT ?)
    RETURNING id
    """
    FINISH = "UPDATE jobs SET state = 'completed', result = 'null' WHERE id = ? AND state = 'running'"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # as Conductor has it: every commit reaches the disk
        connection.execute(TABLE)
        connection.execute(INDEX)

    def insert(self, rows: Sequence[tuple[str, int]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(self.INSERT, rows)
        self._connection.execute("COMMIT")

    def insert_one(self, row: tuple[str, int]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(self.INSERT, row)
        self._connection.execute("COMMIT")

    def turn(self, finished: Sequence[str]) -> list[str]:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(self.FINISH, [(job,) for job in finished])
        claimed = [job for (job,) in self._connection.execute(self.CLAIM, (BATCH,))]
        self._connection.execute("COMMIT")
        return claimed


class _PostgresJobs:
    INSERT = "INSERT INTO jobs VALUES (%s, 'empty', 'ready', 'null', %s, NULL)"
    COPY = "COPY jobs (id, due, task, state, payload) FROM STDIN"
    CLAIM = """
    UPDATE jobs SET state = 'running' WHERE id IN
        (SELECT id FROM jobs WHERE state = 'ready' AND task = 'empty' ORDER BY due, id LIMIT %s
         FOR UPDATE SKIP LOCKED)
    RETURNING id
    """
    FINISH = "UPDATE jobs SET state = 'completed', result = 'null' WHERE id = ANY(%s) AND state = 'running'"

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        connection.execute(TABLE)
        connection.execute(INDEX)
        connection.commit()

    def insert(self, rows: Sequence[tuple[str, int]]) -> None:
        with self._connection.transaction(), self._connection.cursor().copy(self.COPY) as copy:
            for row in rows:
                copy.write_row((*row, "empty", "ready", "null"))

    def insert_one(self, row: tuple[str, int]) -> None:
        self._connection.execute(self.INSERT, row)
        self._connection.commit()

    def turn(self, finished: Sequence[str]) -> list[str]:
        if finished:
            self._connection.execute(self.FINISH, (list(finished),))
        claimed = [job for (job,) in self._connection.execute(self.CLAIM, (BATCH,))]
        self._connection.commit()
        return claimed


@contextmanager
def _jobs(kind: Kind) -> Iterator[Jobs]:
    with (
        tempfile.TemporaryDirectory(prefix="conductor-bench-") as folder,
        databases.new(kind, Path(folder)) as url,
    ):
        if kind == "SQLite":
            with closing(sqlite3.connect(make_url(url).database or "", isolation_level=None)) as file:
                yield _SqliteJobs(file)
        else:
            with psycopg.connect(url) as connection:
                yield _PostgresJobs(connection)


def _rows(count: int) -> list[tuple[str, int]]:
    return [(f"{number:036}", number) for number in range(count)]


def _a_second(count: int, work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def jobs_per_second(kind: Kind, count: int) -> float:
    """Claim a batch and finish it, with one commit for both, until all are finished: no handlers."""
    with _jobs(kind) as jobs:
        jobs.insert(_rows(count))

        def work() -> None:
            claimed: list[str] = []
            while claimed := jobs.turn(claimed):
                pass

        return _a_second(count, work)


def commits_per_second(kind: Kind, count: int) -> float:
    """Insert one row and commit, over and over."""
    with _jobs(kind) as jobs:

        def work() -> None:
            for row in _rows(count):
                jobs.insert_one(row)

        return _a_second(count, work)


def rows_per_second(kind: Kind, count: int, at_once: int) -> float:
    """Insert the rows that ``invoke_many`` would, into the same table, in the quickest way there is: made
    beforehand, so many at once with a commit.
    """
    with (
        tempfile.TemporaryDirectory(prefix="conductor-bench-") as folder,
        databases.new(kind, Path(folder)) as url,
    ):
        with closing(Conductor(url)) as client:
            client.invoke("empty")  # makes the table
        rows = [_row_of_an_execution() for _ in range(count)]
        names = ", ".join(rows[0])
        parts = [
            [tuple(row.values()) for row in rows[first : first + at_once]]
            for first in range(0, count, at_once)
        ]
        insert = _insert_into_sqlite if kind == "SQLite" else _copy_into_postgresql
        return _a_second(count, lambda: insert(url, names, parts))


def _row_of_an_execution() -> dict[str, str | int | None]:
    now = time.time_ns() // 1000
    return executions.new_row(
        task="empty", event="conductor.invoke", payload="null", state="ready", created_at=now, due_at=now
    )


def _insert_into_sqlite(url: str, names: str, parts: Sequence[Sequence[tuple[object, ...]]]) -> None:
    places = ", ".join("?" * len(parts[0][0]))
    with closing(sqlite3.connect(make_url(url).database or "", isolation_level=None)) as file:
        file.execute("PRAGMA synchronous = FULL")
        for part in parts:
            file.execute("BEGIN IMMEDIATE")
            file.executemany(f"INSERT INTO conductor_executions ({names}) VALUES ({places})", part)
            file.execute("COMMIT")


def _copy_into_postgresql(url: str, names: str, parts: Sequence[Sequence[tuple[object, ...]]]) -> None:
    with psycopg.connect(url) as connection:
        for part in parts:
            statement = f"COPY conductor.conductor_executions ({names}) FROM STDIN"
            with connection.transaction(), connection.cursor().copy(statement) as copy:
                for row in part:
                    copy.write_row(row)
