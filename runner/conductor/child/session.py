"""The loop of a runner: take an execution, run its handler, report how it ended; one at a time."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import Coroutine
from typing import Any

from conductor import values
from conductor.app import Conductor
from conductor.child import reports
from conductor.child.control import Intents
from conductor.child.handlerlink import AsyncLink, SyncLink
from conductor.child.link import DataLink
from conductor.context import AsyncContext, Context
from conductor.errors import PayloadMismatch, Released
from conductor.tasks import Event, Task
from conductor_protocol.messages import Assignment, Finished, Report
from conductor_protocol.recorder import Recorder

LEFTOVER_GRACE = 2.0
"""Seconds that tasks which an async handler left behind may take to end once they are cancelled."""

log = logging.getLogger(__name__)


class Session:
    """Runs what is assigned."""

    def __init__(
        self, app: Conductor, data: DataLink, recorder: Recorder, intents: Intents, loop: asyncio.Runner
    ) -> None:
        """:param loop: the event loop of all async handlers of this runner."""
        self._app = app
        self._data = data
        self._recorder = recorder
        self._intents = intents
        self._loop = loop
        self._lasting: set[asyncio.Task[Any]] = set()

    def run(self, state: object) -> None:
        """Run executions until there will be no more.

        :param state: what ``ctx.state`` is.
        """
        if any(task.is_async for task in self._app.tasks.values()):
            self._lasting = asyncio.all_tasks(self._loop.get_loop())
        while (assignment := self._data.next_work()) is not None:
            self._execute(assignment, state)

    def _execute(self, assignment: Assignment, state: object) -> None:
        """Run one execution. The order keeps blame exact: begun, reported, and only then the next."""
        self._recorder.begin(assignment.execution, assignment.claim)
        report = self._attempt(assignment, state)
        if report is not None:
            self._data.report(report)
        self._recorder.idle()
        self._intents.forget((assignment.execution, assignment.claim))
        _flush_output()

    def _attempt(self, assignment: Assignment, state: object) -> Report | None:
        task = self._app.tasks.get(assignment.task)
        if task is None:
            return reports.unknown_task(assignment)
        started = time.monotonic()
        try:
            event = task.event(assignment)
        except PayloadMismatch as error:
            return reports.unfit_payload(error, assignment, time.monotonic() - started)
        link_type = AsyncLink if task.is_async else SyncLink
        link = link_type(assignment, self._data, self._recorder, self._intents)
        try:
            result = self._call(task, event, assignment, link, state)
            encoded = self._encoded(task, result)
        except BaseException as error:  # noqa: BLE001  # whatever leaves a handler ends its attempt, not the runner
            link.end()
            return reports.ended_by(error, assignment, task.retry, time.monotonic() - started)
        link.end()
        return Finished(assignment.execution, assignment.claim, encoded, time.monotonic() - started)

    def _call(
        self,
        task: Task[..., Any, Any],
        event: Event[Any],
        assignment: Assignment,
        link: AsyncLink | SyncLink,
        state: object,
    ) -> object:
        if isinstance(link, AsyncLink):
            return self._await(task.function(event, AsyncContext(assignment, link, state)), link)
        result = task.function(event, Context(assignment, link, state))
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"task {task.name} returned a coroutine; declare its function with async def")
        return result

    def _encoded(self, task: Task[..., Any, Any], result: object) -> bytes:
        what = f"the result of task {task.name}"
        encoded = values.encode(result, what)
        values.check_size(encoded, self._data.max_result, what)
        return encoded

    # Async handlers

    def _await(self, handler: Coroutine[Any, Any, object], link: AsyncLink) -> object:
        loop = self._loop.get_loop()
        with self._data.served_by(loop):
            try:
                return loop.run_until_complete(handler)
            except Released as released:
                # Steps that run beside this one have effects already: let them end and be recorded.
                if released.word in ("shutdown", "window"):
                    loop.run_until_complete(link.steps_ended())
                raise
            finally:
                leftovers = asyncio.all_tasks(loop) - self._lasting
                if leftovers:
                    loop.run_until_complete(_end(leftovers))


async def _end(leftovers: set[asyncio.Task[Any]]) -> None:
    """Cancel what a handler left running, and wait a moment for it to end."""
    for task in leftovers:
        task.cancel()
    _, stubborn = await asyncio.wait(leftovers, timeout=LEFTOVER_GRACE)
    for task in stubborn:
        log.warning("a task that the handler left behind ignores its cancellation: %r", task)


def _flush_output() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # closed or replaced by the handler: its own affair
