"""What ``connection=`` takes: a connection of the caller's own, to write on inside their transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import sqlite3

    import psycopg
    import sqlalchemy
    from sqlalchemy.ext import asyncio
    from sqlalchemy.orm import Session, scoped_session


class DjangoConnection(Protocol):
    """``django.db.connection``, as far as we look at it."""

    connection: Any

    def ensure_connection(self) -> None:
        """Open the driver's connection, if it is not."""


OwnConnection: TypeAlias = (
    "sqlalchemy.Connection | Session | scoped_session[Any] | psycopg.Connection[Any] | sqlite3.Connection"
    " | DjangoConnection"
)
"""A connection to the app's database, or a session."""

OwnAsyncConnection: TypeAlias = (
    "asyncio.AsyncConnection | asyncio.AsyncSession | asyncio.async_scoped_session[Any]"
    " | psycopg.AsyncConnection[Any]"
)
"""The same for calls that are awaited."""
