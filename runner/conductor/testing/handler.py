"""One handler in the test's own process: no supervisor, no database, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

from conductor import values
from conductor.context import AsyncContext, Context
from conductor.errors import ConductorError, Released, UsageError
from conductor.inprocess import AsyncLocalLink, LocalLink
from conductor.replay import Replay
from conductor.tasks import Task
from conductor_protocol.manifest import INVOKE_EVENT
from conductor_protocol.messages import Assignment, RecordedStep, Word
from conductor_protocol.units import instant

EXECUTION = "00000000-0000-0000-0000-000000000000"
"""``ctx.execution_id`` of every handler that is run so."""

MAX_RESULT = 1024 * 1024
"""Bytes of the largest result, as it is by default."""

StopWord: TypeAlias = Literal["shutdown", "window", "cancelled"]

R = TypeVar("R")


class Stopped(ConductorError):
    """The handler was stopped, as the test wanted, and has unwound. Give ``steps`` to the next run."""

    def __init__(self, word: Word, steps: dict[str, Any]) -> None:
        super().__init__(
            f"the handler was stopped ({word}); its recorded steps: {', '.join(steps) or 'none'}"
        )
        self.word = word
        """Why: ``shutdown``, ``window`` or ``cancelled``."""
        self.steps = steps
        """By name, in order: the results of all steps that are recorded by now, as plain JSON values."""


def run_task(
    task: Task[..., Any, R],
    payload: object = None,
    *,
    steps: Mapping[str, object] | None = None,
    attempt: int = 1,
    stop_after: str | int | None = None,
    word: StopWord = "shutdown",
    state: object = None,
    event: str = INVOKE_EVENT,
    scheduled_for: datetime | None = None,
) -> R:
    """Run a handler, sync or async, and return its result, typed as a client gets it.

    What the handler raises comes out as it is. Tries of a step follow without waiting; timeouts do not count.

    :param steps: results of steps that are recorded already; the others run.
    :param attempt: ``ctx.attempt``.
    :param stop_after: stop the handler after the step of this name is recorded, or after it has asked so many
        times; each ``ctx.step`` and ``ctx.checkpoint`` asks. From then on ``ctx.should_stop`` is true, and
        the next call raises ``Released``.
    :param word: why it is stopped.
    :param state: ``ctx.state``.
    :param event: ``event.name``, with ``scheduled_for`` the firing of a schedule.
    :raises Stopped: if the handler was stopped; it carries the recorded steps.
    :raises PayloadMismatch: if the payload does not fit the task.
    :raises NotStorable: if the result has no form in JSON, or is larger than allowed by default.
    :raises ResultMismatch: if the result does not fit the return annotation.
    :raises UsageError: if the handler ended without asking for a step of ``steps`` or for that of
        ``stop_after``, or without awaiting a call of ``ctx``, or an argument cannot be meant; also inside a
        running event loop: ``await`` :func:`run_task_async` there.
    """
    run = _Run(
        task, payload, {} if steps is None else steps, attempt, stop_after, word, state, event, scheduled_for
    )
    if not task.is_async:
        return run.sync()
    _check_no_loop_runs()
    return asyncio.run(run.awaited())


async def run_task_async(
    task: Task[..., Any, R],
    payload: object = None,
    *,
    steps: Mapping[str, object] | None = None,
    attempt: int = 1,
    stop_after: str | int | None = None,
    word: StopWord = "shutdown",
    state: object = None,
    event: str = INVOKE_EVENT,
    scheduled_for: datetime | None = None,
) -> R:
    """Run an async handler in the running event loop; otherwise as :func:`run_task`."""
    run = _Run(
        task, payload, {} if steps is None else steps, attempt, stop_after, word, state, event, scheduled_for
    )
    return await run.awaited() if task.is_async else run.sync()


class _Run(Generic[R]):
    """One run of a handler."""

    def __init__(
        self,
        task: Task[..., Any, R],
        payload: object,
        steps: Mapping[str, object],
        attempt: int,
        stop_after: str | int | None,
        word: StopWord,
        state: object,
        event: str,
        scheduled_for: datetime | None,
    ) -> None:
        if not isinstance(task, Task):
            raise UsageError(f"run_task: expected a task, as @app.task makes it, got {task!r}")
        if word not in get_args(StopWord):
            raise UsageError(f"run_task: word: expected one of {', '.join(get_args(StopWord))}, got {word!r}")
        if not isinstance(attempt, int) or attempt < 1:
            raise UsageError(f"run_task: attempt: expected a whole number of 1 or more, got {attempt!r}")
        if not isinstance(steps, Mapping):
            raise UsageError(
                f'run_task: steps: expected results by step name, such as {{"fetch": [1, 2]}}, got {steps!r}'
            )
        if not (stop_after is None or isinstance(stop_after, str)) and not _is_count(stop_after):
            raise UsageError(
                "run_task: stop_after: expected a step's name or how often the handler asks before it is "
                f"stopped, got {stop_after!r}"
            )
        if stop_after in steps:
            raise UsageError(
                f'run_task: the step "{stop_after}" is given, so the handler cannot be stopped after it; '
                "leave it out of steps, or let stop_after name a step that runs"
            )
        self._task = task
        self._steps = {
            name: values.encode(result, f'the result of step "{name}"') for name, result in steps.items()
        }
        self._given = frozenset(steps)
        self._stop_after = stop_after
        self._assignment = Assignment(
            execution=EXECUTION,
            claim=attempt,
            task=task.name,
            attempt=attempt,
            event=event,
            scheduled_for=None if scheduled_for is None else instant(scheduled_for),
            payload=task.payload_to_json(payload),
            steps=[RecordedStep(name, result) for name, result in self._steps.items()],
            steps_recorded=len(self._steps),
        )
        self._answers = _Answers(self._steps, stop_after, word)
        self._state = state

    def sync(self) -> R:
        """Run a sync handler."""
        context = _Context(self._assignment, LocalLink(self._answers), self._state)
        try:
            result = self._task.function(self._task.event(self._assignment), context)
            return self._as_a_client_gets_it(result, context.unasked_steps())
        except Released as released:
            raise self._stopped(released) from None

    async def awaited(self) -> R:
        """Run an async handler."""
        context = _AsyncContext(self._assignment, AsyncLocalLink(self._answers), self._state)
        try:
            result = await self._task.function(self._task.event(self._assignment), context)
            await asyncio.sleep(0)  # so that a call begins for which the handler has made a task
            context.check_awaited()
            return self._as_a_client_gets_it(result, context.unasked_steps())
        except Released as released:
            raise self._stopped(released) from None

    def _as_a_client_gets_it(self, result: object, unasked: list[str]) -> R:
        if unasked:
            raise self._misspelt("steps", unasked)
        if isinstance(self._stop_after, str) and self._stop_after not in self._steps:
            raise self._misspelt("stop_after", [self._stop_after])
        result_as_stored = self._task.result_to_json(result, MAX_RESULT)
        decoded: R = self._task.result_from_json(result_as_stored)
        return decoded

    def _misspelt(self, argument: str, names: list[str]) -> UsageError:
        return UsageError(
            f"run_task: {argument}: task {self._task.name} did not ask for {_quoted(names)} in this run; "
            f"steps that ran: {_quoted([n for n in self._steps if n not in self._given]) or 'none'}. "
            "Is a name misspelt?"
        )

    def _stopped(self, released: Released) -> Stopped:
        return Stopped(released.word, {name: values.decode(result) for name, result in self._steps.items()})


class _Answers:
    """What a supervisor would say to this handler: :class:`conductor.inprocess.Answers`."""

    max_result = MAX_RESULT

    def __init__(self, steps: dict[str, bytes], stop_after: str | int | None, word: Word) -> None:
        self._steps = steps
        self._stop_after = stop_after
        self._word = word
        self._asked = 0
        self._stopping = stop_after == 0

    @property
    def word(self) -> Word:
        """What is said now."""
        return self._word if self._stopping else "go on"

    def ask(self, _step: str | None) -> Word:
        word = self.word
        self._asked += 1
        self._stopping = self._stopping or self._asked == self._stop_after
        return word

    def record(self, name: str, result: bytes) -> Word:
        self._steps[name] = result
        self._stopping = self._stopping or name == self._stop_after
        return self.word

    def step_begins(self, name: str) -> None:
        """Nobody needs to know."""

    def step_ended(self, name: str) -> None:
        """Nobody needs to know."""

    def seconds_to_wait(self, _between_tries: float) -> float:
        return 0.0


class _Observed:
    """Lets no verdict hold for a while: how often a handler asks must not depend on how fast it is."""

    _replay: Replay

    def unasked_steps(self) -> list[str]:
        """Return the given steps that the handler has not asked for."""
        return self._replay.unasked()

    def _must_ask(self) -> bool:
        return True

    def _must_ask_before_new(self) -> bool:
        return True


class _Context(_Observed, Context):
    pass


class _AsyncContext(_Observed, AsyncContext):
    pass


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_no_loop_runs() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError("run_task starts an event loop, and one is running; write: await run_task_async(...)")
