"""SQLite: opening a file, what each mistake is answered with, and what others do to it meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from store_moves import invoke

from conductor_protocol.errors import UsageError
from conductor_supervisor.errors import StoreError
from conductor_supervisor.store import sqlite
from conductor_supervisor.store.database import Database, is_transient
from conductor_supervisor.store.location import SqliteLocation, locate


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Only SQLite's."""
    return sqlite_url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("conductor.db", "expected a URL"),
        ("mysql://host/db", "got 'mysql:'"),
        ("sqlite://", "database in memory"),
        ("sqlite:///:memory:", "database in memory"),
        ("sqlite://conductor.db", "two slashes where three are needed"),
        ("sqlite:///a.db?mode=ro", "options after the path"),
    ],
)
def test_a_url_that_cannot_be_meant(url: str, said: str) -> None:
    """The message says what came and what to write."""
    with pytest.raises(UsageError, match=said) as caught:
        Database.open(url)
    assert 'write "sqlite:///conductor.db"' in str(caught.value)


def test_a_relative_path_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link leads to the same database as its target."""
    monkeypatch.chdir(tmp_path)
    assert locate("sqlite:///a.db") == SqliteLocation(tmp_path / "a.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    assert locate("sqlite:///link.db").identity == locate(f"sqlite:///{tmp_path}/a.db").identity


def test_a_missing_folder(tmp_path: Path) -> None:
    """The message has the command that makes it."""
    with pytest.raises(StoreError, match=f"mkdir -p {tmp_path}/none"):
        Database.open(f"sqlite:///{tmp_path}/none/a.db")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    """Easily mistyped."""
    with pytest.raises(StoreError, match="is a folder"):
        Database.open(f"sqlite:///{tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is writable for root")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """SQLite needs it for the files beside the database."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="is not writable"):
        Database.open(f"sqlite:///{tmp_path}/a.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """It is left as it is."""
    path = tmp_path / "a.db"
    path.write_text("this is a letter to my aunt\n" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Database.open(f"sqlite:///{path}")
    assert path.read_text().startswith("this is a letter")


def test_an_acknowledgement_is_honest(database: Database) -> None:
    """WAL, and every commit reaches the disk, on the connection that writes and on those that read."""
    for transaction in (database.writing, database.reading):
        with transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_changes_by_others_are_noticed_and_our_own_are_not(database: Database, database_url: str) -> None:
    """This is how an idle supervisor hears of work when nobody pokes it."""
    assert database.changed_elsewhere()
    assert not database.changed_elsewhere()
    invoke(database, "t")
    assert not database.changed_elsewhere()
    other = Database.open(database_url)
    invoke(other, "t")
    assert database.changed_elsewhere()
    assert not database.changed_elsewhere()
    other.close()


def test_looking_for_changes_does_not_wait_for_a_writer(database: Database, database_url: str) -> None:
    """The look must not take the write lock."""
    database.changed_elsewhere()
    other = Database.open(database_url)
    with other.writing() as connection:
        connection.exec_driver_sql("INSERT INTO conductor_tasks VALUES ('a', '{}', 0)")
        assert not database.changed_elsewhere()
    assert database.changed_elsewhere()
    other.close()


def test_a_locked_database_is_worth_another_try(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other writer will end."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.01)
    one, other = Database.open(database_url), Database.open(database_url)
    with one.writing():
        with pytest.raises(OperationalError) as caught, other.writing():
            pass
        assert is_transient(caught.value)
    invoke(other, "t")
    one.close()
    other.close()


def test_a_full_disk_is_worth_another_try(database: Database) -> None:
    """What did not fit is not there, and when there is room again the same connection writes."""
    with database.writing() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OperationalError, match="full") as caught:
        invoke(database, *["t"] * 1000)
    assert is_transient(caught.value)
    with database.writing() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    invoke(database, *["t"] * 1000)
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM conductor_executions").scalar_one() == 1000
