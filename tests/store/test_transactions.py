"""Transactions, the same on both kinds of database."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import IntegrityError
from store_moves import invoke

from conductor_supervisor.store.database import Database, is_transient
from conductor_supervisor.store.dialect import sql

INSERT = sql("INSERT INTO conductor_tasks VALUES (:name, '{}', 0)")
COUNT_TASKS = sql("SELECT count(*) FROM conductor_tasks")
COUNT = sql("SELECT count(*) FROM conductor_executions")


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    """And the next one works."""

    def fail_halfway() -> None:
        with database.writing() as connection:
            connection.execute(INSERT, {"name": "a"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with database.writing() as connection:
        assert connection.scalar(COUNT_TASKS) == 0


def test_a_savepoint_can_be_undone_alone(database: Database) -> None:
    """One bad write does not sink its group."""
    with database.writing() as connection:
        connection.execute(INSERT, {"name": "a"})
        savepoint = connection.begin_nested()
        connection.execute(INSERT, {"name": "b"})
        with pytest.raises(IntegrityError):
            connection.execute(INSERT, {"name": "a"})
        savepoint.rollback()
        connection.execute(INSERT, {"name": "c"})
    with database.reading() as connection:
        names = connection.scalars(sql("SELECT name FROM conductor_tasks ORDER BY name"))
        assert names.all() == ["a", "c"]


def test_a_reader_sees_one_moment_and_does_not_wait(database: Database) -> None:
    """While somebody writes, and after."""
    with database.reading() as reader:
        assert reader.scalar(COUNT) == 0
        invoke(database, "t")
        assert reader.scalar(COUNT) == 0


def test_a_broken_rule_is_not_worth_another_try(database: Database) -> None:
    """It would fail again."""
    with pytest.raises(IntegrityError) as caught, database.writing() as connection:
        connection.execute(sql("INSERT INTO conductor_pauses VALUES ('planet', 'x', 0)"))
    assert not is_transient(caught.value)
    assert not is_transient(ValueError())
    assert not is_transient(sqlite3.OperationalError())
