"""The context: what a handler may ask while it runs.

What to do next is decided by :mod:`conductor.replay`; here it is done, in :class:`Context` for handlers that
wait and in :class:`AsyncContext` for handlers that await. How questions reach the supervisor is the business
of a :class:`Link`: a runner's goes over a socket, the testing kit's does not.
"""

from __future__ import annotations

import inspect
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from functools import cached_property, partial
from typing import Any, NoReturn, ParamSpec, Protocol, SupportsIndex, TypeVar, overload

import msgspec

from conductor import values
from conductor.declarations import Retry, step_retry
from conductor.errors import ResultMismatch
from conductor.replay import Replay, Tries
from conductor_protocol.errors import UsageError
from conductor_protocol.messages import Assignment, RecordedStep, Word
from conductor_protocol.units import Duration, seconds

MOST_MESSAGE = 1000
"""Characters of a progress message that are kept."""

P = ParamSpec("P")
T = TypeVar("T")


class Signals(Protocol):
    """What a context may say and see without waiting."""

    max_result: int
    """Bytes that a result may have as JSON."""

    def stop_wanted(self) -> bool:
        """Tell whether a release or cancellation is wanted."""

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Tell how far the handler is."""

    def step_begins(self, name: str) -> None:
        """Note that a step's function is about to be called."""

    def step_ended(self, name: str) -> None:
        """Note that the step is recorded, or has failed."""


class Link(Signals, Protocol):
    """How a waiting handler reaches the supervisor."""

    def ask(self, step: str | None, limit: float | None) -> Word:
        """Ask whether to go on: at a checkpoint (None), or before a step that may take ``limit`` seconds."""

    def record_step(self, name: str, result: bytes, duration: float) -> Word:
        """Return once a step's result is committed.

        :raises StepRefused: if it never can be.
        """

    def load_steps(self, after: str | None) -> tuple[list[RecordedStep], Word]:
        """Fetch some of the recorded steps that follow the one of this name, or the first ones."""

    def pause(self, duration: float) -> None:
        """Wait so many seconds, less if a stop is wanted."""


class AsyncLink(Signals, Protocol):
    """How an awaiting handler reaches the supervisor: as :class:`Link`."""

    async def ask(self, step: str | None, limit: float | None) -> Word:
        """See :meth:`Link.ask`."""

    async def record_step(self, name: str, result: bytes, duration: float) -> Word:
        """See :meth:`Link.record_step`."""

    async def load_steps(self, after: str | None) -> tuple[list[RecordedStep], Word]:
        """See :meth:`Link.load_steps`."""

    async def pause(self, duration: float) -> None:
        """See :meth:`Link.pause`."""


class _Common:
    """What both kinds of context have."""

    def __init__(self, assignment: Assignment, signals: Signals, state: Any) -> None:
        self._assignment = assignment
        self._signals = signals
        self._replay = Replay(assignment.steps, assignment.steps_recorded)
        self.state: Any = state
        """What ``@app.lifespan`` yielded in this runner; None without one."""

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled.

        :raises TypeError: always.
        """
        raise TypeError(
            "ctx cannot be copied or pickled: it belongs to this run of the handler, in this process. Pass "
            "on what is needed of it, such as ctx.execution_id; threads may share it as it is"
        )

    @property
    def execution_id(self) -> str:
        """The execution's id: the same in all its attempts."""
        return self._assignment.execution

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1. A release does not use one up."""
        return self._assignment.attempt

    @property
    def task(self) -> str:
        """The task's name."""
        return self._assignment.task

    @cached_property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that stamps each line with task, execution and attempt."""
        return _StampedLogger(
            logging.getLogger(f"conductor.task.{self.task}"),
            {"task": self.task, "execution": self.execution_id, "attempt": self.attempt},
        )

    @property
    def should_stop(self) -> bool:
        """True once a release or cancellation is wanted. Never raises; costs no message."""
        return self._replay.word != "go on" or self._signals.stop_wanted()

    @property
    def word(self) -> Word:
        """The supervisor's last word on this attempt that was not "go on", or "go on"."""
        return self._replay.word

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the handler is. Cheap: at most ten a second are sent, and always the last.

        :param message: up to 1,000 characters; the rest is cut off.
        :raises UsageError: if a number is not one, or not finite.
        """
        self._replay.check()
        _check_progress(done, total)
        self._signals.progress(
            float(done), None if total is None else float(total), values.storable(str(message)[:MOST_MESSAGE])
        )

    def _must_ask(self) -> bool:
        """Tell whether a recorded step may be returned only after asking."""
        return self._signals.stop_wanted() or not self._replay.heard_lately()

    def _must_ask_before_new(self) -> bool:
        """Tell whether a new step may begin only after asking."""
        return self._signals.stop_wanted() or not self._replay.acknowledged_just_now()

    def _encoded(self, name: str, result: object) -> bytes:
        what = f'the result of step "{name}"'
        encoded = values.encode(result, what)
        values.check_size(encoded, self._signals.max_result, what)
        return encoded


class Context(_Common):
    """What a handler may ask while it runs.

    Annotate ``ctx: Context`` in sync and async handlers alike; an async handler gets an
    :class:`AsyncContext`, whose calls are awaited.
    """

    def __init__(self, assignment: Assignment, link: Link, state: Any = None) -> None:
        super().__init__(assignment, link, state)
        self._link = link
        self._loading = threading.Lock()
        """One page is loaded at a time: it may have what others look for."""

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: object,
        retry: Retry,
        timeout: Duration | None = None,
        **kwargs: object,
    ) -> T: ...
    @overload
    def step(
        self, name: str, fn: Callable[..., T], /, *args: object, timeout: Duration, **kwargs: object
    ) -> T: ...
    @overload
    def step(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def step(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        retry: Any = None,
        timeout: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return what ``fn(*args, **kwargs)`` returns, having called it once in the life of the execution.

        Asks whether to go on, unless the supervisor has just said so with the step before. If
        a result is recorded under ``name``, returns it without calling ``fn``;
        else calls ``fn``, and returns only when its result is committed.

        :param name: up to 500 characters, unique within the handler.
        :param retry: try again within this attempt when ``fn`` raises, after these delays.
        :param timeout: how long one call of ``fn`` may take; then the runner is stopped, the attempt failed.
        :raises DuplicateStep: if the name has been used in this attempt.
        :raises NotStorable: if the result has no form in JSON, or is too large; it is not recorded then.
        :raises ResultMismatch: if the result does not fit the return annotation of ``fn``; only one that fits
            is recorded, but the annotation may have changed since.
        :raises UsageError: if ``fn`` is no function, or an option cannot be meant.
        :raises Released: if the handler is to stop here.
        """
        self._replay.begin_step(name)
        kind = ResultKind(name, fn)
        tries = Tries(step_retry(name, retry))
        recorded = self._find(name)
        if recorded is not None:
            return kind.recorded(recorded)
        return self._run(kind, partial(fn, *args, **kwargs), tries, _limit(timeout))

    def checkpoint(self) -> Any:  # None; an async handler awaits it, and both annotate Context
        """Ask whether to go on.

        :raises Released: if the handler is to stop here.
        """
        self._ask(None, None)

    def _find(self, name: str) -> bytes | None:
        replay = self._replay
        while replay.needs_page(name):
            with self._loading:
                replay.check()
                if replay.needs_page(name):
                    steps, word = self._link.load_steps(replay.last_loaded)
                    replay.take_page(steps)
                    replay.heed(word)
        recorded = replay.take_result(name)
        if recorded is not None and self._must_ask():
            self._ask(None, None)
        return recorded

    def _run(self, kind: ResultKind, call: Callable[[], object], tries: Tries, limit: float | None) -> Any:
        name = kind.step
        while True:
            if limit is not None or self._must_ask_before_new():
                self._ask(name, limit)
            self._link.step_begins(name)
            try:
                started = time.monotonic()
                try:
                    result = call()
                except Exception as error:
                    wait = tries.wait_after(error)
                    if wait is None:
                        raise
                else:
                    return self._record(kind, result, time.monotonic() - started)
            finally:
                self._link.step_ended(name)
            self._link.pause(wait)

    def _record(self, kind: ResultKind, result: object, duration: float) -> Any:
        if inspect.isawaitable(result):
            values.close_unawaited(result)
            raise TypeError(
                f'step "{kind.step}" returned a coroutine, which a sync handler cannot await; '
                "make the handler async def and write: await ctx.step(...)"
            )
        encoded = self._encoded(kind.step, result)
        value = kind.fresh(encoded)
        self._replay.note_acknowledged(self._link.record_step(kind.step, encoded, duration))
        return value

    def _ask(self, step: str | None, limit: float | None) -> None:
        self._replay.check()
        self._replay.heed(self._link.ask(step, limit))


class AsyncContext(Context):
    """What an async handler may ask while it runs: as :class:`Context`, but awaited.

    Annotate ``ctx: AsyncContext`` where a type checker should know that steps of sync functions are awaited
    too.
    """

    def __init__(self, assignment: Assignment, link: AsyncLink, state: Any = None) -> None:
        import asyncio  # which a runner of sync handlers alone does not load

        _Common.__init__(self, assignment, link, state)
        self._async_link = link
        self._async_loading = asyncio.Lock()
        self._not_begun: dict[object, tuple[str | None, Coroutine[Any, Any, Any]]] = {}
        """Calls that nobody has begun to await, each with its step's name, None for a checkpoint."""

    @overload  # type: ignore[override]  # the same calls, awaited
    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: object,
        retry: Retry,
        timeout: Duration | None = None,  # noqa: ASYNC109  # enforced by the supervisor
        **kwargs: object,
    ) -> T: ...
    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: object,
        retry: Retry,
        timeout: Duration | None = None,  # noqa: ASYNC109  # enforced by the supervisor
        **kwargs: object,
    ) -> T: ...
    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: object,
        timeout: Duration,  # noqa: ASYNC109  # enforced by the supervisor
        **kwargs: object,
    ) -> T: ...
    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., T],
        /,
        *args: object,
        timeout: Duration,  # noqa: ASYNC109  # enforced by the supervisor
        **kwargs: object,
    ) -> T: ...
    @overload
    async def step(
        self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def step(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def step(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        retry: Any = None,
        timeout: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See :meth:`Context.step`. ``fn`` may be sync or async. Safe inside ``asyncio.gather``."""
        key = object()
        call = self._step(key, name, fn, args, kwargs, retry, timeout)
        self._not_begun[key] = (name, call)
        return call

    def checkpoint(self) -> Coroutine[Any, Any, None]:
        """See :meth:`Context.checkpoint`."""
        key = object()
        call = self._checkpoint(key)
        self._not_begun[key] = (None, call)
        return call

    def check_awaited(self) -> None:
        """Refuse a handler that has returned and left calls which nobody has awaited: they did nothing.

        Conductor itself asks this, when also the handler's tasks have ended.

        :raises UsageError: if there is such a call; it says what to write.
        """
        left = [
            (what, call)
            for what, call in self._not_begun.values()
            if inspect.getcoroutinestate(call) == inspect.CORO_CREATED
        ]
        self._not_begun.clear()
        for _, call in left:
            values.close_unawaited(call)
        if left:
            raise UsageError(_never_awaited([what for what, _ in left]))

    async def _step(
        self,
        key: object,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: Any,
        timeout: Any,  # noqa: ASYNC109  # enforced by the supervisor
    ) -> Any:
        self._not_begun.pop(key, None)
        self._replay.begin_step(name)
        kind = ResultKind(name, fn)
        tries = Tries(step_retry(name, retry))
        recorded = await self._find_async(name)
        if recorded is not None:
            return kind.recorded(recorded)
        return await self._run_async(kind, partial(fn, *args, **kwargs), tries, _limit(timeout))

    async def _checkpoint(self, key: object) -> None:
        self._not_begun.pop(key, None)
        await self._ask_async(None, None)

    async def _find_async(self, name: str) -> bytes | None:
        replay = self._replay
        while replay.needs_page(name):
            async with self._async_loading:
                replay.check()
                if replay.needs_page(name):
                    steps, word = await self._async_link.load_steps(replay.last_loaded)
                    replay.take_page(steps)
                    replay.heed(word)
        recorded = replay.take_result(name)
        if recorded is not None and self._must_ask():
            await self._ask_async(None, None)
        return recorded

    async def _run_async(
        self, kind: ResultKind, call: Callable[[], object], tries: Tries, limit: float | None
    ) -> Any:
        name = kind.step
        while True:
            if limit is not None or self._must_ask_before_new():
                await self._ask_async(name, limit)
            self._async_link.step_begins(name)
            try:
                started = time.monotonic()
                try:
                    result = call()
                    if inspect.isawaitable(result):
                        result = await result
                except Exception as error:
                    wait = tries.wait_after(error)
                    if wait is None:
                        raise
                else:
                    encoded = self._encoded(name, result)
                    value = kind.fresh(encoded)
                    duration = time.monotonic() - started
                    self._replay.note_acknowledged(
                        await self._async_link.record_step(name, encoded, duration)
                    )
                    return value
            finally:
                self._async_link.step_ended(name)
            await self._async_link.pause(wait)

    async def _ask_async(self, step: str | None, limit: float | None) -> None:
        self._replay.check()
        self._replay.heed(await self._async_link.ask(step, limit))


class ResultKind:
    """What a step's function says that it returns."""

    __slots__ = ("_annotation", "_fn", "step")

    def __init__(self, step: str, fn: object) -> None:
        """:raises UsageError: if this is no function, or nothing of its kind can be read back from JSON."""
        if not callable(fn):
            values.close_unawaited(fn)
            raise UsageError(
                f'step "{step}": expected a function, got {fn!r}; write the function and then its arguments, '
                f'such as ctx.step("{step}", fetch, url)'
            )
        self.step = step
        self._fn = fn
        self._annotation = values.result_annotation(fn)
        try:
            values.check_annotation(self._annotation)
        except UsageError as error:
            raise UsageError(f'step "{step}" cannot call {self._function}: {error}') from error

    def fresh(self, result: bytes) -> Any:
        """Return a result that is about to be recorded: what cannot be read again must not be.

        :raises ResultMismatch: if it does not fit.
        """
        return self._read(result, "Return what the annotation says, or let it say what is returned")

    def recorded(self, result: bytes) -> Any:
        """Return a result that was recorded earlier.

        :raises ResultMismatch: if it does not fit.
        """
        return self._read(
            result, "Let the annotation allow what was recorded, or give the changed step a new name"
        )

    def _read(self, result: bytes, advice: str) -> Any:
        try:
            return values.decode(result, self._annotation)
        except msgspec.ValidationError as error:
            raise ResultMismatch(
                f'the result of step "{self.step}" does not fit the return annotation of '
                f"{self._function}, {self._annotation}: {error}. {advice}"
            ) from error

    @property
    def _function(self) -> str:
        return getattr(self._fn, "__qualname__", repr(self._fn))


def _check_progress(done: object, total: object) -> None:
    for name, value in (("done", done), ("total", total)):
        if value is None and name == "total":
            continue
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"ctx.progress {name}: expected a finite number such as 3, got {value!r}")


def _limit(timeout: Duration | None) -> float | None:
    limit = None if timeout is None else seconds(timeout, "ctx.step timeout")
    if limit == 0:
        raise UsageError('ctx.step timeout: expected more than zero seconds, such as "30s", got 0')
    return limit


def _never_awaited(calls: list[str | None]) -> str:
    first, others = calls[0], len(calls) - 1
    what = "ctx.checkpoint()" if first is None else f'step "{first}"'
    write = "await ctx.checkpoint()" if first is None else "await ctx.step(...)"
    more = "" if not others else f" (nor {'was' if others == 1 else 'were'} {others} more)"
    return f"{what} was never awaited{more}; write: {write}"


class _StampedLogger(logging.LoggerAdapter[logging.Logger]):
    """Says in each line whose it is."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        stamp = self.extra or {}
        kwargs["extra"] = {**stamp, **(kwargs.get("extra") or {})}
        return f"[{stamp['task']} {stamp['execution']} attempt {stamp['attempt']}] {msg}", kwargs
