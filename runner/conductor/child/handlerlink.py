"""One execution's way to the supervisor: its questions in words of the protocol, and its flight record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from conductor.child import forks
from conductor.child.control import Intents
from conductor.child.link import DataLink, Reply, Request, expect
from conductor.errors import StepRefused
from conductor_protocol import messages as m
from conductor_protocol.errors import UsageError
from conductor_protocol.recorder import Record

PROGRESS_INTERVAL = 0.1
"""Seconds between two messages of progress."""

MakeRequest = Callable[[int], Request]


class HandlerLink:
    """What needs no answer, and the making of questions."""

    def __init__(self, assignment: m.Assignment, data: DataLink, recorder: Record, intents: Intents) -> None:
        self._held = (assignment.execution, assignment.claim)
        self._attempt = assignment.attempt
        self._says_began = assignment.says_began
        self._data = data
        self._recorder = recorder
        self._intents = intents
        self._ended = False
        self._steps: dict[str, None] = {}
        self._steps_lock = threading.Lock()
        self._progress: m.Progress | None = None
        self._progress_sent = float("-inf")
        self.max_result = data.max_result

    def begin(self) -> None:
        """The handler is called now: say so, where somebody counts that."""
        if self._says_began:
            self._data.tell(m.Began(*self._held))

    def stop_wanted(self) -> bool:
        """Tell whether a release or cancellation has been pushed."""
        if forks.in_child:
            raise forks.refusal()
        return self._intents.wanted(self._held)

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Send progress, but not more often than anybody could look at it."""
        self._check_running()
        self._progress = m.Progress(*self._held, done, total, message)
        if time.monotonic() - self._progress_sent >= PROGRESS_INTERVAL:
            self._send_progress()

    def _send_progress(self) -> None:
        if self._progress is not None:
            self._data.tell(self._progress)
            self._progress = None
            self._progress_sent = time.monotonic()

    def step_begins(self, name: str) -> None:
        """Record that a step's function is about to be called."""
        self._check_running()
        with self._steps_lock:
            self._steps[name] = None
            self._recorder.begin_step(name)

    def step_ended(self, name: str) -> None:
        """Record that a step has ended; of several at once, the one that began last is on the record."""
        if forks.in_child:  # another thread of the runner's may have held the lock
            return
        with self._steps_lock:
            del self._steps[name]
            if self._ended:
                return
            if self._steps:
                self._recorder.begin_step(next(reversed(self._steps)))
            else:
                self._recorder.end_step()

    def end(self) -> None:
        """The handler has ended: what it left running may not speak in its name, nor write its record."""
        self._send_progress()
        with self._steps_lock:
            self._ended = True

    def _check_running(self) -> None:
        if forks.in_child:
            raise forks.refusal()
        if self._ended:
            raise UsageError(
                f"execution {self._held[0]} has ended in this runner; threads and tasks that a handler "
                "starts must not use its ctx after it has returned"
            )

    def _ask(self, step: str | None, limit: float | None) -> MakeRequest:
        self._check_running()
        return lambda seq: m.Ask(seq, *self._held, step, limit)

    def _step_done(self, name: str, result: bytes, duration: float) -> MakeRequest:
        self._check_running()
        return lambda seq: m.StepDone(seq, *self._held, name, result, duration, self._attempt)

    def _load(self, after: str | None) -> MakeRequest:
        self._check_running()
        return lambda seq: m.LoadSteps(seq, *self._held, after)


class SyncLink(HandlerLink):
    """A :class:`conductor.context.Link`."""

    def ask(self, step: str | None, limit: float | None) -> m.Word:
        """Ask whether to go on."""
        return expect(self._data.request(self._ask(step, limit)), m.Verdict).word

    def record_step(self, name: str, result: bytes, duration: float) -> m.Word:
        """Return once a step's result is committed."""
        return word_on_step(name, self._data.request(self._step_done(name, result, duration)))

    def load_steps(self, after: str | None) -> tuple[list[m.RecordedStep], m.Word]:
        """Fetch recorded steps after this one."""
        page = expect(self._data.request(self._load(after)), m.StepPage)
        return page.steps, page.word

    def pause(self, duration: float) -> None:
        """Wait, less if a stop is wanted."""
        wanted = threading.Event()
        with self._intents.waking(wanted.set):
            if not self.stop_wanted():
                wanted.wait(duration)


def word_on_step(name: str, reply: Reply) -> m.Word:
    """Return what the supervisor says with its acknowledgement of a step.

    :raises StepRefused: if it does not acknowledge it.
    """
    if isinstance(reply, m.StepRefused):
        raise StepRefused(f'step "{name}" cannot be recorded: {reply.message}')
    return expect(reply, m.StepAck).word
