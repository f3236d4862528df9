"""Where the ready executions of each task begin, as far as a supervisor knows.

PostgreSQL keeps what has left the queue in the index of the queue until nobody's transaction can see it any
more. While somebody holds a transaction open, all that was claimed meanwhile stands in front of what is
ready, and each look from the beginning walks past it. So where a look from the beginning takes long, the next
ones begin at what was claimed last, and the beginning is looked at again so often that this takes a tenth of
the time. What came to stand in front, such as a retry that was due earlier, waits for so long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, tuple_

from conductor_supervisor.store.dialect import AnyRow
from conductor_supervisor.store.queue import IN_ORDER, READY_OF_TASK, SUSPICION, TASKS_READY
from conductor_supervisor.store.schema import executions

SLOW = 0.003
"""Seconds that a look from the beginning may take without being spared."""

SHARE = 10
"""How many times as long as a slow look took it is spared."""

LONGEST = 10.0
"""Seconds that it is spared at most: it may have been slow because the disk stood still."""


@dataclass(slots=True)
class _Mark:
    """The place from which on ready executions of a task are looked for. One that is there itself counts: it
    may have been seen and not claimed.
    """

    priority: int
    due_at: int
    id: str
    until: float
    """When the beginning is to be looked at again."""


class Front:
    """Looks for ready executions. Owned by the thread that claims."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: dict[tuple[str, bool | None], _Mark] = {}
        self._tasks_spared_until = 0.0

    def now(self) -> float:
        """Return the moment by the clock of the looks, a monotonic one."""
        return self._clock()

    def may_have_work(self, connection: Connection, tasks: Sequence[str]) -> set[str]:
        """Return those of the tasks that have ready executions; all of them, where to find out takes long."""
        if self._clock() < self._tasks_spared_until:
            return set(tasks)
        began = self._clock()
        found = set(connection.scalars(TASKS_READY))
        self._tasks_spared_until = self._spared_until(began)
        return found.intersection(tasks)

    def candidates(
        self, connection: Connection, task: str, suspects: bool | None, most: int
    ) -> Sequence[AnyRow]:
        """Return up to ``most`` ready executions of a task, locked, in the queue's order."""
        mark = self._marks.get((task, suspects))
        if mark is None or self._clock() >= mark.until:
            return self._from_the_beginning(connection, task, suspects, most)
        values = {"task": task, "priority": mark.priority, "due": mark.due_at, "id": mark.id}
        found: list[AnyRow] = []
        for stretch in (_ABOVE, _FROM, _BELOW):
            if len(found) < most:
                found += connection.execute(stretch[suspects], values | {"most": most - len(found)})
        return found

    def claimed(self, task: str, suspects: bool | None, last: AnyRow) -> None:
        """Note the last of a task's candidates that was claimed."""
        mark = self._marks.get((task, suspects))
        if mark is not None and last.priority <= mark.priority:
            mark.priority, mark.due_at, mark.id = last.priority, last.due_at, last.id

    def spared_until(self, tasks: Sequence[str]) -> float | None:
        """Return when the beginning of one of these tasks is looked at again, if any is spared now."""
        now = self._clock()
        moments = (mark.until for (task, _), mark in self._marks.items() if task in tasks)
        return min((until for until in moments if now < until), default=None)

    def forget(self) -> None:
        """Begin at the beginning: what was claimed last has not been committed."""
        self._marks.clear()

    def _from_the_beginning(
        self, connection: Connection, task: str, suspects: bool | None, most: int
    ) -> Sequence[AnyRow]:
        began = self._clock()
        found = connection.execute(_FIRST[suspects], {"task": task, "most": most}).all()
        until = self._spared_until(began)
        if until > began and found:
            first = found[0]
            self._marks[task, suspects] = _Mark(first.priority, first.due_at, first.id, until)
        else:
            self._marks.pop((task, suspects), None)
        return found

    def _spared_until(self, began: float) -> float:
        """Return until when a look that began then, and is done now, is to be spared; then: it is not."""
        took = self._clock() - began
        return began + min(took * SHARE, took + LONGEST) if took > SLOW else began


_FIRST = {
    suspects: READY_OF_TASK.where(suspicion)
    .order_by(*IN_ORDER)
    .limit(bindparam("most"))
    .with_for_update(key_share=True, skip_locked=True)
    for suspects, suspicion in SUSPICION.items()
}
_ABOVE = {
    suspects: first.where(executions.c.priority > bindparam("priority")) for suspects, first in _FIRST.items()
}
# Of one priority alone, as only so the place is where a walk along the index can begin.
_FROM = {
    suspects: first.where(
        executions.c.priority == bindparam("priority"),
        tuple_(executions.c.due_at, executions.c.id) >= tuple_(bindparam("due"), bindparam("id")),
    )
    for suspects, first in _FIRST.items()
}
_BELOW = {
    suspects: first.where(executions.c.priority < bindparam("priority")) for suspects, first in _FIRST.items()
}
