"""The loop of a runner: take an execution, run its handler, report how it ended; one at a time."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

from conductor.app import Conductor
from conductor.child import forks, reports
from conductor.child.control import Intents
from conductor.child.handlerlink import SyncLink
from conductor.child.limits import memory_limit
from conductor.child.link import DataLink
from conductor.child.output import console
from conductor.child.surroundings import Surroundings
from conductor.child.wear import Wear
from conductor.context import AsyncContext, Context
from conductor.errors import PayloadMismatch
from conductor.tasks import Event, Task
from conductor_protocol import messages
from conductor_protocol.marks import Speaker
from conductor_protocol.messages import Assignment, Finished, Report
from conductor_protocol.recorder import Recorder

if TYPE_CHECKING:
    from conductor.child.eventloop import AsyncLink, EventLoop


class Session:
    """Runs what is assigned."""

    def __init__(
        self, app: Conductor, data: DataLink, recorder: Recorder, intents: Intents, loop: EventLoop | None
    ) -> None:
        """:param loop: where async handlers run; None if the app has none."""
        self._app = app
        self._data = data
        self._recorder = recorder
        self._intents = intents
        self._loop = loop

    def run(self, state: object) -> None:
        """Run executions until there will be no more.

        :param state: what ``ctx.state`` is.
        """
        surroundings = Surroundings()
        wear = Wear(self._data.terms.recycle_executions, self._data.terms.recycle_memory)
        while (assignment := self._data.next_work()) is not None:
            self._execute(assignment, state, surroundings, wear)

    def _execute(self, assignment: Assignment, state: object, surroundings: Surroundings, wear: Wear) -> None:
        """Run one execution. The order keeps blame exact: begun, reported, and only then the next."""
        held = (assignment.execution, assignment.claim)
        if self._intents.wanted(held):
            self._data.report(messages.Released(*held, "shutdown", 0.0, begun=False))
            self._intents.forget(held)
            return
        self._recorder.begin(assignment.execution, assignment.claim)
        speaker = Speaker(*held, assignment.attempt)
        console.begins(speaker)
        report = self._attempt(assignment, state)
        console.ends(speaker)  # what it has printed leaves before its report
        worn = surroundings.put_back(assignment.task, more=bool(self._data.work))
        if report is not None:
            self._data.report(report)
        self._recorder.idle()
        self._intents.forget(held)
        worn = worn or wear.after(assignment.task)
        if worn is not None:
            self._data.retire(worn)

    def _attempt(self, assignment: Assignment, state: object) -> Report | None:
        started = time.monotonic()
        called = called_for(self._app, assignment)
        if isinstance(called, messages.Failed):
            return called
        task, event = called
        link = self._link(task, assignment)
        try:
            with memory_limit(assignment.memory):
                result = self._call(task, event, assignment, link, state)
            forks.end_if_forked()
            encoded = task.result_to_json(result, self._data.max_result)
        except BaseException as error:  # noqa: BLE001  # whatever leaves a handler ends its attempt, not the runner
            forks.end_if_forked(error)
            link.end()
            return reports.ended_by(error, assignment, task.retry, time.monotonic() - started)
        link.end()
        return Finished(assignment.execution, assignment.claim, encoded, time.monotonic() - started)

    def _link(self, task: Task[..., Any, Any], assignment: Assignment) -> AsyncLink | SyncLink:
        if task.is_async and self._loop is not None:
            return self._loop.link(assignment, self._data, self._recorder, self._intents)
        return SyncLink(assignment, self._data, self._recorder, self._intents)

    def _call(
        self,
        task: Task[..., Any, Any],
        event: Event[Any],
        assignment: Assignment,
        link: AsyncLink | SyncLink,
        state: object,
    ) -> object:
        if not isinstance(link, SyncLink):
            awaiting = AsyncContext(assignment, link, state)
            result = link.run(task.function(event, awaiting))
            awaiting.check_awaited()
            return result
        link.begin()
        result = task.function(event, Context(assignment, link, state))
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"task {task.name} returned a coroutine; declare its function with async def")
        return result


def called_for(
    app: Conductor, assignment: Assignment
) -> tuple[Task[..., Any, Any], Event[Any]] | messages.Failed:
    """Return the task to call and the event to call it with, or the report on why it cannot be called."""
    task = app.tasks.get(assignment.task)
    if task is None:
        return reports.unknown_task(assignment)
    started = time.monotonic()
    try:
        return task, task.event(assignment)
    except PayloadMismatch as error:
        return reports.unfit_payload(error, assignment, time.monotonic() - started)
