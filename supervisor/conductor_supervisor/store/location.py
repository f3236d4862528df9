"""What a database URL means. No SQLAlchemy here: a command that needs only the runtime folder stays quick."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from msgspec import Struct, structs

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import is_storable
from conductor_supervisor.store.libpq import ConnectionUri, name_of

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

_UTF8 = re.compile("utf-?8", re.IGNORECASE)
_RESERVED = re.compile("pg_.*|information_schema")
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,49}")
ESCAPES = "in names and passwords write the characters : / ? # [ ] @ % as %3A %2F %3F %23 %5B %5D %40 %25"
"""What to write where libpq's URIs use a character for something else."""

_SHOWN = frozenset(
    {
        "application_name",
        "channel_binding",
        "connect_timeout",
        "dbname",
        "gssencmode",
        "host",
        "hostaddr",
        "load_balance_hosts",
        "port",
        "service",
        "sslmode",
        "target_session_attrs",
        "user",
    }
)
"""Parameters that are known to be no secret: the others are shown to nobody."""

_DRIVER = re.compile(r"postgresql\+\w+", re.ASCII)
_PLAIN = re.compile(r"[a-z0-9+]+:|(sqlite:/*)?[\w./~ -]*")
"""What can be shown of something that is no URL: there is no place in it for a password."""


class SqliteLocation(Struct, frozen=True):
    """A SQLite database."""

    path: Path
    """Absolute, links resolved: every process names the same file alike."""

    @property
    def identity(self) -> str:
        """The text that stands for this database wherever one has to be told from another."""
        return str(self.path)

    @property
    def lock(self) -> Path:
        """The file beside it that its supervisor locks."""
        return self.path.with_name(f"{self.path.name}-lock")

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
        """The text that stands for this schema: not who connects, or how, but to what.

        That may hang on the environment, as far as libpq uses it. Two texts may stand for one schema, if its
        server has several names; one text never stands for two.
        """
        uri = self._parts
        database = quote(uri.database, safe="")
        return f"postgresql://{uri.server}/{database}?{uri.address}&{uri.service}&{self.schema}"

    @property
    def for_people(self) -> str:
        """The URL as it may be shown and logged: only what is known to be no secret."""
        told = [each for each in self._parts.parameters if name_of(each) in _SHOWN]
        if self.schema != DEFAULT_SCHEMA:
            told.append(f"{_SCHEMA}={self.schema}")
        return str(structs.replace(self._parts, password=None, parameters=tuple(told)))

    @property
    def parameter_names(self) -> frozenset[str]:
        """The names of libpq's parameters that are given."""
        return frozenset(map(name_of, self._parts.parameters))

    @property
    def _parts(self) -> ConnectionUri:
        return ConnectionUri.read(self.uri.partition("://")[2])


Location: TypeAlias = SqliteLocation | PostgresLocation


def locate(url: str) -> Location:
    """Read a database URL.

    :raises UsageError: if it is not one, or names a database that processes cannot share. The message shows
        nothing that may be a password.
    """
    if not is_storable(url):
        raise UsageError(f"database: expected a URL in UTF-8, without zeros; {_EXAMPLE}")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(f"database: expected a URL, got {_shown(url)}; {_EXAMPLE}")
    if scheme in _POSTGRESQL:
        return _postgres(rest)
    if scheme.startswith("postgresql+"):
        driver = repr(scheme) if _DRIVER.fullmatch(scheme) else _shown(scheme)
        raise UsageError(
            f"database: Conductor speaks to PostgreSQL by psycopg 3, and does not know {driver}; "
            'write "postgresql://" instead'
        )
    if scheme not in _SQLITE:
        raise UsageError(
            'database: expected a URL that begins with "sqlite:" or "postgresql:", '
            f"got {_shown(f'{scheme}:')}; {_EXAMPLE}"
        )
    return SqliteLocation(_sqlite_path(url, rest))


def _sqlite_path(url: str, rest: str) -> Path:
    if rest in ("", "/", "/:memory:"):
        raise UsageError(
            f"database: {url!r} is a database in memory, which the supervisor, its commands and your clients "
            f"cannot share; {_EXAMPLE}"
        )
    if not rest.startswith("/"):
        raise UsageError(f"database: two slashes where three are needed, got {_shown(url)}; {_EXAMPLE}")
    if "?" in rest:
        before, _, _ = url.partition("?")
        raise UsageError(f"database: options after the path are not understood: {_shown(before)}; {_EXAMPLE}")
    try:
        path = Path(rest[1:]).resolve()
        str(path).encode()
    except UnicodeEncodeError:  # of the current folder
        raise UsageError("database: expected a path in UTF-8; write an absolute one") from None
    except (
        OSError,
        RuntimeError,
    ) as error:  # too long, closed to us, or, until Python 3.13, links in a circle
        raise UsageError(f"database: the path {_shown(url)} cannot be followed: {error}") from None
    return path


def _postgres(rest: str) -> PostgresLocation:
    try:
        uri = ConnectionUri.read(rest)
    except ValueError as error:
        raise UsageError(f"database: this is no URL: {error}; {ESCAPES}; {_EXAMPLE}") from None
    encoding = uri.parameter("client_encoding")
    if encoding is not None and not _UTF8.fullmatch(encoding):
        raise UsageError(
            f"database: client_encoding: connections use UTF8 alone, got {encoding!r}; leave it out"
        )
    given = uri.parameter(_SCHEMA)
    schema = DEFAULT_SCHEMA if given is None else given
    if not _SCHEMA_NAME.fullmatch(schema):
        raise UsageError(
            f"database: schema: expected at most 50 small letters, digits and '_', got {schema!r}; "
            f'write "?schema={DEFAULT_SCHEMA}" or leave it out'
        )
    if _RESERVED.fullmatch(schema):
        raise UsageError(f"database: schema: {schema!r} is one of PostgreSQL's own; name another")
    libpqs = tuple(each for each in uri.parameters if name_of(each) != _SCHEMA)
    return PostgresLocation(str(structs.replace(uri, parameters=libpqs)), schema)


def _shown(text: str) -> str:
    """Return what somebody wrote, unless there may be a password in it."""
    return repr(text) if _PLAIN.fullmatch(text) else "something that is not shown, as a password may be in it"
