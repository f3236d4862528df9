"""Runners that follow the protocol, and die whenever chance says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from simulated.witness import hands_of
from simulated.workload import SETTINGS, Held, held_by

if TYPE_CHECKING:
    from simulated.surroundings import SimulatedRouter
    from simulated.world import World

import signal
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Literal, TypeAlias

from conductor_protocol import messages as m
from conductor_protocol.codec import pack, unpack_to_runner
from conductor_protocol.conversation import REPLY
from conductor_protocol.operations import (
    Failure,
)
from conductor_protocol.recorder import Reading
from conductor_supervisor.processes.spawn import Exit

T = TypeVar("T")


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

    def read(self) -> None:
        """Nothing was printed."""

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
        self._held_back: list[m.Report] = []
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
                self._world.witness.died_in_doubt(hands_of(self._world.supervisor)[self.number])
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
            f"runner {self.number} dies of {returncode} with {self.current and held_by(self.current)}"
        )
        self._exit = Exit(returncode, 1, 0.1)
        self._world.runners.remove(self)
        running = self._running()
        self._died_with = [held_by(assignment) for assignment in running]
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
                    self._world.witness.arrives(held_by(assignment))
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
                self._flush()
                self.wire.to_supervisor("control", m.Returned([held_by(one) for one in self._queue]))
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
            self._flush()
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
        self._tell(m.Worn("as chance will have it"))

    def _read(self) -> Turn[m.ToRunner]:
        """Wait for a message on the data channel; note what it brings."""
        while not self._inbox:
            self._flush()
            yield None
        message = self._inbox.popleft()
        if not self._worn:
            self._queue.extend(_assigned(message))
        if isinstance(message, m.Stop):
            self._stop = True
        return message

    def _run(self, assignment: m.Assignment) -> Turn[None]:
        script = Script(self._world, assignment)
        held = held_by(assignment)
        self._world.witness.begins(assignment)
        if assignment.says_began:
            self._tell(m.Began(*held))
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
            self._report(report)
        self.recorder.page = Reading(phase="idle")
        if self._world.chance(0.01):
            raise Dies(-signal.SIGBUS)

    def _report(self, report: m.Report) -> None:
        """Tell how an attempt ended, perhaps with the next: longer than any real runner would wait."""
        self._held_back.append(report)
        if not self._queue or self._world.chance(0.5):
            self._flush()

    def _tell(self, message: m.FromRunner) -> None:
        self._flush()
        self.wire.to_supervisor("data", message)

    def _flush(self) -> None:
        for report in self._held_back:
            self.wire.to_supervisor("data", report)
        self._held_back.clear()

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
                    page = yield from self._request(m.LoadSteps, m.StepPage, *held_by(assignment), last)
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
        held = held_by(assignment)
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
        verdict = yield from self._request(m.Ask, m.Verdict, *held_by(assignment), step)
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
        self._tell(request)
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
        self._world.witness.arrives(held_by(assignment))
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
                if held_by(strand.assignment) == (message.execution, message.claim):
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
        self._held_back = []
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
