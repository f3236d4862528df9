"""``python -m chaos_supervisor``: a supervisor that heeds orders at every boundary of its writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from boundaries import PREPARE
from orders import MOMENTS, Orders, boundary
from sqlalchemy import Connection

from conductor_supervisor import preparing, supervisor
from conductor_supervisor.cli import main
from conductor_supervisor.journal import Journal
from conductor_supervisor.store.leases import LockTime
from conductor_supervisor.writes import Effect, Write

BEFORE, INSIDE, BEHIND = MOMENTS

orders = Orders(Path.cwd())


def pass_all(names: Sequence[str], moment: str) -> None:
    """Pass the boundaries of these writes, each kind once."""
    for name in dict.fromkeys(names):
        orders.at("supervisor", boundary(name, moment))


def kinds(group: Sequence[Write]) -> list[str]:
    """Return the names of what is in a group."""
    return [type(write).__name__ for write in group]


class WatchedJournal(Journal):
    """Passes its boundaries."""

    def _commit(self, group: list[Write], make: Callable[[list[Write]], list[Effect]]) -> list[Effect]:
        pass_all(kinds(group), BEFORE)
        effects = super()._commit(group, make)
        pass_all(kinds(group), BEHIND)
        return effects

    def _apply(self, group: list[Write], lock_time: LockTime, connection: Connection) -> list[Effect]:
        effects = super()._apply(group, lock_time, connection)
        pass_all(kinds(group), INSIDE)
        return effects


def watch() -> None:
    """Put what passes boundaries in the place of what it is made from."""
    supervisor.Journal = WatchedJournal
    begin, declare = preparing.begin, preparing._declare

    def watched_begin(*arguments: Any) -> Any:
        pass_all([PREPARE], BEFORE)
        found = begin(*arguments)
        pass_all([PREPARE], BEHIND)
        return found

    def watched_declare(*arguments: Any) -> Any:
        found = declare(*arguments)
        pass_all([PREPARE], INSIDE)
        return found

    preparing.begin = watched_begin
    preparing._declare = watched_declare


if __name__ == "__main__":
    watch()
    main()
