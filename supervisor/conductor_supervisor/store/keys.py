"""Ready executions of a task that limits by key: the first in the queue whose keys have room.

Mostly they are found among the first of the queue. Where all of those have keys that are full, they are
looked up key by key along an index: any number of ready rows of a full key costs nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, not_, or_, select, text

from conductor_protocol.limits import NO_KEY
from conductor_supervisor.store.dialect import AnyRow, as_list, one_of, sql
from conductor_supervisor.store.queue import IN_ORDER, READY_OF_TASK, SUSPICION, is_ready, place, still
from conductor_supervisor.store.schema import executions

LOOKED_AT = 1000
"""Rows at the front of the queue that are looked at before the index of keys is asked."""

KEYS_AT_MOST = 1000
"""Keys that one walk along the index visits."""

CHOICES_AT_MOST = 10
"""Times that one claim chooses anew, because somebody had locked what it chose."""


def candidates(
    connection: Connection, task: str, limit: int, suspects: bool | None, most: int
) -> Sequence[AnyRow]:
    """Return up to ``most`` ready executions, in the queue's order, so that no key runs above the limit.

    The caller holds the task's lock, so what runs is what others have left. What somebody has locked, such as
    a client that cancels it, is passed over; of very much that is locked, some stands in the way for a while.
    """
    look = _Look(connection, task, limit, suspects, _running(connection, task))
    ours: list[AnyRow] = []
    for _ in range(CHOICES_AT_MOST):
        # With more of them each time, so that much that is locked is soon seen.
        chosen = look.first(most + len(look.locked))
        ours = look.lock(chosen)
        if len(ours) == len(chosen):
            break
    return ours[:most]


def any_has_room(connection: Connection, task: str, limit: int, suspects: bool | None) -> bool:
    """Tell whether any ready execution, be it locked by somebody or not, has a key with room."""
    return bool(_Look(connection, task, limit, suspects, _running(connection, task)).first(1))


def held_back(connection: Connection, task: str, limit: int) -> tuple[int, int]:
    """Return how many ready executions have a key that is at the limit, and how many such keys there are."""
    values = {"task": task, "full": as_list(_full(_running(connection, task), limit))}
    waiting, keys = connection.execute(_HELD_BACK, values).one()
    return waiting, keys


def _full(running: Counter[str], limit: int) -> list[str]:
    return [key for key, number in running.items() if number >= limit]


def _running(connection: Connection, task: str) -> Counter[str]:
    return Counter(dict(connection.execute(_RUNNING, {"task": task}).all()))


@dataclass(slots=True)
class _Look:
    """One look at the ready executions of a task."""

    connection: Connection
    task: str
    limit: int
    suspects: bool | None
    running: Counter[str]
    locked: set[str] = field(default_factory=set)
    """What we could not lock."""

    def first(self, most: int) -> list[AnyRow]:
        """Return the first in the queue that fit under the limit and are not known to be locked."""
        return self.fitting(self.front(), most) or self.fitting(self.behind(most), most)

    def lock(self, rows: Sequence[AnyRow]) -> list[AnyRow]:
        """Lock these executions; return those that we could."""
        if not rows:
            return []
        ours = set(self.connection.scalars(_LOCK, {"ids": as_list([row.id for row in rows])}))
        self.locked.update(row.id for row in rows if row.id not in ours)
        return [row for row in rows if row.id in ours]

    def fitting(self, rows: Iterable[AnyRow], most: int) -> list[AnyRow]:
        """Return the first rows that fit under the limit, together with what runs."""
        counted = self.running.copy()
        chosen: list[AnyRow] = []
        for row in rows:
            key = row.concurrency_key or NO_KEY
            if row.id in self.locked:
                continue
            if len(chosen) < most and (key == NO_KEY or counted[key] < self.limit):
                counted[key] += 1
                chosen.append(row)
        return chosen

    def front(self) -> Sequence[AnyRow]:
        """Return what has room among the first of the queue."""
        full = as_list(_full(self.running, self.limit))
        values = {"task": self.task, "full": full, "looked_at": LOOKED_AT}
        return self.connection.execute(_FRONT[self.suspects], values).all()

    def behind(self, most: int) -> list[AnyRow]:
        """Return what is first in the queue for the keys that have room, from wherever it stands."""
        heads = [row for row in self._heads() if self.running[row.concurrency_key] < self.limit]
        heads.sort(key=place)
        most += len(self.locked)  # which may be the first of their keys, and all that these have
        rows = [row for head in heads[:most] for row in self._of_key(head.concurrency_key, most)]
        return sorted(rows, key=place)

    def _heads(self) -> Iterable[AnyRow]:
        """Return the first row of each key; of very many keys, those of some, not always the same."""
        heads = self._walk(NO_KEY)
        if len(heads) == KEYS_AT_MOST and self.running:
            heads += self._walk(random.choice(sorted(self.running)))  # noqa: S311  # spreads, no secret
        return {row.id: row for row in heads}.values()

    def _walk(self, first: str) -> list[AnyRow]:
        values = {"task": self.task, "first": first, "most": KEYS_AT_MOST}
        ids = as_list(list(self.connection.scalars(_WALK[self.suspects], values)))
        return list(self.connection.execute(_ROWS, {"ids": ids}))

    def _of_key(self, key: str, most: int) -> Sequence[AnyRow]:
        room = most if key == NO_KEY else min(most, self.limit - self.running[key] + len(self.locked))
        values = {"task": self.task, "key": key, "room": room}
        return self.connection.execute(_OF_KEY[self.suspects], values).all()


def _walk(suspicion: str) -> sql:
    """Return a query for the id of the first ready row of each key: it jumps from key to key."""
    ready = f"state = 'ready' AND concurrency_key IS NOT NULL AND task = :task AND {suspicion}"
    return sql(
        f"""
        WITH RECURSIVE found(key, number) AS (
            SELECT min(concurrency_key), 1 FROM conductor_executions
            WHERE {ready} AND concurrency_key >= :first
            UNION ALL
            SELECT (SELECT min(concurrency_key) FROM conductor_executions
                    WHERE {ready} AND concurrency_key > found.key), number + 1
            FROM found WHERE found.key IS NOT NULL AND number < :most
        )
        SELECT (SELECT id FROM conductor_executions WHERE {ready} AND concurrency_key = found.key
                ORDER BY priority DESC, due_at, id LIMIT 1)
        FROM found WHERE key IS NOT NULL
        """  # noqa: S608 - conditions of this module
    )


_key = executions.c.concurrency_key
_RUNNING = (
    select(_key, func.count())
    .where(text("state = 'running'"), executions.c.task == bindparam("task"), _key != NO_KEY)
    .group_by(_key)
)
_HELD_BACK = select(func.count(), func.count(_key.distinct())).where(
    is_ready,
    executions.c.task == bindparam("task"),
    text("concurrency_key IS NOT NULL"),
    one_of(_key, "full"),
)
_KEYED = READY_OF_TASK.add_columns(_key)
_ROWS = select(executions.c.id, executions.c.priority, executions.c.due_at, _key).where(
    one_of(executions.c.id, "ids")
)
_LOCK = (
    select(executions.c.id)
    .where(one_of(executions.c.id, "ids"), still("ready"))
    .with_for_update(key_share=True, skip_locked=True)
)


def _front(suspects: bool | None) -> Select[Any]:
    first = _KEYED.where(SUSPICION[suspects]).order_by(*IN_ORDER).limit(bindparam("looked_at")).subquery()
    has_room = or_(first.c.concurrency_key.is_(None), not_(one_of(first.c.concurrency_key, "full")))
    return select(first).where(has_room).order_by(first.c.priority.desc(), first.c.due_at, first.c.id)


def _of_key(suspects: bool | None) -> Select[Any]:
    of_key = _KEYED.where(text("concurrency_key IS NOT NULL"), _key == bindparam("key"), SUSPICION[suspects])
    return of_key.order_by(*IN_ORDER).limit(bindparam("room"))


_FRONT = {suspects: _front(suspects) for suspects in SUSPICION}
_OF_KEY = {suspects: _of_key(suspects) for suspects in SUSPICION}
_WALK = {None: _walk("true"), False: _walk("suspect = 0"), True: _walk("suspect = 1")}
