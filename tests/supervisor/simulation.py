"""A supervisor in a world of its own: simulated time, runners, clients, deaths; everything else is real.

The loop, the dispatcher, the intake, the staff, the rules, the journal's groups and the store on an SQLite
database are the real ones. Simulated is what makes real runs slow and unrepeatable: the clocks, the thread of
the journal, the sockets with their delays, and the runners, who follow the protocol and die whenever chance
says so. All chance comes from one seed, so a seed that fails, fails again.

``World``                time, chance, and the events to come
``SimulatedJournal``     the real groups, committed after delays
``SimulatedRouter``      messages under way, in order on each channel
``SimulatedRunner``      a runner: a handler's script, flight recorder and outbox that tell the truth
``SharedRunner``         the same for many handlers at once, each a ``Strand``
``SimulatedSupervisor``  the real loop, which waits in the world's time
``Witness``              what really happened, and what must never happen
``simulate``             one seed from the first invocation to the last audit
"""

from __future__ import annotations

import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from pathlib import Path
from random import Random
from typing import ClassVar, Literal, TypeAlias, TypeVar

import pytest
from sqlalchemy import Connection, select

from conductor_protocol import messages as m
from conductor_protocol import uptime
from conductor_protocol.codec import pack, unpack_from_runner, unpack_to_runner
from conductor_protocol.conversation import REPLY, Phase, next_phase
from conductor_protocol.manifest import (
    KeyLimitSpec,
    Manifest,
    RateSpec,
    RetrySpec,
    ScheduleSpec,
    TaskSpec,
    WindowSpec,
)
from conductor_protocol.operations import (
    CancelExecution,
    Changed,
    Failure,
    Invoked,
    InvokeMany,
    NewExecution,
    Operation,
    RetryExecution,
)
from conductor_protocol.recorder import Reading
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor import (
    dispatcher,
    endings,
    inquest,
    intake,
    leasing,
    roster,
    staff,
    supervisor,
    watch,
    work,
    writes,
)
from conductor_supervisor.aftermath import Aftermath, understood
from conductor_supervisor.clock import Clock
from conductor_supervisor.generation import tasks_of
from conductor_supervisor.journal import Journal
from conductor_supervisor.lease import Lease
from conductor_supervisor.notify import ServiceManager
from conductor_supervisor.preparing import begin
from conductor_supervisor.processes.spawn import Exit
from conductor_supervisor.roster import Task
from conductor_supervisor.settings import QueueSettings, Settings
from conductor_supervisor.store import attempts, executions, schema, tasks
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.dialect import AnyRow
from conductor_supervisor.store.leases import Member
from conductor_supervisor.store.perform import perform
from conductor_supervisor.supervisor import Supervisor
from conductor_supervisor.writes import Effect

CHAOS = 4.0
"""Seconds in which things go wrong; after them everything goes well until all is settled."""

PATIENCE = 90.0
"""Seconds after which work that is not settled counts as lost."""

CLOSING = 2.0
BEGIN: Instant = 1_799_928_000 * MICROSECONDS - int(CLOSING * MICROSECONDS)
"""Two seconds before a noon in UTC, when the windows of the tasks below change."""

UNDER_WAY = 0.1
"""Seconds from a window's closing in which a handler may still begin, or go on: a message is under way."""

NOTICED = 0.35
"""The same where the wall clock has leapt, which is noticed at the next tick."""

LONGEST_WAIT = 0.6
"""Seconds for which an execution may lie in a runner's hands before it begins, or is recalled."""

LEASE = 0.9
"""Seconds. Without renewals it is lost before a client's mishap is over."""

SLOTS = 4
SHUTDOWN_GRACE = 0.6
CANCEL_GRACE = 0.2
TIMEOUT_GRACE = 0.1
STOP_GRACE = 0.1

Held: TypeAlias = tuple[str, int]
"""An execution and a claim."""

T = TypeVar("T")

_QUICK_RETRY = RetrySpec(delays=(0.0, 0.1, 0.5))
_NOON = WindowSpec(start="12:00", end="12:01")
_MORNING = WindowSpec(start="06:00", end="12:00")
_GRACE = WindowSpec(start="06:00", end="12:00", grace=0.1)

SPECS = {
    spec.name: spec
    for spec in (
        TaskSpec(name="short", retry=_QUICK_RETRY),
        TaskSpec(name="steps", retry=_QUICK_RETRY, concurrency=3),
        TaskSpec(name="mixed", retry=_QUICK_RETRY, concurrency=2),
        TaskSpec(name="noon", retry=_QUICK_RETRY, windows=(_NOON,)),
        TaskSpec(name="morning", retry=_QUICK_RETRY, windows=(_MORNING,)),
        TaskSpec(name="grace", retry=_QUICK_RETRY, windows=(_GRACE,)),
        TaskSpec(name="timed", retry=_QUICK_RETRY, timeout=0.25),
        TaskSpec(name="together", retry=_QUICK_RETRY, isolation="shared"),
        TaskSpec(
            name="limited", retry=_QUICK_RETRY, isolation="shared", concurrency=3, windows=(_GRACE, _NOON)
        ),
        TaskSpec(name="hurried", retry=_QUICK_RETRY, isolation="shared", timeout=0.25),
        TaskSpec(name="media", retry=_QUICK_RETRY, queue="media", concurrency=1),
        TaskSpec(name="keyed", retry=_QUICK_RETRY, concurrency_by_key=KeyLimitSpec(1, "tenant")),
        TaskSpec(name="rated", retry=_QUICK_RETRY, rate=RateSpec(4, 1.0)),
        TaskSpec(name="paced", retry=_QUICK_RETRY, isolation="shared", rate=RateSpec(6, 2.0)),
        TaskSpec(
            name="cron",
            retry=_QUICK_RETRY,
            schedules=(
                ScheduleSpec("noon", "0 12 * * *"),
                ScheduleSpec("later", "1 12 * * *", catch_up="all"),
            ),
        ),
    )
}
INVOCABLE = [name for name in SPECS if name != "cron"]

SETTINGS = Settings(
    app="world:app",
    runners=3,
    slots=SLOTS,
    queues={"media": QueueSettings(runners=1)},
    shutdown_grace=SHUTDOWN_GRACE,
    cancel_grace=CANCEL_GRACE,
    timeout_grace=TIMEOUT_GRACE,
    stop_grace=STOP_GRACE,
)


class Violation(AssertionError):
    """Something happened that must never happen."""


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


# The supervisor's surroundings


ME = Member(id="one", host="here", pid=1, app="world:app", started=0)


def lease_in(world: World) -> Lease:
    """Return a lease that is renewed in the world's time."""
    world.lease_ends = world.now + LEASE
    return Lease(LEASE, world.now)


def renew(world: World, lease: Lease) -> None:
    """Renew the lease, unless the database takes nothing."""
    if world.supervisor is None or (world.now < world.no_renewals_until and not world.calm):
        return
    journal, at = world.supervisor._journal, world.now
    assert isinstance(journal, SimulatedJournal)
    world.lease_ends = at + LEASE  # from here on, or any later moment
    world.after(world.delay(), partial(journal._bring, [partial(lease.renewed, at)]))


class SimulatedJournal(Journal):
    """Commits the real groups in the world's time. A supervisor's death takes what is not committed."""

    def __init__(
        self,
        world: World,
        database: Database,
        clock: Clock,
        changed: Effect,
        member: str | None,
        look_interval: Callable[[], float],
    ) -> None:
        super().__init__(database, clock, changed, member, look_interval)
        self._world = world
        self._committing = False
        self._arrives = 0.0
        self.dead = False

    def hand_over(self) -> None:
        """Give what has been gathered to the store."""
        super().hand_over()
        self._begin()

    def die(self) -> None:
        """End as a thread does whose process ends."""
        self.close(0)

    def close(self, timeout: float) -> bool:
        """Let go of the pipe."""
        self.dead = True
        self._thread.run = lambda: None  # type: ignore[method-assign]
        self._thread.start()
        return super().close(timeout)

    def _begin(self) -> None:
        if not self._committing and not self._writes.empty() and not self.dead:
            self._committing = True
            self._world.after(self._world.delay(), self._commit_group)

    def _commit_group(self) -> None:
        if self.dead:
            return
        group = self._next_group()
        assert group
        effects = self._commit(group)
        self._arrives = max(self._arrives, self._world.now + self._world.delay())
        self._world.after(self._arrives - self._world.now, partial(self._bring, effects))
        self._committing = False
        self._begin()

    def _bring(self, effects: list[Effect]) -> None:
        if not self.dead:
            self._give_back(effects)
            self._world.woken = True


class SimulatedRouter:
    """Messages under way. As the real one: what a runner said before it is forgotten may still arrive."""

    endpoint = "ipc://nowhere"
    offenders: ClassVar[dict[int, str]] = {}  # simulated runners keep to the protocol

    def __init__(self, world: World, _folder: Path) -> None:
        self._world = world
        self._expected: dict[int, bytes] = {}
        self._phases: dict[tuple[int, m.Channel], Phase] = {}
        self._arrived: deque[tuple[int, m.Channel, bytes]] = deque()
        self._outgoing: dict[tuple[int, m.Channel], list[m.ToRunner]] = {}

    def expect(self, runner: int, secret: bytes) -> None:
        """Await a runner that is being born."""
        self._expected[runner] = secret

    def forget(self, runner: int) -> None:
        """Drop whatever a runner that is gone may still have said."""
        del self._expected[runner]
        for channel in ("data", "control"):
            self._phases.pop((runner, channel), None)
            self._outgoing.pop((runner, channel), None)

    def arrive(self, runner: int, channel: m.Channel, frame: bytes) -> None:
        """Take a parcel from the wire."""
        self._arrived.append((runner, channel, frame))
        self._world.woken = True

    def receive(self) -> Iterator[tuple[int, m.Channel, m.FromRunner]]:
        """Give every message that has arrived."""
        while self._arrived:
            number, channel, frame = self._arrived.popleft()
            for message in unpack_from_runner(frame):
                if number in self._expected:
                    self._check_legal(number, channel, message)
                    yield number, channel, message

    def _check_legal(self, number: int, channel: m.Channel, message: m.FromRunner) -> None:
        phase = next_phase(channel, self._phases.get((number, channel), "silent"), message)
        assert phase is not None, f"the simulated runner breaks the protocol: {message}"
        self._phases[number, channel] = phase

    def send(self, runner: int, channel: m.Channel, message: m.ToRunner) -> None:
        """Put a message into the parcel for a runner."""
        if self._phases.get((runner, channel), "silent") != "silent":
            self._outgoing.setdefault((runner, channel), []).append(message)

    def flush(self) -> None:
        """Send every parcel."""
        for runner in self._world.runners:
            for channel in ("data", "control"):
                parcel = self._outgoing.pop((runner.number, channel), None)
                if parcel:
                    runner.wire.to_runner(channel, pack(parcel))
        self._outgoing.clear()

    def requests(self) -> Iterator[tuple[bytes, object]]:
        """Nobody sends commands."""
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


class NoPokes:
    """In place of the socket by which other processes poke the supervisor: the world wakes it."""

    def __init__(self, _folder: Path) -> None:
        pass


class SimulatedSupervisor(Supervisor):
    """The real supervisor, whose waiting lets the world go on."""

    _world: World

    def _wait(self, wake: int) -> None:
        self._world.sleep(self._next_tick)

    def _read_outputs(self) -> None:
        """Nobody prints."""

    def child_died(self) -> None:
        """Hear of a death, as by SIGCHLD."""
        self._child_died = True
        self._world.woken = True

    def terminate(self) -> None:
        """Hear of a SIGTERM."""
        self._signals += 1
        self._world.woken = True

    def poked(self) -> None:
        """Hear that a client has changed the database."""
        self._intake.look()
        self._world.woken = True

    def live(self, world: World) -> None:
        """Run until told to stop and everything is settled."""
        self._world = world
        world.supervisor = self
        self._loop(wake=0)
        world.supervisor = None
        self._journal.close(0)

    def die(self) -> None:
        """End at once: nothing that is not committed will be."""
        journal = self._journal
        assert isinstance(journal, SimulatedJournal)
        journal.die()


# Runners


class Dies(Exception):
    """The process of a simulated runner ends here."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode


class Raises(Exception):
    """The simulated handler raises."""

    def __init__(self, retryable: bool) -> None:
        self.retryable = retryable


class Unwinds(Exception):
    """The simulated handler has been released."""

    def __init__(self, word: m.Word) -> None:
        self.word = word


class Cut(Exception):
    """The simulated handler is interrupted where it is."""


class Silence:
    """What a runner prints: nothing."""

    closed = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return a number of its own."""
        return self._descriptor

    def read_to_end(self) -> None:
        """Nothing was printed."""

    def tail(self) -> str:
        """Nothing was printed."""
        return ""


class SimulatedRecorder:
    """A flight recorder that tells the truth, unless its page is damaged."""

    def __init__(self) -> None:
        self.page: Reading | None = Reading(phase="idle")
        self.kept: list[m.Report] = []
        self.places: dict[int, Reading] = {}

    def read(self) -> Reading | None:
        """Return what was noted last."""
        return self.page

    def read_places(self) -> list[Reading] | None:
        """Return what was noted last of each execution of a shared runner."""
        return None if self.page is None else list(self.places.values())

    def outbox(self) -> list[m.Report]:
        """Return the reports kept."""
        return list(self.kept)


class StrandRecorder(SimulatedRecorder):
    """One place in a shared runner's recorder."""

    def __init__(self, whole: SimulatedRecorder, number: int) -> None:
        self._whole = whole
        self._number = number
        self.kept = whole.kept

    def __setattr__(self, name: str, value: object) -> None:
        if name == "page":
            assert isinstance(value, Reading)
            self._whole.places.pop(self._number, None)
            if value.phase != "idle":
                self._whole.places[self._number] = value
        else:
            super().__setattr__(name, value)


class NoLeftovers:
    """Simulated runners start nothing."""

    def end(self, _wanted: str, _ours: object, _forked_by: object = ()) -> int:
        """Find nobody."""
        return 0

    def reap(self, _ours: object) -> dict[int, Exit]:
        """Find nobody."""
        return {}


class Wire:
    """The two channels of one runner: whatever is sent on one of them arrives in order, later."""

    def __init__(self, world: World, runner: SimulatedRunner) -> None:
        self._world = world
        self._runner = runner
        self._arrives: dict[tuple[str, m.Channel], float] = {}

    def to_runner(self, channel: m.Channel, frame: bytes) -> None:
        """Carry a parcel to the runner."""
        self._carry(("to", channel), partial(self._runner.hear, channel, frame))

    def to_supervisor(self, channel: m.Channel, message: m.FromRunner) -> None:
        """Carry a message to the supervisor that the runner was born of."""
        frame = pack([message])
        self._carry(
            ("from", channel), partial(self._runner.router.arrive, self._runner.number, channel, frame)
        )

    def _carry(self, way: tuple[str, m.Channel], arrive: Callable[[], None]) -> None:
        moment = max(self._arrives.get(way, 0.0), self._world.now + self._world.delay())
        self._arrives[way] = moment
        self._world.after(moment - self._world.now, arrive)


Turn: TypeAlias = Generator[float | None, None, T]
"""A part of a runner's life. It yields the seconds that it takes, or None to wait for a message."""


class SimulatedRunner:
    """A runner's process, in place of ``processes.spawn.Child``; its life is one generator."""

    def __init__(self, world: World, number: int, **_birth: object) -> None:
        if world.chance(0.01):
            raise OSError("no more processes")
        assert world.supervisor is not None
        self._world = world
        self.number = number
        self.router: SimulatedRouter = world.supervisor._router  # type: ignore[assignment]
        self.secret = b"secret"
        self.pid = 10_000 + number
        self.mark = ""
        self.recorder = SimulatedRecorder()
        self.stdout, self.stderr = Silence(2 * number), Silence(2 * number + 1)
        self.wire = Wire(world, self)
        self.current: m.Assignment | None = None
        """What it runs, from before the handler begins until it is reported."""
        self.order_to_die: signal.Signals | None = None
        """The first signal that the supervisor sent."""
        self._exit: Exit | None = None
        self._died_with: list[Held] = []
        self._queue: deque[m.Assignment] = deque()
        self._inbox: deque[m.ToRunner] = deque()
        """What has arrived on the data channel and has not been read."""
        self._wanted_to_stop: set[Held] = set()
        self._stop = False
        self._has_left = False
        self._worn = False
        self._seq = 0
        self._listening = False
        self._live_until = inf
        self._life = self._live()
        world.runners.append(self)
        self._go_on()

    # What the supervisor does with a child

    def reap(self) -> Exit | None:
        """Return how the process ended, or None if it lives."""
        if self._exit is not None and self._world.supervisor is not None:
            if self.recorder.page is None:
                self._world.witness.died_in_doubt(_hands(self._world.supervisor)[self.number])
            if self._world.supervisor._roster.runners[self.number].stop_order is not None:
                self._world.witness.stopped_meanwhile(self._died_with)
        return self._exit

    def signal_group(self, number: signal.Signals) -> None:
        """Die of it: soon, or for SIGTERM perhaps not at all."""
        self.order_to_die = self.order_to_die or number
        if number == signal.SIGKILL or not self._world.chance(0.3):
            self._world.after(self._world.delay(), partial(self.die, -number))

    def bind_group(self) -> None:
        """It starts nothing that could outlive it."""

    def ask_for_stacks(self) -> None:
        """Print nothing."""

    def close(self) -> None:
        """Nothing is open."""

    # Dying

    def die(self, returncode: int) -> None:
        """End the process, wherever it is."""
        if self._exit is not None:
            return
        self._world.note(
            f"runner {self.number} dies of {returncode} with {self.current and _held(self.current)}"
        )
        self._exit = Exit(returncode, 1, 0.1)
        self._world.runners.remove(self)
        running = self._running()
        self._died_with = [_held(assignment) for assignment in running]
        for assignment in running:
            self._world.witness.died(assignment, self.order_to_die, among=len(running))
        if self._world.chance(0.1):
            self.recorder.page = None
            self.recorder.kept *= self._world.random.randint(0, 1)
        if self._world.supervisor is not None:
            self._world.after(self._world.delay(), self._world.supervisor.child_died)

    def _running(self) -> list[m.Assignment]:
        return [self.current] if self.current is not None else []

    def vanish(self) -> None:
        """End with the supervisor, with nobody left to ask how."""
        self._exit = Exit(-signal.SIGKILL, 1, 0.1)

    def _may_live(self, until: float | None) -> None:
        """Put the dead-man's timer off. It is the supervisor's doing if it fires."""
        assert until is not None
        self._live_until = until
        self._world.after(max(0.0, until - self._world.now), self._die_unless_told_more)

    def _die_unless_told_more(self) -> None:
        if self._world.now >= self._live_until:
            self.order_to_die = self.order_to_die or signal.SIGKILL
            self.die(-signal.SIGKILL)

    # The control channel: heard at once, whatever the handler does

    def hear(self, channel: m.Channel, frame: bytes) -> None:
        """Take a parcel from the wire."""
        if self._exit is not None:
            return
        for message in unpack_to_runner(frame):
            if channel == "control":
                self._heed(message)
            else:
                self._inbox.append(message)
                for assignment in _assigned(message):
                    self._world.witness.arrives(_held(assignment))
        if self._listening and self._inbox:
            self._listening = False
            self._go_on()

    def _heed(self, message: m.ToRunner) -> None:
        match message:
            case m.Recall():
                for unread in self._inbox:
                    if not self._worn:
                        self._queue.extend(_assigned(unread))
                self._inbox = deque(one for one in self._inbox if not isinstance(one, m.Assign))
                self.wire.to_supervisor("control", m.Returned([_held(one) for one in self._queue]))
                self._queue.clear()
            case m.Cancel() | m.WindowClosed():
                self._wanted_to_stop.add((message.execution, message.claim))
            case m.Welcome():
                self._may_live(message.live_until)
            case m.LiveOn():
                self._may_live(message.until)

    # The life of a runner

    def _go_on(self) -> None:
        if self._exit is not None:
            return
        try:
            wanted = next(self._life)
        except StopIteration:
            self._live_no_more()
        except Dies as death:
            self.die(death.returncode)
        else:
            if wanted is not None:
                self._world.after(wanted, self._go_on)
            elif self._inbox:
                self._world.after(0, self._go_on)
            else:
                self._listening = True

    def _live_no_more(self) -> None:
        self.die(0)

    def _live(self) -> Turn[None]:
        yield self._world.random.choice((0.01, 0.1, 0.2))
        if self._world.chance(0.05):
            raise Dies(1)
        for channel in ("control", "data"):
            self.wire.to_supervisor(
                channel, m.Hello(m.PROTOCOL_VERSION, self.number, self.secret, self.pid, channel)
            )
        self._beat()
        yield from self._serve()
        self._has_left = True
        self.wire.to_supervisor("control", m.Goodbye())
        yield self._world.delay()

    def _serve(self) -> Turn[None]:
        while True:
            while self._queue:
                yield from self._run(self._queue.popleft())
                if not self._worn and self._world.chance(0.02):
                    self._wear_out()
            if self._stop:
                break
            yield from self._read()

    def _beat(self) -> None:
        if self._exit is None and not self._has_left:
            self.wire.to_supervisor("control", m.Heartbeat())
            self._world.after(SETTINGS.heartbeat, self._beat)

    def _wear_out(self) -> None:
        """Begin nothing more, and say so."""
        self._worn = True
        self._queue.clear()
        self.wire.to_supervisor("data", m.Worn("as chance will have it"))

    def _read(self) -> Turn[m.ToRunner]:
        """Wait for a message on the data channel; note what it brings."""
        while not self._inbox:
            yield None
        message = self._inbox.popleft()
        if not self._worn:
            self._queue.extend(_assigned(message))
        if isinstance(message, m.Stop):
            self._stop = True
        return message

    def _run(self, assignment: m.Assignment) -> Turn[None]:
        script = Script(self._world, assignment)
        held = _held(assignment)
        self._world.witness.begins(assignment)
        if assignment.says_began:
            self.wire.to_supervisor("data", m.Began(*held))
        self.current = assignment
        self._note("handler")
        report: m.Report | None = None
        try:
            yield from self._handle(assignment, script)
            report = m.Finished(*held, script.result, script.seconds)
        except Raises as error:
            failure = Failure(type="ValueError", message="as the script says")
            report = m.Failed(*held, failure, error.retryable, None, script.seconds)
        except Unwinds as released:
            if released.word != "abandon":
                report = m.Released(*held, released.word, script.seconds)
        except Cut:
            report = m.Interrupted(*held, script.seconds, "")
        self.current = None
        self._world.witness.ends(assignment, report)
        if report is not None:
            self.recorder.kept.append(report)
            if self._world.chance(0.01):
                raise Dies(-signal.SIGSEGV)
            self.wire.to_supervisor("data", report)
        self.recorder.page = Reading(phase="idle")
        if self._world.chance(0.01):
            raise Dies(-signal.SIGBUS)

    def _handle(self, assignment: m.Assignment, script: Script) -> Turn[None]:
        recorded = {step.name for step in assignment.steps}
        elsewhere = assignment.steps_recorded - len(recorded)
        last = assignment.steps[-1].name if assignment.steps else None
        word: m.Word = "go on"
        for number, action in enumerate(script.actions):
            if word != "go on":
                raise Unwinds(word)
            name = f"step {number}"
            if action.kind == "checkpoint":
                word = (yield from self._ask(assignment, None)).word
                if word != "go on":
                    raise Unwinds(word)
            if action.kind != "step":
                yield action.seconds
            else:
                while elsewhere and name not in recorded:
                    page = yield from self._request(m.LoadSteps, m.StepPage, *_held(assignment), last)
                    if page.word != "go on":
                        raise Unwinds(page.word)
                    recorded |= {step.name for step in page.steps[:elsewhere]}
                    elsewhere -= len(page.steps[:elsewhere])
                    last = page.steps[-1].name
                if name in recorded:
                    continue
                word = (yield from self._ask(assignment, name)).word
                if word != "go on":
                    raise Unwinds(word)
                word = yield from self._step(assignment, name, action)
            if action.dies:
                raise Dies(-signal.SIGSEGV)
        if script.raises is not None:
            raise Raises(script.raises)

    def _step(self, assignment: m.Assignment, name: str, action: Action) -> Turn[m.Word]:
        held = _held(assignment)
        self._world.witness.step_begins(held, name)
        self._note("step", name)
        yield action.seconds
        if action.dies:
            raise Dies(-signal.SIGSEGV)
        result = b"\xff" if action.bad else f'"{name}"'.encode()
        ack = yield from self._request(
            m.StepDone, (m.StepAck, m.StepRefused), *held, name, result, action.seconds, assignment.attempt
        )
        self._note("handler")
        if isinstance(ack, m.StepRefused):
            raise Raises(retryable=True)
        if ack.word == "abandon":
            raise Unwinds("abandon")
        self._world.witness.step_acknowledged(held, name)
        return ack.word

    def _ask(self, assignment: m.Assignment, step: str | None) -> Turn[m.Verdict]:
        verdict = yield from self._request(m.Ask, m.Verdict, *_held(assignment), step)
        if verdict.word == "go on":
            self._world.witness.goes_on(assignment)
        return verdict

    def _request(
        self, kind: Callable[..., m.FromRunner], reply: type[T] | tuple[type[T], ...], *said: object
    ) -> Turn[T]:
        """Ask something and wait for the answer; whoever gives it has all reports that were sent before."""
        self._seq += 1
        before = list(self.recorder.kept)
        request = kind(self._seq, *said)
        self.wire.to_supervisor("data", request)
        while True:
            message = yield from self._read()
            if isinstance(message, reply):
                assert type(message) in REPLY[type(request)]
                assert message.seq == self._seq, f"{message} answers none of our requests"
                self.recorder.kept[:] = [one for one in self.recorder.kept if one not in before]
                return message

    def _note(self, phase: Literal["handler", "step"], step: str | None = None) -> None:
        assert self.current is not None
        self.recorder.page = Reading(
            phase=phase,
            execution=self.current.execution,
            claim=self.current.claim,
            step=step,
            started=self._world.now,
            step_started=self._world.now,
        )


class SharedRunner(SimulatedRunner):
    """A runner that runs all that it is given at once."""

    def __init__(self, world: World, number: int, **birth: object) -> None:
        self.strands: dict[int, Strand] = {}
        self._next_strand = 1
        super().__init__(world, number, **birth)

    def hear(self, channel: m.Channel, frame: bytes) -> None:
        """Take a parcel from the wire."""
        for message in unpack_to_runner(frame):
            if self._exit is not None:
                return
            if channel == "control":
                self._heed(message)
            elif isinstance(message, m.Stop):
                self._stop = True
            elif isinstance(message, m.Assign):
                for assignment in message.assignments:
                    self._begin(assignment)
            elif not isinstance(message, m.Welcome) and message.seq // STRIDE in self.strands:
                self.strands[message.seq // STRIDE].take(message)
        self._wake()

    def _begin(self, assignment: m.Assignment) -> None:
        self._world.witness.arrives(_held(assignment))
        if self._exit is not None:
            return
        others = [strand.assignment for strand in self.strands.values()]
        self._world.witness.shares(assignment, others)
        strand = self.strands[self._next_strand] = Strand(self, self._next_strand, assignment)
        self._next_strand += 1
        strand.begin()

    def _heed(self, message: m.ToRunner) -> None:
        assert not isinstance(message, m.Recall), "nothing of a shared runner waits"
        if isinstance(message, m.Welcome | m.LiveOn):
            super()._heed(message)
        elif isinstance(message, m.Interrupt):
            for strand in list(self.strands.values()):
                if _held(strand.assignment) == (message.execution, message.claim):
                    strand.interrupt()

    def ended(self, number: int) -> None:
        """One of its executions has ended."""
        del self.strands[number]
        self._wake()

    def _serve(self) -> Turn[None]:
        while self.strands or not self._stop:
            yield None

    def _wake(self) -> None:
        if self._listening:
            self._listening = False
            self._go_on()

    def _running(self) -> list[m.Assignment]:
        return [strand.current for strand in self.strands.values() if strand.current is not None]

    def die(self, returncode: int) -> None:
        """End the process with all that is in it."""
        super().die(returncode)
        for strand in self.strands.values():
            strand.vanish()

    def vanish(self) -> None:
        """End with the supervisor."""
        super().vanish()
        for strand in self.strands.values():
            strand.vanish()


STRIDE = 1000
"""Requests that one strand may number."""


class Strand(SimulatedRunner):
    """One execution in a shared runner."""

    def __init__(self, runner: SharedRunner, number: int, assignment: m.Assignment) -> None:
        self._runner = runner
        self._number = number
        self.assignment = assignment
        self._world = runner._world
        self.wire = runner.wire
        self.recorder = StrandRecorder(runner.recorder, number)
        self.current = None
        self._exit = None
        self._queue = deque()
        self._inbox = deque()
        self._worn = self._has_left = False
        self._seq = number * STRIDE
        self._listening = False
        self._life = self._run(assignment)

    def begin(self) -> None:
        """Begin to run."""
        self._go_on()

    def take(self, reply: m.ToRunner) -> None:
        """Take the reply to one of its requests."""
        self._inbox.append(reply)
        if self._listening:
            self._listening = False
            self._go_on()

    def interrupt(self) -> None:
        """End where it is, unless the handler does not let itself be interrupted."""
        if self._exit is not None or self.current is None or self._world.chance(0.3):
            return
        try:
            self._life.throw(Cut())
        except StopIteration:
            self._live_no_more()
        except Dies as death:
            self.die(death.returncode)
        else:
            raise AssertionError("it goes on after its interruption")

    def die(self, returncode: int) -> None:
        """Take all others along."""
        self._runner.die(returncode)

    def _live_no_more(self) -> None:
        self.vanish()
        self._runner.ended(self._number)


def born(world: World, number: int, **birth: object) -> SimulatedRunner:
    """Return a runner of the kind that is wanted."""
    return (SharedRunner if birth["isolation"] == "shared" else SimulatedRunner)(world, number, **birth)


def _held(assignment: m.Assignment) -> Held:
    return assignment.execution, assignment.claim


def _assigned(message: m.ToRunner) -> list[m.Assignment]:
    return message.assignments if isinstance(message, m.Assign) else []


@dataclass
class Action:
    """One thing that a handler does."""

    kind: Literal["compute", "checkpoint", "step"]
    seconds: float
    dies: bool = False
    bad: bool = False
    """The step's result cannot be stored."""


class Script:
    """What one attempt's handler does, by chance."""

    def __init__(self, world: World, assignment: m.Assignment) -> None:
        chance, pick = world.chance, world.random.choice
        long = chance(0.15)
        self.actions = [
            Action(
                kind=pick(_KINDS[assignment.task]),
                seconds=pick((0.1, 0.3, 0.8))
                if long and chance(0.5)
                else pick((0.0001, 0.0005, 0.002, 0.02)),
                dies=chance(0.03),
                bad=chance(0.01),
            )
            for _ in range(_LENGTH[assignment.task])
        ]
        self.raises = world.random.random() < 0.8 if chance(0.15) else None
        """Whether what it raises may be tried again; None: it returns."""
        self.result = b"\xff" if chance(0.01) else b'"done"'
        self.seconds = sum(action.seconds for action in self.actions)


_SHORT = (0.0001, 0.0005, 0.002, 0.02)
_LONG = (0.1, 0.3, 0.8)
_KINDS: dict[str, tuple[Literal["compute", "checkpoint", "step"], ...]] = {
    "short": ("compute",),
    "steps": ("step",),
    "mixed": ("compute", "checkpoint", "step"),
    "noon": ("checkpoint", "step"),
    "morning": ("compute", "step", "checkpoint"),
    "grace": ("compute",),
    "timed": ("step", "compute"),
    "together": ("compute", "step"),
    "limited": ("compute", "checkpoint", "step"),
    "hurried": ("step", "compute"),
    "media": ("step", "checkpoint"),
    "keyed": ("compute", "step"),
    "rated": ("compute", "step"),
    "paced": ("compute", "checkpoint"),
    "cron": ("step",),
}
_LENGTH = {
    "short": 1,
    "steps": 5,
    "mixed": 3,
    "noon": 3,
    "morning": 4,
    "grace": 2,
    "timed": 3,
    "together": 3,
    "limited": 3,
    "hurried": 3,
    "media": 2,
    "keyed": 2,
    "rated": 1,
    "paced": 2,
    "cron": 2,
}


# What really happened


@dataclass(frozen=True)
class Fact:
    """How an attempt ended in its runner, whatever the supervisor made of it."""

    what: Literal["returned", "raised", "released", "cancelled", "abandoned", "interrupted", "died"]
    stopped: bool = False
    """The supervisor had sent a signal before."""
    among: int = 1
    """How many died with it, itself included."""


class Witness:
    """Knows what runners and clients really did, and speaks up when it must not be."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._arrived: dict[Held, float] = {}
        self._live: dict[str, m.Assignment] = {}
        self._begun: set[Held] = set()
        self._acknowledged: set[tuple[str, str]] = set()
        self._facts: dict[Held, Fact] = {}
        self._in_doubt: dict[Held, int] = {}
        """Attempts that were in the hands of a runner whose page was damaged, with its death's number."""
        self._stopped_meanwhile: set[Held] = set()
        self._lost: dict[Held, str] = {}
        """Attempts that were running when the supervisor died, with what is to be stored of them."""
        self._windows = {task.spec.name: task.windows for task in known_tasks().values()}
        self.invoked: set[str] = set()
        self.cancelled: set[str] = set()
        """Executions that a client wanted cancelled, whether or not it came to that."""
        self.retried: dict[str, int] = {}
        """The claim that was the last before a client gave new attempts."""
        self._starts: dict[str, list[float]] = {}
        """When executions of tasks with a rate began."""
        self.leaps: list[tuple[float, float]] = []
        """When the wall clock leapt, and by how much it had run ahead before."""
        self.endings: Counter[str] = Counter()

    def may_begin(self, row: AnyRow) -> Instant:
        """Return when an unfinished execution may begin at the earliest; now, if it runs."""
        if row.state == "running":
            return self._world.clock.now()
        opening = self._windows[row.task].next_opening(max(row.due_at, self._world.clock.now()))
        assert opening is not None
        return opening

    # Runners

    def arrives(self, held: Held) -> None:
        """An execution has come into a runner's hands."""
        self._arrived[held] = self._world.now

    def shares(self, assignment: m.Assignment, others: list[m.Assignment]) -> None:
        """An execution begins in a shared runner, beside others."""
        if len(others) >= SLOTS:
            raise Violation(f"{_held(assignment)} begins beside {len(others)} others")
        if others and (suspects := self._suspects() & {one.execution for one in (assignment, *others)}):
            raise Violation(f"{suspects} are suspects and not alone: {assignment}, {others}")

    def _suspects(self) -> set[str]:
        with self._world.database.reading() as connection:
            return set(connection.scalars(select(_e.id).where(_e.suspect == 1)))

    def begins(self, assignment: m.Assignment) -> None:
        """A handler begins."""
        held, task = _held(assignment), assignment.task
        self._world.note(f"{held} of {task} begins")
        self._under_the_lease(held)
        if assignment.execution in self._live:
            raise Violation(f"{held} begins while {self._live[assignment.execution]} is live")
        again_after_doubt = self._in_doubt.pop(held, None) is not None
        if held in self._begun and not again_after_doubt:
            raise Violation(f"{held} begins a second time under the same claim")
        limit = SPECS[task].concurrency
        running = sum(other.task == task for other in self._live.values())
        if limit is not None and running >= limit:
            raise Violation(f"{held} begins, though {running} of {task} run already")
        self._counts_by_key(assignment)
        self._counts_starts(assignment)
        if not self._open_lately(task):
            raise Violation(f"{held} of {task} begins outside its window")
        if self._world.now - self._arrived[held] > LONGEST_WAIT:
            raise Violation(f"{held} has waited in its runner's hands since {self._arrived[held]}")
        self._begun.add(held)
        self._live[assignment.execution] = assignment

    def _counts_by_key(self, assignment: m.Assignment) -> None:
        by_key = SPECS[assignment.task].concurrency_by_key
        if by_key is None:
            return
        live = [other.execution for other in self._live.values() if other.task == assignment.task]
        keys = [self._key_of(execution) for execution in (assignment.execution, *live)]
        if keys.count(keys[0]) > by_key.most:
            raise Violation(f"{_held(assignment)} begins beside {live}, with the keys {keys}")

    def _key_of(self, execution: str) -> str:
        with self._world.database.reading() as connection:
            key: str = connection.scalars(select(_e.concurrency_key).where(_e.id == execution)).one()
        return key

    def _counts_starts(self, assignment: m.Assignment) -> None:
        """Hold a start against the rate; a wall clock that leaps forward frees places early."""
        rate = SPECS[assignment.task].rate
        if rate is None:
            return
        now = self._world.now
        starts = self._starts.setdefault(assignment.task, [])
        starts.append(now)
        first = max([now - rate.seconds, *(when for when, _ in self.leaps)])
        lately = sum(at > first for at in starts)
        if lately > rate.count:
            raise Violation(f"{_held(assignment)} is start {lately} of {assignment.task} since {first}")

    def _open_lately(self, task: str) -> bool:
        """Tell whether the window is open, or was when a runner could not yet have heard of its closing."""
        now = self._world.now
        leaps = [(when, ahead) for when, ahead in self.leaps if when > now - NOTICED]
        ahead = next((ahead for when, ahead in leaps if when > now - UNDER_WAY), self._world.leapt)
        moments = [now + self._world.leapt, now - UNDER_WAY + ahead, *map(sum, leaps)]
        return any(self._windows[task].is_open(BEGIN + int(at * MICROSECONDS)) for at in moments)

    def goes_on(self, assignment: m.Assignment) -> None:
        """A handler has asked whether it may go on, and may."""
        if not self._open_lately(assignment.task):
            raise Violation(f"{_held(assignment)} of {assignment.task} may go on outside its window")

    def step_begins(self, held: Held, name: str) -> None:
        """A step's function is called."""
        self._under_the_lease(held)
        if (held[0], name) in self._acknowledged:
            raise Violation(f"{name!r} of {held} runs again, though it was acknowledged")

    def _under_the_lease(self, held: Held) -> None:
        if self._world.now >= self._world.lease_ends:
            raise Violation(f"{held} runs, though another supervisor may have it")

    def step_acknowledged(self, held: Held, name: str) -> None:
        """The handler has heard that a step is committed."""
        self._acknowledged.add((held[0], name))

    def ends(self, assignment: m.Assignment, report: m.Report | None) -> None:
        """A handler has ended."""
        held = _held(assignment)
        self._world.note(f"{held} ends: {type(report).__name__}")
        del self._live[assignment.execution]
        match report:
            case m.Finished():
                self._facts[held] = Fact("returned")
            case m.Failed():
                self._facts[held] = Fact("raised")
            case m.Interrupted():
                self._facts[held] = Fact("interrupted")
            case m.Released():
                word: m.Word = report.word
                self._facts[held] = Fact(
                    "cancelled" if word == "cancelled" else "raised" if word == "timeout" else "released"
                )
            case None:
                self._facts[held] = Fact("abandoned")

    def died(self, assignment: m.Assignment, order: signal.Signals | None, among: int) -> None:
        """A runner has died with a handler running, of so many."""
        del self._live[assignment.execution]
        self._facts[_held(assignment)] = Fact("died", stopped=order is not None, among=among)

    def stopped_meanwhile(self, dead: list[Held]) -> None:
        """The supervisor wanted to stop them, and may not have known that they were dead."""
        self._stopped_meanwhile.update(dead)

    def died_in_doubt(self, in_hand: list[Held]) -> None:
        """A runner has died and its page cannot be read: only order tells who may have been running."""
        death = len(self._in_doubt)
        self._in_doubt |= dict.fromkeys(in_hand, death)

    # The supervisor

    def supervisor_died(self, connection: Connection, left: Aftermath) -> None:
        """The supervisor has died, and all runners with it."""
        for assignment in self._live.values():
            self._facts[_held(assignment)] = Fact("died")
        self._live.clear()
        rows = select(_e.id, _e.claim, _e.lost).where(_e.state == "running")
        ended = {
            (report.execution, report.claim)
            for report in left.reports
            if isinstance(report, m.Failed) or (isinstance(report, m.Finished) and report.result.isascii())
        }
        for execution, claim, lost in connection.execute(rows):
            held = (execution, claim)
            if held in ended:
                continue  # its report is acted upon; what could not be stored is run again
            charged = lost >= attempts.DEATHS_ALLOWED
            begun = left.may_have_begun(ME.id, held)
            self._lost[held] = ("crashed" if charged else "lost") if begun else "nothing"

    def stopped_cleanly(self, connection: Connection, supervisor: SimulatedSupervisor) -> None:
        """The supervisor has ended by itself."""
        if self._world.runners:
            raise Violation(f"{len(self._world.runners)} runners live after a clean stop")
        if left := connection.execute(select(_e.id, _e.task).where(_e.state == "running")).all():
            raise Violation(f"running after a clean stop: {left}")
        self.rests(supervisor)

    def rests(self, supervisor: SimulatedSupervisor) -> None:
        """Nothing is to be done: nothing may be left in anybody's hands."""
        if not supervisor._roster.empty_handed():
            raise Violation(f"in our hands at rest: {supervisor._roster.waiting}, {_hands(supervisor)}")
        for runner in supervisor._roster.runners.values():
            if runner.load or runner.recalled:
                raise Violation(
                    f"at rest with load {runner.load}, recalled {runner.recalled}: {runner.number}"
                )

    # The last audit

    def audit(self, connection: Connection) -> None:
        """Hold what is stored against what really happened."""
        rows = {row.id: row for row in connection.execute(select(_e))}
        if missing := self.invoked - rows.keys():
            raise Violation(f"lost without a trace: {missing}")
        attempts = {(row.execution_id, row.claim): row for row in connection.execute(select(schema.attempts))}
        outcomes = {held: row.outcome for held, row in attempts.items()}
        outcomes |= {(row.id, row.claim): "completed" for row in rows.values() if row.state == "completed"}
        for held in sorted(self._facts.keys() | outcomes.keys()):
            found = outcomes.get(held, "nothing")
            allowed = self._allowed(held, rows[held[0]], attempts.get(held))
            if found not in allowed:
                raise Violation(f"{held}: {self._facts.get(held)} is stored as {found}, not {allowed}")
        self._audit_charges(rows, outcomes)
        self.endings = Counter(outcomes.values())

    def _allowed(self, held: Held, row: AnyRow, attempt: AnyRow | None) -> set[str]:
        """Return how this attempt may be stored."""
        allowed: set[str] = set()
        match self._facts.get(held):
            case None:
                allowed |= {"cancelled"}
            case Fact("returned"):
                allowed |= {"completed"}
                if attempt is not None and "NotStored" in str(attempt.error):
                    allowed |= {"failed"}
            case Fact("raised"):
                allowed |= {"failed"}
            case Fact("released"):
                allowed |= {"released"}
            case Fact("died", stopped=False, among=1):
                allowed |= {"crashed"}
            case Fact("died", stopped=False):
                allowed |= {"stopped"}
            case Fact("died", stopped=True):
                allowed |= {"stopped"}
                if row.task in ("timed", "hurried"):
                    allowed |= {"crashed"}
            case Fact("interrupted"):
                allowed |= {"crashed" if row.task == "hurried" else "stopped"}
        if held in self._stopped_meanwhile:
            allowed |= {"stopped"}
        if held[0] in self.cancelled:
            allowed |= {"cancelled"}
        if held in self._in_doubt:
            allowed |= {"crashed", "stopped", "released", "nothing"}
        if held in self._lost:
            allowed |= {self._lost[held]}
        return allowed

    def _audit_charges(self, rows: dict[str, AnyRow], outcomes: dict[Held, str]) -> None:
        charged = [held for held, outcome in outcomes.items() if outcome in ("failed", "crashed")]
        deaths = Counter(self._in_doubt[held] for held in charged if held in self._in_doubt)
        if deaths and max(deaths.values()) > 1:
            raise Violation("more than one attempt is charged for one death")
        for row in rows.values():
            since = self.retried.get(row.id, 0)
            expected = sum(execution == row.id and claim > since for execution, claim in charged)
            if row.attempt != expected:
                raise Violation(f"{row.id} is charged {row.attempt} attempts, not {expected}")
            if row.state not in ("completed", "failed", "cancelled"):
                raise Violation(f"{row.id} is {row.state} at the end")


_e = schema.executions.c


def _hands(supervisor: SimulatedSupervisor) -> dict[int, list[Held]]:
    """Return what each runner holds, as far as the supervisor knows."""
    return {
        runner.number: [(held.id, held.claim) for held in runner.held.values()]
        for runner in supervisor._roster.runners.values()
    }


def known_tasks() -> dict[str, Task]:
    """Return the tasks as the supervisor knows them when it starts."""
    return tasks_of(list(SPECS.values()), "UTC", SETTINGS)


# Clients, operators and mishaps


class Clients:
    """Everything that comes from outside, each at a moment that chance has chosen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._plan(self.invoke, 8, 25)
        self._plan(self.cancel, 2, 8)
        self._plan(self.retry, 0, 3)
        self._plan(self.pause, 0, 2)
        self._plan(self.leap, 0, 2)
        self._plan(self.kill_runner, 0, 4)
        self._plan(self.terminate, 0, 2)
        self._plan(self.kill_supervisor, 0, 3)
        self._plan(self.refuse_renewals, 0, 2)

        for _ in range(4):
            closing = self._world.random.uniform(CLOSING - 0.3, CLOSING)
            self._world.after(closing, partial(self.invoke, self._world.random.choice(("morning", "grace"))))

    def _plan(self, act: Callable[[], None], least: int, most: int) -> None:
        for _ in range(self._world.random.randint(least, most)):
            self._world.after(self._world.random.uniform(0, CHAOS), act)

    def invoke(self, task: str | None = None) -> None:
        """Create one execution or several."""
        pick = self._world.random.choice
        task = task or pick(INVOCABLE)
        new = NewExecution(
            task=task,
            priority=pick((0, 0, 5)),
            delay=pick((0.0, 0.0, 0.0, 0.3)),
            dedupe_key=pick((None, None, None, f"key of {task}")),
            concurrency_key=pick(("a", "b", "c")) if task == "keyed" else None,
        )
        answer = self._perform(InvokeMany([new] * pick((1, 1, 3, 12))))
        assert isinstance(answer, Invoked)
        self._world.witness.invoked.update(answer.ids)

    def cancel(self) -> None:
        """Cancel any execution that is not finished."""
        if chosen := self._any_unfinished():
            self._world.witness.cancelled.add(chosen)
            self._perform(CancelExecution(chosen))

    def retry(self) -> None:
        """Give an execution new attempts, if it is in a state for it."""
        with self._world.database.reading() as connection:
            over = select(_e.id, _e.claim).where((_e.state == "failed") | (_e.state == "cancelled"))
            rows = connection.execute(over.order_by(_e.id)).all()
        if rows:
            execution, claim = self._world.random.choice(rows)
            answer = self._perform(RetryExecution(execution))
            if isinstance(answer, Changed) and answer.changed:
                self._world.witness.retried[execution] = claim

    def pause(self) -> None:
        """Pause a task or a queue for a while."""
        kind, name = self._world.random.choice((("task", "steps"), ("task", "short"), ("queue", "default")))
        with self._world.database.writing() as connection:
            tasks.pause(connection, kind, name, self._world.clock.now())  # type: ignore[arg-type]
        self._world.after(self._world.random.uniform(0.1, 2.0), partial(self._resume, kind, name))
        self._poke()

    def _resume(self, kind: tasks.Kind, name: str) -> None:
        with self._world.database.writing() as connection:
            tasks.resume(connection, kind, name)
        self._poke()

    def leap(self) -> None:
        """Let the wall clock run ahead of the monotonic one."""
        leap(self._world, self._world.random.choice((30.0, 61.0, 3600.0)))

    def kill_runner(self) -> None:
        """Kill any runner from outside."""
        if self._world.runners:
            self._world.random.choice(self._world.runners).die(-signal.SIGKILL)

    def terminate(self) -> None:
        """Tell the supervisor to stop, and perhaps tell it again."""
        if self._world.supervisor is not None:
            self._world.note("SIGTERM")
            self._world.supervisor.terminate()
            if self._world.chance(0.3):
                self._world.after(0.1, self._world.supervisor.terminate)

    def kill_supervisor(self) -> None:
        """Let the supervisor die."""
        if self._world.supervisor is not None:
            raise SupervisorDied

    def refuse_renewals(self) -> None:
        """Let the database take no renewal of the lease for a while."""
        self._world.note("no renewals")
        self._world.no_renewals_until = self._world.now + self._world.random.uniform(0.2, 1.5)

    def _perform(self, operation: Operation) -> object:
        with self._world.database.writing() as connection:
            answer = perform(connection, operation, self._world.clock.now())
        self._world.note(f"{operation} -> {answer}")
        self._poke()
        return answer

    def _poke(self) -> None:
        if self._world.supervisor is not None:
            self._world.after(self._world.delay(), self._world.supervisor.poked)

    def _any_unfinished(self) -> str | None:
        with self._world.database.reading() as connection:
            ids = sorted(row.id for row in _unfinished(connection))
        return self._world.random.choice(ids) if ids else None


def leap(world: World, seconds: float) -> None:
    """Let the wall clock run ahead of the monotonic one."""
    world.note(f"the wall clock leaps by {seconds} s")
    world.witness.leaps.append((world.now, world.leapt))
    world.leapt += seconds


# One seed


@dataclass
class Told:
    """What a simulation tells of itself."""

    endings: Counter[str] = field(default_factory=Counter)
    """Attempts, by how they ended."""
    seconds: float = 0.0
    """In the world's time."""


def simulate(seed: int, database: Database, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Let one world run from its first invocation until all is settled, and audit it.

    :raises Violation: if something happened that must never happen.
    """
    world = World(seed, database)
    with monkeypatch.context() as patch:
        _move_into(world, patch)
        try:
            Clients(world)
            world.after(CHAOS, partial(_calm_down, world))
            while not _one_life(world):
                world.linger(world.random.uniform(0.0, 0.3))
            with database.reading() as connection:
                world.witness.audit(connection)
        except AssertionError as error:
            error.add_note("\n".join(["What happened last:", *world.history]))
            raise
    return Told(world.witness.endings, world.now)


def _move_into(world: World, patch: pytest.MonkeyPatch) -> None:
    """Put the world's things in the place of the machine's."""
    for module in (dispatcher, inquest, intake, roster, staff, supervisor, watch, work):
        patch.setattr(module, "time", WorldTime(world))
    ids = (f"{number:036d}" for number in count(1))
    patch.setattr(executions, "new_id", lambda: next(ids))
    patch.setattr(endings, "random", world.random)
    for module in (leasing, uptime, work):
        patch.setattr(module, "uptime", lambda: world.now)
    patch.setattr(supervisor, "renew_from_environment", partial(renew, world))
    patch.setattr(writes, "PAGE_BYTES", 40)  # two steps at once, so that most must be asked for
    patch.setattr(supervisor, "Router", partial(SimulatedRouter, world))
    patch.setattr(supervisor, "PokeSocket", NoPokes)
    patch.setattr(supervisor, "Journal", partial(SimulatedJournal, world))
    patch.setattr(staff, "Leftovers", NoLeftovers)
    patch.setattr(staff, "adopt_orphans", lambda: False)
    patch.setattr(staff, "Child", partial(born, world))


def _one_life(world: World) -> bool:
    """Start a supervisor and let it live; tell whether it has settled everything."""
    cron = begin(world.database, known_tasks(), "UTC", world.clock, world.left, ME, lease=1.0)
    manifest = Manifest(app="world:app", tasks=tuple(SPECS.values()))
    nowhere = Path("/nowhere")
    one = SimulatedSupervisor(
        ME,
        lease_in(world),
        SETTINGS,
        manifest,
        known_tasks(),
        cron,
        world.database,
        nowhere,
        [],
        world.clock,
        False,
        ServiceManager(),
    )
    world.note("a supervisor starts")
    try:
        one.live(world)
    except SupervisorDied:
        world.note("the supervisor dies")
        world.supervisor = None
        one.die()
        pages = [(runner.recorder.read(), runner.recorder.outbox()) for runner in world.runners]
        # Or the folder is gone with the machine.
        world.left = understood([] if world.chance(0.3) else pages, ME.id)
        while world.runners:
            world.runners.pop().vanish()
        with world.database.reading() as connection:
            world.witness.supervisor_died(connection, world.left)
        return False
    world.note("the supervisor has stopped")
    with world.database.reading() as connection:
        world.witness.stopped_cleanly(connection, one)
        return world.calm and not _unfinished(connection)


def _calm_down(world: World) -> None:
    """From here on all goes well: whatever is unfinished must come to its end."""
    world.note("calm")
    world.calm = True
    with world.database.writing() as connection:
        for kind, name in tasks.paused(connection):
            tasks.resume(connection, kind, name)
    if world.supervisor is not None:
        world.supervisor.poked()
    _watch_until_settled(world)


def _watch_until_settled(world: World) -> None:
    """Stop the supervisor once everything is finished; let time pass quickly where all wait for it."""
    with world.database.reading() as connection:
        unfinished = _unfinished(connection)
    if world.now > CHAOS + PATIENCE:
        raise Violation(f"not finished {PATIENCE:g} s after all went well: {unfinished}")
    if world.supervisor is not None and not unfinished:
        world.witness.rests(world.supervisor)
        world.supervisor.terminate()
    elif unfinished and (moments := [world.witness.may_begin(row) for row in unfinished]):
        soonest = (min(moments) - world.clock.now()) / MICROSECONDS
        if soonest > 1:
            leap(world, soonest - 0.5)
    world.after(0.25, partial(_watch_until_settled, world))


def _unfinished(connection: Connection) -> list[AnyRow]:
    rows = select(_e.id, _e.task, _e.state, _e.claim, _e.due_at).where(_e.finished_at.is_(None))
    return list(connection.execute(rows))
