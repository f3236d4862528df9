"""Time, chance, and the events to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulated.witness import Witness
from simulated.workload import BEGIN

if TYPE_CHECKING:
    from simulated.runners import SimulatedRunner
    from simulated.surroundings import SimulatedSupervisor

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random

from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.aftermath import Aftermath
from conductor_supervisor.store.database import Database


class SupervisorDied(BaseException):
    """The simulated end of the supervisor's process, wherever it is."""


class World:
    """Time, chance and what will happen. It stands still while the supervisor's loop acts."""

    def __init__(self, seed: int, database: Database) -> None:
        self.random = Random(seed)
        self.database = database
        self.clock = WorldClock(self)
        self.now = 0.0
        """The monotonic clock, in seconds."""
        self.leapt = 0.0
        """Seconds by which the wall clock has run ahead of the monotonic one."""
        self.calm = False
        """From here on nothing goes wrong any more."""
        self.woken = False
        """Something waits for the supervisor's loop."""
        self.no_renewals_until = 0.0
        """Until then the database takes no renewal of the lease."""
        self.lease_ends = 0.0
        """When others might take what the supervisor holds."""
        self.supervisor: SimulatedSupervisor | None = None
        self.left = Aftermath()
        """What the last supervisor's death has left in the runtime folder."""
        self.runners: list[SimulatedRunner] = []
        """Those whose process lives."""
        self.witness = Witness(self)
        self.history: deque[str] = deque(maxlen=400)
        """What happened last, for whoever looks into a failure."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen later."""
        heappush(self._events, (self.now + seconds, next(self._order), act))

    def sleep(self, until: float) -> None:
        """Let the world go on until a moment, or until something waits for the loop."""
        while not self.woken and self._events and self._events[0][0] <= until:
            self._happen()
        if not self.woken:
            self.now = max(self.now, until)
        self.woken = False
        if self.random.random() < 0.1:
            self.linger(self.delay())

    def linger(self, seconds: float) -> None:
        """Let the world go on for a while, whatever waits."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self._happen()
        self.now = until

    def _happen(self) -> None:
        self.now, _, act = heappop(self._events)
        act()

    def chance(self, probability: float) -> bool:
        """Decide whether something goes wrong; nothing does once it is calm."""
        return not self.calm and self.random.random() < probability

    def delay(self) -> float:
        """Return how long something takes on its way: mostly nothing, sometimes long."""
        return self.random.choice((0.0001, 0.0003, 0.001, 0.001, 0.003, 0.015))

    def note(self, what: str) -> None:
        """Remember what happened."""
        self.history.append(f"{self.now:9.4f} {what}")


class WorldClock:
    """The wall clock, for the supervisor's :class:`~conductor_supervisor.clock.Clock`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> Instant:
        """Return the present moment."""
        return BEGIN + int((self._world.now + self._world.leapt) * MICROSECONDS)


class WorldTime:
    """What the loop's modules know as ``time``."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        """Return the world's time."""
        return self._world.now
