"""The session of a shared runner: many executions at once in one event loop.

The loop lives as long as the runner. Each execution is an asyncio task with a context of its own; whatever
tasks its handler starts are its family, and end with it. Each has its own record in the flight recorder, so a
death tells what every one of them was doing.

A handler that must end and does not ask is interrupted: its asyncio task is cancelled where it awaits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from typing import Any, TypeAlias
from weakref import WeakSet

from conductor.app import Conductor
from conductor.child import forks, reports
from conductor.child.control import Intents
from conductor.child.eventloop import LETS_STEPS_END, AsyncLink, EventLoop, end_leftovers
from conductor.child.link import DataLink
from conductor.child.output import console
from conductor.child.session import called_for
from conductor.context import AsyncContext
from conductor.errors import Released
from conductor.tasks import Event, Task
from conductor_protocol import messages
from conductor_protocol.marks import Speaker
from conductor_protocol.messages import Assignment, Finished, Report
from conductor_protocol.recorder import Record, Recorder

FAMILY_GRACE = 1.0
"""Seconds that tasks which a handler left behind may take to end; less than ``stop_grace``, after which an
interrupted handler that has not reported is stopped with its runner."""

Family: TypeAlias = WeakSet["asyncio.Task[Any]"]
"""The asyncio tasks that one handler has started, itself included."""

_family: ContextVar[Family] = ContextVar("conductor_family")
"""Of the execution that the current asyncio task belongs to."""


class SharedSession:
    """Runs what is assigned, all of it at once."""

    def __init__(
        self, app: Conductor, data: DataLink, recorder: Recorder, intents: Intents, loop: EventLoop
    ) -> None:
        self._app = app
        self._data = data
        self._intents = intents
        self._loop = loop
        self._handlers: dict[tuple[str, int], asyncio.Task[object]] = {}
        self._records: asyncio.Queue[Record] = asyncio.LifoQueue()
        """Those that no execution uses."""
        for record in recorder.places:
            self._records.put_nowait(record)

    def run(self, state: object) -> None:
        """Run executions until there will be no more.

        :param state: what ``ctx.state`` is.
        """
        self._loop.serve(self._serve(state), self._data)

    async def _serve(self, state: object) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_task_of_its_family)
        with self._intents.waking(lambda: loop.call_soon_threadsafe(self._interrupt)):
            async with asyncio.TaskGroup() as executions:
                while (assignment := await self._data.next_work_async()) is not None:
                    executions.create_task(self._execute(assignment, state))

    def _interrupt(self) -> None:
        """Cancel the handlers that are to end, whatever they await; each only once."""
        for held, handler in list(self._handlers.items()):
            if self._intents.interrupted(held):
                del self._handlers[held]
                handler.cancel()

    async def _execute(self, assignment: Assignment, state: object) -> None:
        """Run one execution. The order keeps blame exact: begun, reported, and only then idle."""
        held = (assignment.execution, assignment.claim)
        record = await self._records.get()
        if self._intents.wanted(held):
            await self._data.report_async(messages.Released(*held, "shutdown", 0.0, begun=False))
        else:
            record.begin(*held)
            speaker = Speaker(*held, assignment.attempt)
            console.begins(speaker)
            report = await self._attempt(assignment, state, record)
            console.ends(speaker)  # what it has printed leaves before its report
            if report is not None:
                await self._data.report_async(report)
            record.idle()
        self._intents.forget(held)
        self._records.put_nowait(record)

    async def _attempt(self, assignment: Assignment, state: object, record: Record) -> Report | None:
        started = time.monotonic()
        called = called_for(self._app, assignment)
        if isinstance(called, messages.Failed):
            return called
        task, event = called
        link = self._loop.link(assignment, self._data, record, self._intents)
        context = AsyncContext(assignment, link, state)
        handler = await self._run(_call(task, event, context, link), assignment, link)
        held = (assignment.execution, assignment.claim)
        try:
            result = handler.result()
            context.check_awaited()
            encoded = task.result_to_json(result, self._data.max_result)
        except BaseException as error:  # noqa: BLE001  # whatever leaves a handler ends its attempt, not the runner
            seconds = time.monotonic() - started
            if self._intents.interrupted(held):
                return reports.interrupted(error, assignment, seconds)
            return reports.ended_by(error, assignment, task.retry, seconds)
        return Finished(*held, encoded, time.monotonic() - started)

    async def _run(
        self, call: Coroutine[Any, Any, object], assignment: Assignment, link: AsyncLink
    ) -> asyncio.Task[object]:
        """Run a handler, and return its task when it and all that it started have ended."""
        held = (assignment.execution, assignment.claim)
        family: Family = WeakSet()
        _family.set(family)
        handler = self._handlers[held] = asyncio.create_task(call)
        self._interrupt()
        # So what the handler raises stays in its task, and a cancellation of ours is not taken for it.
        await asyncio.wait({handler})
        self._handlers.pop(held, None)
        if _was_released(handler):
            # Steps that run beside the one that was told have effects already: let them end and be recorded.
            await link.steps_ended()
        if leftovers := {task for task in family if not task.done()}:
            await end_leftovers(leftovers, FAMILY_GRACE)
        link.end()
        return handler


async def _call(
    task: Task[..., Any, Any], event: Event[Any], context: AsyncContext, link: AsyncLink
) -> object:
    """Call a handler inside its own asyncio task, so that whatever the call raises ends that."""
    try:
        link.begin()
        result = await task.function(event, context)
    except BaseException as error:
        forks.end_if_forked(error)
        raise
    forks.end_if_forked()
    return result


def _was_released(handler: asyncio.Task[object]) -> bool:
    error = None if handler.cancelled() else handler.exception()
    return isinstance(error, Released) and error.word in LETS_STEPS_END


def _task_of_its_family(
    loop: asyncio.AbstractEventLoop,
    call: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    **options: Any,
) -> asyncio.Task[Any]:
    """Make an asyncio task, and note whose it is: the family's in which it is made."""
    task = asyncio.Task(call, loop=loop, **options)
    family = _family.get(None)
    if family is not None:
        family.add(task)
    return task
