"""Every boundary at which something may happen to a process, made from the code: none can be forgotten.

A boundary is a kind of write, or of message, and a moment of it. The kinds are the members of the unions that
the code itself goes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product, zip_longest
from random import Random
from typing import Literal, NamedTuple, get_args

from orders import MOMENTS, RECEIVING, SENDING, Room, boundary

from conductor_protocol.manifest import Isolation
from conductor_protocol.messages import FromRunner, ToRunner
from conductor_supervisor.writes import GiveUpLease, RenewLease, TakeOver, Write

PREPARE = "Prepare"
"""What a supervisor writes before its loop begins, in one transaction: it is no member of the union."""

WRITES = (PREPARE, *(kind.__name__ for kind in get_args(Write)))
OF_SEVERAL = frozenset(kind.__name__ for kind in (RenewLease, TakeOver, GiveUpLease))
"""Writes that are made only where supervisors share a database."""

SENT = tuple(kind.__name__ for kind in get_args(FromRunner))
RECEIVED = tuple(kind.__name__ for kind in get_args(ToRunner))

NEVER = {"StepRefused": "the store takes every step that a runner may send"}
"""Messages that no workload brings about, and why."""

ONLY_SHARED = frozenset({"Interrupt", "Interrupted"})
"""Messages of runners that run several executions at once."""

NOT_SHARED = frozenset({"Recall", "Returned"})
"""A shared runner begins all that it gets."""

ONLY_LEASED = frozenset({"LiveOn"})
"""Messages that need a lease."""

Place = Literal["sqlite", "postgresql"]

Deed = Literal[
    "SIGKILL",
    "SIGSTOP for a moment",
    "SIGSTOP for longer than the lease",
    "SIGSEGV",
    "the server is killed",
    "the server is stopped for a moment",
    "the connection is cut",
    "the connection is frozen for a moment",
    "the connection is frozen for longer than the lease",
    "the answer to a commit is lost",
]

OF_CONNECTIONS: tuple[Deed, ...] = (
    "the connection is cut",
    "the answer to a commit is lost",
    "the connection is frozen for a moment",
    "the connection is frozen for longer than the lease",
)
STOPS: tuple[Deed, ...] = ("SIGSTOP for a moment", "SIGSTOP for longer than the lease")
DEEDS: dict[tuple[Room, Place], tuple[Deed, ...]] = {
    ("supervisor", "sqlite"): ("SIGKILL", *STOPS),
    ("supervisor", "postgresql"): (
        "SIGKILL",
        *STOPS,
        "the server is killed",
        "the server is stopped for a moment",
        *OF_CONNECTIONS,
    ),
    ("runner", "sqlite"): ("SIGKILL", "SIGSEGV", *STOPS),
    ("runner", "postgresql"): ("SIGKILL", "SIGSEGV", *STOPS),
}
"""What may happen to whom."""


class Cell(NamedTuple):
    """One square of the matrix."""

    room: Room
    kind: str
    moment: str
    deed: Deed

    def __str__(self) -> str:
        return f"{self.deed}: {boundary(self.kind, self.moment)} ({self.room})"


class Deck(NamedTuple):
    """One part of the matrix: its cells can be met in one workload."""

    room: Room
    place: Place
    isolation: Isolation
    """Of the tasks, where what happens is to happen to runners; else the isolations take turns."""

    def cells(self) -> list[Cell]:
        """Return the cells, dealt so that every kind comes once before any comes again."""
        deals = [self._deal(kind, moments) for kind, moments in self._kinds()]
        Random(str(self)).shuffle(deals)
        return [cell for turn in zip_longest(*deals) for cell in turn if cell is not None]

    def _deal(self, kind: str, moments: Sequence[str]) -> list[Cell]:
        dealt = [
            Cell(self.room, kind, moment, deed)
            for moment, deed in product(moments, DEEDS[self.room, self.place])
        ]
        Random(f"{self} {kind}").shuffle(dealt)
        return dealt

    def _kinds(self) -> list[tuple[str, Sequence[str]]]:
        if self.room == "supervisor":
            return [
                (kind, MOMENTS) for kind in WRITES if self.place == "postgresql" or kind not in OF_SEVERAL
            ]
        left_out = {
            *NEVER,
            *(NOT_SHARED if self.isolation == "shared" else ONLY_SHARED),
            *(() if self.place == "postgresql" else ONLY_LEASED),
        }
        kinds = [*((kind, SENDING) for kind in SENT), *((kind, RECEIVING) for kind in RECEIVED)]
        return [(kind, moments) for kind, moments in kinds if kind not in left_out]


DECKS = (
    Deck("supervisor", "postgresql", "runner"),
    Deck("supervisor", "sqlite", "runner"),
    Deck("runner", "postgresql", "runner"),
    Deck("runner", "sqlite", "shared"),
    Deck("runner", "sqlite", "runner"),
    Deck("runner", "postgresql", "shared"),
)
"""The whole matrix."""
