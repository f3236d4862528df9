"""What a database URL means. No SQLAlchemy here: a command that needs only the runtime folder stays quick."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from conductor_protocol.errors import UsageError
from conductor_supervisor.errors import StoreError

_EXAMPLE = (
    'write "sqlite:///conductor.db" (a relative path) or "sqlite:////var/lib/conductor.db" (an absolute one)'
)
_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgres")


class Location(Struct, frozen=True):
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


def locate(url: str) -> Location:
    """Read a database URL.

    :raises UsageError: if it is not one, or names a database that processes cannot share.
    :raises StoreError: if this version cannot use such a database.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(f"database: expected a URL, got {url!r}; {_EXAMPLE}")
    if scheme.split("+")[0] in _POSTGRESQL:
        raise StoreError(f"PostgreSQL support is not in this version; {_EXAMPLE}")
    if scheme not in _SQLITE:
        raise UsageError(f'database: expected a URL that begins with "sqlite:", got "{scheme}:"; {_EXAMPLE}')
    return Location(_sqlite_path(url, rest))


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
