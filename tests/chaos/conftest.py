"""A database whose server may be killed."""

from __future__ import annotations

import pytest

from testbed.postgresql import PostgresServer


@pytest.fixture
def durable_url(postgres: PostgresServer, postgres_url: str) -> str:
    """The URL of a migrated database in which a commit is one, though the server is killed right after."""
    name = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = on")
    return postgres_url
