"""Running one execution's handler in the foreground, with its recorded steps answered from the record.

Nothing is written: what a step returns is forgotten when the process ends, and a client's call that would
write is refused. Everything else is real: the lifespan, the handler, the steps that are not recorded.
"""

from __future__ import annotations

import faulthandler
import inspect
import io
import logging
import os
import sys
import threading
import time
from bdb import BdbQuit
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from conductor.app import Conductor
from conductor.child.describe import problem_with
from conductor.child.lifespan import shared
from conductor.child.loading import load
from conductor.child.reports import failure, trimmed_traceback
from conductor.client import StorePerformer, enter_runner
from conductor.context import AsyncContext, Context
from conductor.errors import NotInReplay, PayloadMismatch, Released
from conductor.inprocess import AsyncLocalLink, LocalLink
from conductor.tasks import Event, Task, nearest
from conductor_protocol.messages import Assignment, Word
from conductor_protocol.operations import (
    Answer,
    CancelExecution,
    InvokeMany,
    Operation,
    RetryExecution,
)
from conductor_protocol.recording import (
    Began,
    Ending,
    Raised,
    Recording,
    RecordingReader,
    Returned,
    StepAnswered,
    StepBegan,
    StepEnded,
    Stopped,
    Unable,
    write_note,
)

if TYPE_CHECKING:
    from conductor.child.debugger import Debugger
    from conductor.child.eventloop import EventLoop

INTERRUPTED = 130
"""Exit status after a Ctrl-C outside the handler."""


def replay(told: int, notes: int) -> int:
    """Run a handler as the recording says, and note how that goes; return the exit status.

    :param told: descriptor of the file that holds the recording.
    :param notes: descriptor of the file for the notes.
    """
    for descriptor in (told, notes):
        os.set_inheritable(descriptor, False)
    _prepare_output()
    reader = RecordingReader(told)
    try:
        unable = _Replaying(reader, notes).run()
    except KeyboardInterrupt:
        return INTERRUPTED
    if unable is not None:
        write_note(notes, unable)
    return 0


class _Replaying:
    """One replay, from the import of the app to the end of its lifespan."""

    def __init__(self, reader: RecordingReader, notes: int) -> None:
        self._reader = reader
        self._notes = notes
        self._recording: Recording = reader.recording

    def run(self) -> Unable | None:
        """Run the handler; return why that was not possible, if it was not."""
        recording = self._recording
        try:
            app = load(recording.app, recording.paths)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # an app's module may raise anything
            problem = problem_with(recording.app, error)
            return Unable(problem.message, problem.kind == "usage", problem.traceback)
        task = app.tasks.get(recording.assignment.task)
        if task is None:
            return Unable(_unknown_task(app, recording), misuse=True)
        try:
            event = task.event(recording.assignment)
        except PayloadMismatch as error:
            return Unable(str(error), misuse=True)
        _prepare_logging()
        enter_runner(app.database_url(), _ReadOnly(recording.database))
        return self._run_with_lifespan(app, task, event)

    def _run_with_lifespan(
        self, app: Conductor, task: Task[..., Any, Any], event: Event[Any]
    ) -> Unable | None:
        began = False
        try:
            with _event_loop(app, task) as loop, shared(app.lifespan_function, loop) as state:
                write_note(self._notes, Began(time.monotonic()))
                began = True
                write_note(self._notes, self._run_handler(task, event, loop, state))
        except Exception as error:
            if began:
                raise
            return Unable(
                f"the lifespan of app {self._recording.app} raised {type(error).__qualname__}: {error}",
                misuse=False,
                traceback=trimmed_traceback(error),
            )
        return None

    def _run_handler(
        self, task: Task[..., Any, Any], event: Event[Any], loop: EventLoop | None, state: object
    ) -> Ending:
        answers = _FromTheRecord(self._reader, self._notes)
        try:
            result = self._call(task, event, answers, loop, state)
            return Returned(task.result_to_json(result, self._recording.max_result))
        except BaseException as error:  # noqa: BLE001  # whatever leaves a handler is its ending
            if _carries(error, Released):
                return Stopped(answers.stopped_before)
            if _carries(error, BdbQuit):
                return Stopped(None)
            if self._recording.manner.post_mortem:
                _look_at(error)
            return Raised(failure(error))

    def _call(
        self,
        task: Task[..., Any, Any],
        event: Event[Any],
        answers: _FromTheRecord,
        loop: EventLoop | None,
        state: object,
    ) -> object:
        assignment = self._recording.assignment
        if task.is_async and loop is not None:
            context = _AsyncContext(assignment, answers, state)
            result = loop.run_alone(task.function(event, context))
            context.check_awaited()
            return result
        result = task.function(event, _Context(assignment, answers, state))
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"task {task.name} returned a coroutine; declare its function with async def")
        return result


class _Context(Context):
    """Looks steps up in the record, one by one: a replay has all of it at hand."""

    def __init__(self, assignment: Assignment, answers: _FromTheRecord, state: object) -> None:
        super().__init__(assignment, LocalLink(answers), state)
        self._answers = answers

    def _find(self, name: str) -> bytes | None:
        return self._answers.recorded(name)


class _AsyncContext(AsyncContext):
    """As :class:`_Context`."""

    def __init__(self, assignment: Assignment, answers: _FromTheRecord, state: object) -> None:
        super().__init__(assignment, AsyncLocalLink(answers), state)
        self._answers = answers

    async def _find_async(self, name: str) -> bytes | None:
        return self._answers.recorded(name)


class _FromTheRecord:
    """:class:`conductor.inprocess.Answers` of a record: always to go on, but where the replay is to stop."""

    word: Word = "go on"

    def __init__(self, reader: RecordingReader, notes: int) -> None:
        recording = reader.recording
        self.max_result = recording.max_result
        self.stopped_before: str | None = None
        self._reader = reader
        self._notes = notes
        self._stop_at_new = recording.manner.stop_at_new
        self._breakpoints = set(recording.manner.breakpoints)
        self._debugger: Debugger | None = None
        self._one_at_a_time = threading.Lock()

    def ask(self, step: str | None) -> Word:
        """The base of every context asks before the first step that is not recorded."""
        if step is None or not self._stop_at_new:
            return "go on"
        self.stopped_before = step
        return "shutdown"

    def recorded(self, name: str) -> bytes | None:
        """Return the recorded result of a step; None if it has none."""
        step = self._reader.find(name)
        if step is None:
            return None
        write_note(self._notes, StepAnswered(name))
        self._break_before(name)
        return step.result

    def record(self, _name: str, _result: bytes) -> Word:
        return "go on"

    def step_begins(self, name: str) -> None:
        self._break_before(name)
        write_note(self._notes, StepBegan(name, time.monotonic()))

    def step_ended(self, name: str) -> None:
        write_note(self._notes, StepEnded(name))

    def seconds_to_wait(self, between_tries: float) -> float:
        return between_tries

    def _break_before(self, name: str) -> None:
        if name not in self._breakpoints:
            return
        from conductor.child.debugger import Debugger

        with self._one_at_a_time:  # threads of a handler share its stdin
            self._debugger = self._debugger or Debugger()
            self._debugger.stop_before_step()


class _ReadOnly(StorePerformer):
    """A performer that writes nothing."""

    def perform(self, operation: Operation) -> Answer:
        """Perform an operation that only reads.

        :raises NotInReplay: for all others.
        """
        _refuse_to_write(operation)
        return super().perform(operation)

    async def perform_async(self, operation: Operation) -> Answer:
        """See :meth:`perform`."""
        _refuse_to_write(operation)
        return await super().perform_async(operation)

    def perform_on(self, _connection: object, operation: InvokeMany) -> Answer:
        """:raises NotInReplay: always: this writes."""
        return self.perform(operation)

    async def perform_on_async(self, _connection: object, operation: InvokeMany) -> Answer:
        """See :meth:`perform_on`."""
        return await self.perform_async(operation)


def _refuse_to_write(operation: Operation) -> None:
    match operation:
        case InvokeMany(executions):
            what = f"to invoke {', '.join(sorted({new.task for new in executions})) or 'nothing'}"
        case CancelExecution(execution):
            what = f"to cancel {execution}"
        case RetryExecution(execution):
            what = f"to retry {execution}"
        case _:
            return
    raise NotInReplay(
        f"a replay writes nothing, and this is a call {what}; make the call in a step, which a replay "
        "answers from the record once it is recorded"
    )


# Surroundings of user code


def _event_loop(app: Conductor, task: Task[..., Any, Any]) -> AbstractContextManager[EventLoop | None]:
    if not task.is_async and not inspect.isasyncgenfunction(app.lifespan_function):
        return nullcontext()
    from conductor.child.eventloop import EventLoop

    return EventLoop()


def _prepare_output() -> None:
    """Print whole lines, so that none is lost in a crash; and the stacks of a crash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    with suppress(OSError, ValueError):
        faulthandler.enable(sys.stderr)


def _prepare_logging() -> None:
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)


def _unknown_task(app: Conductor, recording: Recording) -> str:
    name = recording.assignment.task
    near = nearest(name, app.tasks)
    hint = f"did you mean {near}?" if near else f"it has: {', '.join(sorted(app.tasks)) or 'none'}"
    return f"app {recording.app} has no task {name!r}; {hint}"


def _carries(error: BaseException, kind: type[BaseException]) -> bool:
    """Tell whether an exception is of this kind, or a group that holds one."""
    return isinstance(error, kind) or (
        isinstance(error, BaseExceptionGroup) and error.subgroup(kind) is not None
    )


def _look_at(error: BaseException) -> None:
    from conductor.child.debugger import Debugger

    sys.stderr.write(trimmed_traceback(error))
    Debugger().look_at(error)
