"""Orders: what is to befall a process, and at which boundary of its work.

The test lays an order into the project's folder. The first process that comes to the order's boundary, as
often as it says, takes it: by renaming it, so no other can. It tells the test where it stands, and then does
to itself what is ordered, or waits until the test has done something to the world around it. Nothing of this
is in Conductor's own code: the launchers beside this module wrap it where a test starts it. Runners import
this, so it imports little.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

Room = Literal["supervisor", "runner"]

Deed = Literal["SIGKILL", "SIGSTOP", "SIGSEGV", "wait"]

MOMENTS = ("before the transaction", "before the commit", "after the commit")
"""Of a write. After the commit, and before what follows from it."""

SENDING = ("before it is sent", "after it is sent")
RECEIVING = ("after it is received",)
"""Of a message, as the runner sees it. After it is received, and before it is heeded."""

LONGEST_WAIT = 60.0
"""Seconds after which a process goes on though the test has not said so: it has failed by then."""


def boundary(kind: str, moment: str) -> str:
    """Return the name of a boundary: a moment of a kind of write, or of message."""
    return f"{kind} {moment}"


class Order(NamedTuple):
    """One order. ``number`` tells it from those before it."""

    number: int
    room: Room
    boundary: str
    """What, and at which moment, as in ``RecordStep before the commit``."""
    time: int
    """The boundary is passed so many times, less one, by a process before it strikes."""
    deed: Deed


class Taken(NamedTuple):
    """Who has taken an order."""

    pid: int
    at: float
    """By ``time.monotonic()``."""


class Orders:
    """The orders in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = folder / "order"
        self._passed: Counter[int] = Counter()

    # The test's side

    def give(self, order: Order) -> None:
        """Lay an order down."""
        _write(self._open, json.dumps(order))

    def taken(self, order: Order) -> Taken | None:
        """Tell who has taken it; None: nobody yet."""
        with suppress(FileNotFoundError):
            return Taken(*json.loads(self._taken(order).read_text()))
        return None

    def go_on(self, order: Order) -> None:
        """Let the process that waits go on."""
        self._go_on(order).touch()

    # The side of those to whom it happens

    def at(self, room: Room, boundary: str) -> None:
        """Say where we are. We may not return from here, or not soon."""
        order = self._given()
        if order is None or (order.room, order.boundary) != (room, boundary):
            return
        self._passed[order.number] += 1
        if self._passed[order.number] >= order.time and self._take(order):
            self._carry_out(order)

    def wanted(self, room: Room, boundaries: Sequence[str]) -> bool:
        """Tell whether there is an order for one of these boundaries."""
        order = self._given()
        return order is not None and order.room == room and order.boundary in boundaries

    def _given(self) -> Order | None:
        try:
            return Order(*json.loads(self._open.read_text()))
        except FileNotFoundError:
            return None

    def _take(self, order: Order) -> bool:
        try:
            self._open.rename(self._folder / f"order-{order.number}")
        except FileNotFoundError:  # another was quicker
            return False
        _write(self._taken(order), json.dumps(Taken(os.getpid(), time.monotonic())))
        return True

    def _carry_out(self, order: Order) -> None:
        if order.deed == "SIGSEGV":
            ctypes.string_at(0)
        elif order.deed == "wait":
            deadline = time.monotonic() + LONGEST_WAIT
            while not self._go_on(order).exists() and time.monotonic() < deadline:
                time.sleep(0.005)
        else:
            os.kill(os.getpid(), signal.Signals[order.deed])

    def _taken(self, order: Order) -> Path:
        return self._folder / f"order-{order.number}-taken"

    def _go_on(self, order: Order) -> Path:
        return self._folder / f"order-{order.number}-go-on"


def _write(path: Path, text: str) -> None:
    """Write a file all at once."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)
