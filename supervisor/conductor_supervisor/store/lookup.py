"""Finding executions by a part of their id, for people who type."""

from __future__ import annotations

from sqlalchemy import Connection, select

from conductor_supervisor.store.schema import executions


def ids_ending_in(connection: Connection, suffix: str, at_most: int) -> list[str]:
    """Return ids that end so, the newest first. Reads every id, so it is not for a program's loop."""
    found = (
        select(executions.c.id)
        .where(executions.c.id.endswith(suffix, autoescape=True))
        .order_by(executions.c.id.desc())
        .limit(at_most)
    )
    return list(connection.scalars(found))
