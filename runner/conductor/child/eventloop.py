"""What async handlers need: an event loop, and a way to the supervisor that is awaited.

Imported only for an app that has something async: asyncio is a third of what a runner would import.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from conductor.child import forks
from conductor.child.control import Intents
from conductor.child.handlerlink import HandlerLink, word_on_step
from conductor.child.link import DataLink, expect
from conductor.errors import Released
from conductor_protocol import messages as m
from conductor_protocol.recorder import Record

LEFTOVER_GRACE = 2.0
"""Seconds that tasks which an async handler left behind may take to end once they are cancelled."""

LETS_STEPS_END: tuple[m.Word, ...] = ("shutdown", "window")
"""Releases that wait for the steps which run beside the one that was told."""

log = logging.getLogger(__name__)


class EventLoop:
    """Where all async handlers of a runner run, and its lifespan if that is async."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._lasting: set[asyncio.Task[Any]] = set()
        """The tasks that outlive a handler: the lifespan's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

    @contextmanager
    def shared(self, function: Callable[[], AsyncIterator[object]]) -> Iterator[object]:
        """Run an async generator as :func:`conductor.child.lifespan.shared` does.

        It lives in one task for all its life: a task group in it insists on that.
        """
        loop = self._runner.get_loop()
        ready: asyncio.Future[object] = loop.create_future()
        over = asyncio.Event()

        async def live() -> None:
            async with asynccontextmanager(function)() as state:
                ready.set_result(state)
                await over.wait()

        life = loop.create_task(live())
        _run_until_either(loop, life, ready)
        self._lasting = asyncio.all_tasks(loop)
        try:
            yield ready.result()
        finally:
            over.set()
            loop.run_until_complete(life)

    def link(self, assignment: m.Assignment, data: DataLink, recorder: Record, intents: Intents) -> AsyncLink:
        """Return an execution's way to the supervisor."""
        return AsyncLink(self, assignment, data, recorder, intents)

    def run(self, handler: Coroutine[Any, Any, object], link: AsyncLink, data: DataLink) -> object:
        """Run a handler to its end, and return what it returns."""
        loop = self._runner.get_loop()
        with data.served_by(loop):
            try:
                return loop.run_until_complete(handler)
            except Released as released:
                # Steps that run beside this one have effects already: let them end and be recorded.
                if released.word in LETS_STEPS_END and not forks.in_child:
                    loop.run_until_complete(link.steps_ended())
                raise
            finally:
                if not forks.in_child:
                    self._end_leftovers()

    def _end_leftovers(self) -> None:
        loop = self._runner.get_loop()
        leftovers = asyncio.all_tasks(loop) - self._lasting
        if leftovers:
            loop.run_until_complete(end_leftovers(leftovers))

    def serve(self, session: Coroutine[Any, Any, None], data: DataLink) -> None:
        """Run a session, which itself runs handlers, to its end."""
        loop = self._runner.get_loop()
        with data.served_by(loop):
            main = loop.create_task(session)
            while not main.done():
                # asyncio throws these out of the loop as well as to whoever awaits the task that raised them:
                # an exit of one handler is no reason to end the others.
                with suppress(SystemExit, KeyboardInterrupt):
                    loop.run_until_complete(main)
            main.result()

    def run_alone(self, handler: Coroutine[Any, Any, object]) -> object:
        """Run a handler that no supervisor listens to, to its end, and return what it returns."""
        loop = self._runner.get_loop()
        try:
            return loop.run_until_complete(handler)
        finally:
            self._end_leftovers()


def _run_until_either(
    loop: asyncio.AbstractEventLoop, life: asyncio.Task[None], ready: asyncio.Future[Any]
) -> None:
    loop.run_until_complete(asyncio.wait({life, ready}, return_when=asyncio.FIRST_COMPLETED))
    if life.done():
        life.result()


async def end_leftovers(leftovers: set[asyncio.Task[Any]], grace: float = LEFTOVER_GRACE) -> None:
    """Cancel what a handler left running, and wait so many seconds for it to end."""
    for task in leftovers:
        task.cancel()
    _, stubborn = await asyncio.wait(leftovers, timeout=grace)
    for task in stubborn:
        log.warning("a task that the handler left behind ignores its cancellation: %r", task)


class AsyncLink(HandlerLink):
    """A :class:`conductor.context.AsyncLink`."""

    def __init__(
        self,
        loop: EventLoop,
        assignment: m.Assignment,
        data: DataLink,
        recorder: Record,
        intents: Intents,
    ) -> None:
        super().__init__(assignment, data, recorder, intents)
        self._loop = loop
        self._step_ended = asyncio.Event()

    def run(self, handler: Coroutine[Any, Any, object]) -> object:
        """Run the handler to its end, and return what it returns."""
        self.begin()
        return self._loop.run(handler, self, self._data)

    async def ask(self, step: str | None, limit: float | None) -> m.Word:
        """Ask whether to go on."""
        return expect(await self._data.request_async(self._ask(step, limit)), m.Verdict).word

    async def record_step(self, name: str, result: bytes, duration: float) -> m.Word:
        """Return once a step's result is committed."""
        return word_on_step(name, await self._data.request_async(self._step_done(name, result, duration)))

    async def load_steps(self, after: str | None) -> tuple[list[m.RecordedStep], m.Word]:
        """Fetch recorded steps after this one."""
        page = expect(await self._data.request_async(self._load(after)), m.StepPage)
        return page.steps, page.word

    async def steps_ended(self) -> None:
        """Return once no step is in progress."""
        while self._steps:
            self._step_ended.clear()
            await self._step_ended.wait()

    def step_ended(self, name: str) -> None:
        """See the base class."""
        super().step_ended(name)
        self._step_ended.set()

    async def pause(self, duration: float) -> None:
        """Wait, less if a stop is wanted."""
        loop = asyncio.get_running_loop()
        wanted = asyncio.Event()
        with self._intents.waking(lambda: loop.call_soon_threadsafe(wanted.set)):
            if not self.stop_wanted():
                with suppress(TimeoutError):
                    await asyncio.wait_for(wanted.wait(), duration)
