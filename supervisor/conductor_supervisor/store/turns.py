"""Turns on a connection that several threads or tasks of the caller's share.

Each writes in a savepoint, or a short transaction, of its own. If two were open at once, undoing one would
undo what the other has been told is written.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.util import await_only

L = TypeVar("L")


@dataclass(slots=True)
class _Queue(Generic[L]):
    """Those who write on one connection, or wait for it."""

    lock: L
    length: int = 0


class _Queues(Generic[L]):
    """By the connection's identity, which is its own for as long as anybody stands in its queue."""

    def __init__(self, new_lock: Callable[[], L]) -> None:
        self._new_lock = new_lock
        self._guard = threading.Lock()
        self._queues: dict[int, _Queue[L]] = {}

    @contextmanager
    def standing(self, driver: object) -> Iterator[L]:
        """Stand in a connection's queue."""
        with self._guard:
            queue = self._queues.setdefault(id(driver), _Queue(self._new_lock()))
            queue.length += 1
        try:
            yield queue.lock
        finally:
            with self._guard:
                queue.length -= 1
                if not queue.length:
                    del self._queues[id(driver)]

    def begin_anew(self) -> None:
        """On the child's side of a fork: nobody stands anywhere."""
        self._guard = threading.Lock()
        self._queues.clear()


_of_threads: _Queues[threading.Lock] = _Queues(threading.Lock)
_of_tasks: _Queues[asyncio.Lock] = _Queues(asyncio.Lock)
os.register_at_fork(after_in_child=_of_threads.begin_anew)
os.register_at_fork(after_in_child=_of_tasks.begin_anew)


@contextmanager
def turn(driver: object) -> Iterator[None]:
    """Wait until no other thread writes on this connection; have the others wait meanwhile."""
    with _of_threads.standing(driver) as lock, lock:
        yield


@contextmanager
def awaited_turn(driver: object) -> Iterator[None]:
    """Wait, in a greenlet, until no other task writes on this connection."""
    with _of_tasks.standing(driver) as lock:
        await_only(lock.acquire())
        try:
            yield
        finally:
            lock.release()
