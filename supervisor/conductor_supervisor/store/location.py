"""What a database URL means. No SQLAlchemy here: a command that needs only the runtime folder stays quick."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from msgspec import Struct

from conductor_protocol.errors import UsageError

DEFAULT_SCHEMA = "conductor"
"""PostgreSQL schema of Conductor's tables, where the URL names no other."""

_EXAMPLE = (
    'write "sqlite:///conductor.db" (a relative path), "sqlite:////var/lib/conductor.db" (an absolute one) '
    'or "postgresql://user@host/database"'
)
_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
_SCHEMA = "schema"
"""The one parameter of a PostgreSQL URL that is ours; all others are libpq's."""

_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,49}")
_SECRETS = ("password", "sslpassword", "passfile", "sslkey")


class SqliteLocation(Struct, frozen=True):
    """A SQLite database."""

    path: Path
    """Absolute, links resolved: every process names the same file alike."""

    @property
    def identity(self) -> str:
        """The text that stands for this database wherever one has to be told from another."""
        return str(self.path)

    @property
    def for_people(self) -> str:
        """The URL as it may be shown and logged."""
        return f"sqlite:///{self.path}"


class PostgresLocation(Struct, frozen=True):
    """A schema in a PostgreSQL database."""

    uri: str
    """What libpq is given: a connection URI, perhaps with a password in it."""
    schema: str

    @property
    def identity(self) -> str:
        """The text that stands for this schema: not who connects, or how, but to what."""
        parts = urlsplit(self.uri)
        where = parts.netloc.rpartition("@")[2]
        told = dict(parse_qsl(parts.query))
        return f"postgresql://{where}{parts.path}?{told.get('host', '')}&{told.get('port', '')}&{self.schema}"

    @property
    def has_password(self) -> bool:
        """Whether there is a secret in the URL."""
        parts = urlsplit(self.uri)
        return ":" in parts.netloc.rpartition("@")[0] or any(name in parts.query for name in _SECRETS)

    @property
    def for_people(self) -> str:
        """The URL without secrets, as it may be shown and logged."""
        parts = urlsplit(self.uri)
        login, at, where = parts.netloc.rpartition("@")
        user = login.partition(":")[0]
        told = [(name, value) for name, value in parse_qsl(parts.query) if name not in _SECRETS]
        if self.schema != DEFAULT_SCHEMA:
            told.append((_SCHEMA, self.schema))
        query = f"?{urlencode(told, safe='/')}" if told else ""
        return f"postgresql://{user}{at}{where}{parts.path}{query}"


Location: TypeAlias = SqliteLocation | PostgresLocation


def locate(url: str) -> Location:
    """Read a database URL.

    :raises UsageError: if it is not one, or names a database that processes cannot share.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(f"database: expected a URL, got {url!r}; {_EXAMPLE}")
    if scheme in _POSTGRESQL:
        return _postgres(rest)
    if scheme.startswith("postgresql+"):
        raise UsageError(
            f'database: Conductor speaks to PostgreSQL by psycopg 3, and does not know "{scheme}:"; '
            'write "postgresql://" instead'
        )
    if scheme not in _SQLITE:
        raise UsageError(
            f'database: expected a URL that begins with "sqlite:" or "postgresql:", got "{scheme}:"; '
            f"{_EXAMPLE}"
        )
    return SqliteLocation(_sqlite_path(url, rest))


def _sqlite_path(url: str, rest: str) -> Path:
    if rest in ("", "/", "/:memory:"):
        raise UsageError(
            f"database: {url!r} is a database in memory, which the supervisor, its commands and your clients "
            f"cannot share; {_EXAMPLE}"
        )
    if not rest.startswith("/"):
        raise UsageError(f"database: {url!r} has two slashes where three are needed; {_EXAMPLE}")
    if "?" in rest:
        raise UsageError(f"database: options after the path are not understood, got {url!r}; {_EXAMPLE}")
    return Path(rest[1:]).resolve()


def _postgres(rest: str) -> PostgresLocation:
    try:
        parts = urlsplit(f"postgresql://{rest}")
    except ValueError as error:  # a bracket of an IPv6 address that is not closed, for one
        raise UsageError(f"database: this is no URL: {error}; {_EXAMPLE}") from None
    told = parse_qsl(parts.query, keep_blank_values=True)
    schemas = [value for name, value in told if name == _SCHEMA]
    schema = schemas[-1] if schemas else DEFAULT_SCHEMA
    if not _SCHEMA_NAME.fullmatch(schema):
        raise UsageError(
            f"database: schema: expected at most 50 small letters, digits and '_', got {unquote(schema)!r}; "
            f'write "?schema={DEFAULT_SCHEMA}" or leave it out'
        )
    return PostgresLocation(_without_schema(parts, told), schema)


def _without_schema(parts: SplitResult, told: list[tuple[str, str]]) -> str:
    query = "&".join(f"{quote(name)}={quote(value, safe='/')}" for name, value in told if name != _SCHEMA)
    return f"postgresql://{parts.netloc}{parts.path}{f'?{query}' if query else ''}"
