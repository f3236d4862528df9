"""What a PostgreSQL URL means: as libpq reads it, which database it leads to, and what of it may be shown."""

from __future__ import annotations

import os

import pytest
from psycopg.conninfo import conninfo_to_dict

from conductor_protocol.errors import UsageError
from conductor_supervisor.errors import StoreError
from conductor_supervisor.runtime import find_runtime_folder
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.location import PostgresLocation, locate

SECRET = "S3CRET"


@pytest.fixture(autouse=True)
def libpq_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment."""
    for name in os.environ:
        if name.startswith("PG"):
            monkeypatch.delenv(name)


# As libpq reads it


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:a#b@h/d",
        "postgresql://u:a?b@h/d",
        "postgresql://u:x[y]@h/d",
        "postgresql://u@h/d?password=a+b%2Bc",
        "postgresql://u@[::1]:1,h2,:3/d?sslmode=require&",
        "postgresql://u@h?dbname=d&dbname=e",
        "postgresql://:p@h",
        "postgresql://",
    ],
)
def test_libpq_is_given_what_was_written(url: str) -> None:
    """Not what the standard library makes of it."""
    given = locate(f"{url}{'&' if '?' in url.partition('@')[2] else '?'}schema=jobs")
    assert isinstance(given, PostgresLocation)
    assert given.schema == "jobs"
    assert conninfo_to_dict(given.uri) == conninfo_to_dict(url)


# Which database


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://h?dbname=a", "postgresql://h?dbname=b"),
        ("postgresql://alice@h", "postgresql://bob@h"),
        ("postgresql://h?user=alice", "postgresql://h?user=bob"),
        ("postgresql://h?service=a", "postgresql://h?service=b"),
        ("postgresql:///d?hostaddr=10.0.0.1", "postgresql:///d?hostaddr=10.0.0.2"),
        ("postgresql://h/d?host=x", "postgresql://h/d?host=y"),
        ("postgresql://h/d?port=1", "postgresql://h/d?port=2"),
        ("postgresql:///d?host=/run/a", "postgresql:///a%2Fd?host=/run"),
    ],
)
def test_two_databases_have_two_runtime_folders(one: str, other: str) -> None:
    """Else a command for one would reach the supervisor of the other."""
    assert find_runtime_folder(one) != find_runtime_folder(other)


@pytest.mark.parametrize("name", ["HOST", "HOSTADDR", "PORT", "DATABASE", "USER", "SERVICE"])
def test_what_the_url_leaves_open_is_in_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts only there."""
    vague, exact = "postgresql://", "postgresql://u@h:1/d?hostaddr=10.0.0.1&service=s"
    before = locate(vague).identity, locate(exact).identity
    monkeypatch.setenv(f"PG{name}", "7")
    after = locate(vague).identity, locate(exact).identity
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h:5432/d",
        "postgresql://you:secret@h/d?sslmode=require",
        "postgresql://h/%64",
        "postgresql:///other?host=h&dbname=d",
        "postgresql://d@h",
    ],
)
def test_one_database_has_one_identity(url: str) -> None:
    """Whoever connects. The text names the folders of supervisors that run, so it stays what it was."""
    assert locate(url).identity == "postgresql://h/d?&&conductor"


def test_the_environment_may_say_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is the same database as one that is named in the URL."""
    for name, value in {"HOST": "h", "PORT": "7", "DATABASE": "d"}.items():
        monkeypatch.setenv(f"PG{name}", value)
    assert locate("postgresql://").identity == locate("postgresql://u@h:7/d").identity


# What is shown


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:a#{SECRET}@127.0.0.1:1/d",
        f"postgresql://u:a?{SECRET}@127.0.0.1:1/d",
        f"postgresql://u:a/{SECRET}@127.0.0.1:1/d",
        f"postgresql://u:1/{SECRET}@127.0.0.1:1/d",
        f"postgresql://u:a@{SECRET}@127.0.0.1:1/d",
        f"postgresql://u:{SECRET}%@127.0.0.1:1/d",
        f"postgresql://u:{SECRET}/d",
        f"postgresql://u@127.0.0.1:1?password=a@{SECRET}",
        f"postgresql://127.0.0.1:1?password=a@{SECRET}",
        f"postgresql://u@127.0.0.1:1/d?password=a%{SECRET}",
        f"postgresql://u@127.0.0.1:1/d?password={SECRET}%E4",
        f"postgresql://u@127.0.0.1:1/d?{SECRET}",
        f"postgresql://u@127.0.0.1:1/d?scram_client_key={SECRET}",
        f"postgresql://u@127.0.0.1:1/d?oauth_client_secret={SECRET}",
        f"postgresql://u:{SECRET}@127.0.0.1:1/d?colour=red",
        f"postgresql:/u:{SECRET}@127.0.0.1:1/d",
        f"postgresql+x:{SECRET}://127.0.0.1:1/d",
        f"host=127.0.0.1 port=1 password={SECRET}",
        f"host=127.0.0.1 port=1 password=a://{SECRET}",
        f"sqlite://u:{SECRET}@h/d",
        f"sqlite:///d?key={SECRET}",
    ],
)
def test_what_may_be_a_password_is_shown_to_nobody(url: str) -> None:
    """Neither of a URL that leads nowhere, nor of one that cannot be meant."""
    with pytest.raises((UsageError, StoreError)) as caught:
        Database.open(url)
    assert SECRET not in str(caught.value)


def test_a_name_that_libpq_does_not_know_is_said() -> None:
    """Beside a secret too: it is a mistake in writing."""
    with pytest.raises(StoreError, match='invalid URI query parameter: "colour"'):
        Database.open(f"postgresql://u:{SECRET}@h/d?colour=red")


def test_what_is_no_secret_is_shown() -> None:
    """As it was written."""
    url = "postgresql://u@h1:1,[::1]/d?sslmode=require&application_name=a+b&schema=jobs"
    assert locate(url.replace("u@", "u:secret@") + "&sslpassword=x").for_people == url
