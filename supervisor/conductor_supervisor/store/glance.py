"""One question for what a supervisor looks at again and again, and mostly finds nothing new of."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, exists, func, select

from conductor_protocol.units import Instant
from conductor_supervisor.store.executions import is_scheduled, is_to_be_cancelled
from conductor_supervisor.store.schema import executions, pauses


class Glance(NamedTuple):
    """What there is to be seen."""

    next_due: Instant | None
    """When the next scheduled execution is due; None if there is none."""
    cancels: bool
    """Somebody wants something cancelled that this supervisor runs."""
    pauses: bool
    """Something is paused."""


def glance(connection: Connection, supervisor: str) -> Glance:
    """See in one round trip what is worth a question of its own."""
    return Glance(*connection.execute(_GLANCE, {"by": supervisor}).one())


_GLANCE = select(
    select(func.min(executions.c.due_at)).where(is_scheduled).scalar_subquery(),
    exists().where(is_to_be_cancelled, executions.c.supervisor == bindparam("by")),
    exists().select_from(pauses),
)
