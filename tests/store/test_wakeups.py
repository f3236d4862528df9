"""Being woken by PostgreSQL, and what happens where that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from sqlalchemy import text
from store_moves import invoke

from conductor_supervisor.store.database import Database
from conductor_supervisor.store.postgresql import PostgresDatabase
from conductor_supervisor.store.wakeups import POLL_DEAF, POLL_HEARING, Listener
from testbed.postgresql import PostgresServer

PATIENCE = 30.0


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Only PostgreSQL's."""
    return postgres_url


def until(fact: Callable[[], bool]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Ear:
    """A listener, and how often it was woken."""

    def __init__(self, database: Database) -> None:
        self.woken = threading.Semaphore(0)
        self.listener = Listener(cast(PostgresDatabase, database), "me", self.woken.release)

    def hears(self) -> bool:
        """Tell whether it hears notifications by now."""
        return self.listener.poll_interval() == POLL_HEARING


@pytest.fixture
def ear(database: Database) -> Iterator[Ear]:
    """A listener that has begun, and has been woken for what came before."""
    ear = Ear(database)
    ear.listener.start()
    until(ear.hears)
    assert ear.woken.acquire(timeout=PATIENCE)
    yield ear
    ear.listener.close()


def announce(database: Database, by: str) -> None:
    with database.writing() as connection:
        database.announce(connection, by)


def test_others_wake_us_and_we_do_not(ear: Ear, database: Database) -> None:
    """What we have written ourselves is no news."""
    announce(database, "me")
    announce(database, "you")
    assert ear.woken.acquire(timeout=PATIENCE)
    assert not ear.woken.acquire(blocking=False)


def test_a_bulk_notifies_once(ear: Ear, database: Database) -> None:
    """However many rows it has."""
    with database.writing() as connection:
        for _ in range(100):
            database.announce(connection)
    assert ear.woken.acquire(timeout=PATIENCE)
    announce(database, "you")
    assert ear.woken.acquire(timeout=PATIENCE)
    assert not ear.woken.acquire(blocking=False)


def test_after_a_lost_connection_it_listens_again(
    ear: Ear, database: Database, postgres: PostgresServer
) -> None:
    """It is woken then for what came meanwhile."""
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    invoke(database, "t")
    assert ear.woken.acquire(timeout=PATIENCE)
    until(ear.hears)


def test_a_database_that_is_away_at_the_beginning_is_listened_to_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it that the word to ourselves fails, on a connection of another kind than the one that listens."""
    tries = []

    def fails_once(word: str) -> None:
        tries.append(word)
        with database.writing() as connection:
            if len(tries) == 1:
                connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            database.announce(connection, word)

    monkeypatch.setattr(database, "notify", fails_once)
    ear = Ear(database)
    assert ear.listener.poll_interval() == POLL_DEAF
    ear.listener.start()
    until(ear.hears)
    assert len(tries) == 2
    ear.listener.close()
