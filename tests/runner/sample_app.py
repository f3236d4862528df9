"""One task for each thing that a handler can do to its runner."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from conductor import AsyncContext, Conductor, Context, Event, Fail, Invocation, Retry, RetryAfter

app = Conductor()
lasting = Conductor()
lasting_async = Conductor()
broken_lifespan = Conductor()
broken_async_lifespan = Conductor()
broken_teardown = Conductor()
yields_twice = Conductor()
yields_twice_async = Conductor()
yields_never = Conductor()
touched = Path("touched")
"""Where handlers leave a mark for the test to see."""


def touch(line: str) -> None:
    with touched.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


@dataclass
class Point:
    x: int
    y: int = 0


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def now() -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC)


def pair() -> tuple[int, int]:
    return (1, 2)


# Endings


@app.task
def echo(event: Event, ctx: Context) -> object:
    return [event.payload, event.name, event.scheduled_for, ctx.execution_id, ctx.attempt, ctx.task]


@app.task
async def echo_async(event: Event, ctx: Context) -> object:
    await asyncio.sleep(0)
    return [event.payload, ctx.attempt, ctx.task]


@app.task
def typed(event: Event[Point], ctx: Context) -> int:
    return event.payload.x + event.payload.y


@app.task(retry=Retry(on=(ValueError, KeyError), never_on=UnicodeError))
def fail(event: Event[str], ctx: Context) -> None:
    match event.payload:
        case "value":
            raise ValueError("no good")
        case "unicode":
            raise UnicodeError("no text")
        case "type":
            raise TypeError("not retried")
        case "fail":
            raise Fail("for good")
        case "later":
            raise RetryAfter("30s")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "mute":
            raise Mute
        case "surrogate":
            raise ValueError("\ud800 and \0")
        case "cause":
            try:
                dict[str, int]()["missing"]
            except KeyError as error:
                raise ValueError("outer") from error
        case "group":
            raise ExceptionGroup("two", [ValueError("one"), ValueError("other")])


@app.task
def unstorable(event: Event, ctx: Context) -> object:
    return object()


@app.task
def large(event: Event[int], ctx: Context) -> str:
    return "x" * event.payload


@app.task
def large_step(event: Event[int], ctx: Context) -> None:
    ctx.step("large", str.zfill, "0", event.payload)


@app.task
def not_async(event: Event, ctx: Context) -> object:
    return echo_async.function(event, ctx)


# Steps and checkpoints


@app.task
def two_steps(event: Event, ctx: Context) -> list[int]:
    return [ctx.step("one", int, 1), ctx.step("two", int, 2)]


@app.task
async def two_steps_async(event: Event, ctx: AsyncContext) -> list[int]:
    return [await ctx.step("one", asyncio.sleep, 0, 1), await ctx.step("two", int, 2)]


@app.task
async def blocks_while_it_asks(event: Event, ctx: AsyncContext) -> int:
    asked = asyncio.create_task(ctx.step("one", int))
    for _ in range(5):
        await asyncio.sleep(0)
    touch("blocking")
    while not Path("go").exists():
        time.sleep(0.01)  # noqa: ASYNC251  # the mistake itself
    return await asked


@app.task
async def forgets_to_await(event: Event, ctx: AsyncContext) -> None:
    ctx.step("charge the card", touch)  # type: ignore[unused-coroutine]  # the mistake itself


@app.task
def typed_steps(event: Event, ctx: Context) -> list[str]:
    return [
        repr(ctx.step("moment", now)),
        repr(ctx.step("pair", pair)),
        repr(ctx.step("plain", lambda: (1, 2))),
    ]


def half() -> int:
    return 1.5  # type: ignore[return-value]  # the mistake itself


@app.task
def misfit_step(event: Event, ctx: Context) -> None:
    ctx.step("count", half)


@app.task
async def misfit_step_async(event: Event, ctx: AsyncContext) -> None:
    await ctx.step("count", half)


@app.task
def misfit(event: Event, ctx: Context) -> int:
    return half() + 0.25  # type: ignore[return-value]  # the mistake itself


def either() -> datetime | str:
    raise AssertionError("it was called")


@app.task
def ambiguous_step(event: Event, ctx: Context) -> None:
    ctx.step("either", either)


@app.task
async def ambiguous_step_async(event: Event, ctx: AsyncContext) -> None:
    await ctx.step("either", either)


@app.task
def same_name(event: Event, ctx: Context) -> None:
    ctx.step("one", int, 1)
    ctx.step("one", int, 1)


@app.task
def named(event: Event[str], ctx: Context) -> None:
    ctx.step(event.payload, int)


@app.task
def named_by_half_a_pair(event: Event, ctx: Context) -> None:
    ctx.step("half a pair \ud800", touch, "called")


@app.task
def count_to(event: Event[int], ctx: Context) -> int:
    return sum(ctx.step(f"step-{number}", int, number) for number in range(event.payload))


@app.task
def count_down_from(event: Event[int], ctx: Context) -> int:
    return sum(ctx.step(f"step-{number}", int, number) for number in reversed(range(event.payload)))


@app.task
def unawaited_step(event: Event, ctx: Context) -> None:
    ctx.step("async", asyncio.sleep, 0)  # type: ignore[unused-coroutine]  # the mistake itself


@app.task
def flaky(event: Event[int], ctx: Context) -> int:
    """Fail so often, then return."""
    failures = iter(range(event.payload))

    def attempt() -> int:
        for number in failures:
            raise ValueError(f"failure {number}")
        return 42

    return ctx.step("flaky", attempt, retry=Retry(delays=[0, 0]), timeout="5s")


@app.task
async def flaky_async(event: Event, ctx: Context) -> None:
    async def attempt() -> None:
        touch("tried")
        raise ValueError("always")

    await ctx.step("flaky", attempt, retry=Retry(delays=["1h"]))


@app.task
def flaky_slowly(event: Event, ctx: Context) -> None:
    def attempt() -> None:
        touch("tried")
        raise ValueError("always")

    ctx.step("flaky", attempt, retry=Retry(delays=["1h"]))


@app.task
def checkpoints(event: Event[int], ctx: Context) -> None:
    for _ in range(event.payload):
        ctx.checkpoint()


@app.task
async def checkpoints_async(event: Event[int], ctx: Context) -> None:
    for _ in range(event.payload):
        await ctx.checkpoint()


# Releases


@app.task
def cleans_up(event: Event, ctx: Context) -> None:
    try:
        ctx.checkpoint()
    except Exception:  # noqa: BLE001
        touch("caught")
    finally:
        touch("cleaned up")


@app.task
def swallows(event: Event, ctx: Context) -> str:
    for _ in range(2):
        try:
            ctx.checkpoint()
        except BaseException as release:  # noqa: BLE001
            touch(type(release).__name__)
    return "returned all the same"


@app.task
async def grouped(event: Event, ctx: Context) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.checkpoint())


@app.task
async def released_beside_a_step(event: Event, ctx: Context) -> None:
    begun = asyncio.Event()

    async def slow() -> str:
        begun.set()
        while not ctx.should_stop:  # noqa: ASYNC110  # a handler has nothing else to wait for
            await asyncio.sleep(0.001)
        return "done"

    async def ask() -> None:
        await begun.wait()
        await ctx.checkpoint()

    await asyncio.gather(ctx.step("slow", slow), ask())


@app.task
def waits_for_stop(event: Event, ctx: Context) -> str:
    touch("waiting")
    while not ctx.should_stop:
        time.sleep(0.001)
    return "saw it"


@app.task
def tells_of_stop(event: Event, ctx: Context) -> None:
    """Note each change of ``ctx.should_stop``; ask once it has been true for half a second."""
    told, since = None, time.monotonic()
    while not (told and time.monotonic() - since > 0.5):
        if ctx.should_stop != told:
            told, since = ctx.should_stop, time.monotonic()
            touch(str(told))
        time.sleep(0.001)
    ctx.checkpoint()


# Concurrency


@app.task
async def gathered(event: Event[int], ctx: Context) -> int:
    async def give(number: int) -> int:
        await asyncio.sleep(0)
        return number

    return sum(await asyncio.gather(*(ctx.step(f"step-{n}", give, n) for n in range(event.payload))))


@app.task
def threaded(event: Event[int], ctx: Context) -> int:
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(lambda number: ctx.step(f"step-{number}", int, number), range(event.payload)))


@app.task
async def leaves_a_task_behind(event: Event, ctx: Context) -> None:
    async def linger() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            touch("cancelled")

    leaves_a_task_behind.lingering = asyncio.create_task(linger())  # type: ignore[attr-defined]
    await asyncio.sleep(0)


@app.task
def leaves_a_thread_behind(event: Event, ctx: Context) -> None:
    def use() -> None:
        released.wait()
        try:
            ctx.checkpoint()
        except Exception as error:  # noqa: BLE001
            touch(type(error).__name__)

    released = threading.Event()
    leaves_a_thread_behind.released = released  # type: ignore[attr-defined]
    leaves_a_thread_behind.thread = threading.Thread(target=use, daemon=True)  # type: ignore[attr-defined]
    leaves_a_thread_behind.thread.start()  # type: ignore[attr-defined]


@app.task
def lets_the_thread_go(event: Event, ctx: Context) -> None:
    leaves_a_thread_behind.released.set()  # type: ignore[attr-defined]
    leaves_a_thread_behind.thread.join()  # type: ignore[attr-defined]


# Talking


@app.task
def prints(event: Event[str], ctx: Context) -> None:
    sys.stdout.write(event.payload)
    ctx.logger.info("logged")


@app.task
def progresses(event: Event[int], ctx: Context) -> None:
    for done in range(event.payload):
        ctx.progress(done + 1, event.payload, "counting")


@app.task
def invokes(event: Event, ctx: Context) -> object:
    handles = app.invoke_many("echo", [1, Invocation(2, priority=5)])
    return [handles[0].result(), handles[1].id]


@app.task
async def invokes_async(event: Event, ctx: Context) -> object:
    first = await echo.invoke_async(1)
    second = await asyncio.to_thread(echo.invoke, 2)
    third = echo.invoke(3)
    return [await first.result_async(), second.id, third.id]


# Deaths


@app.task
def segfault(event: Event, ctx: Context) -> None:
    ctx.step("fine", int, 1)
    ctx.step("read address zero", ctypes.string_at, 0)


@app.task
def vanish(event: Event, ctx: Context) -> None:
    os._exit(5)


@app.task
def starts_a_process(event: Event, ctx: Context) -> int:
    return subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


@app.task
def hang(event: Event, ctx: Context) -> None:
    touch("hanging")
    threading.Event().wait()


# Lifespans


@lasting.lifespan
def resources() -> Iterator[dict[str, str]]:
    touch("set up")
    yield {"pool": "open"}
    touch("torn down")


@lasting.task
def uses_state(event: Event, ctx: Context) -> object:
    return ctx.state


@lasting_async.lifespan
async def resources_async() -> AsyncIterator[asyncio.Queue[str]]:
    async with asyncio.TaskGroup() as group:
        queue: asyncio.Queue[str] = asyncio.Queue()
        worker = group.create_task(feed(queue))
        yield queue
        worker.cancel()
    touch("torn down")


async def feed(queue: asyncio.Queue[str]) -> None:
    while True:
        await queue.put("fed")
        await asyncio.sleep(0.001)


@lasting_async.task
async def uses_async_state(event: Event, ctx: Context) -> object:
    return await ctx.state.get()


@broken_lifespan.lifespan
def breaks() -> Iterator[None]:
    if sys.argv:
        raise RuntimeError("no database today")
    yield


@broken_async_lifespan.lifespan
async def breaks_async() -> AsyncIterator[None]:
    if sys.argv:
        raise RuntimeError("no database today")
    yield


@broken_teardown.lifespan
def breaks_at_the_end() -> Iterator[None]:
    yield
    raise RuntimeError("no way to close")


@yields_twice.lifespan
def twice() -> Iterator[None]:
    yield
    yield


@yields_twice_async.lifespan
async def twice_async() -> AsyncIterator[None]:
    yield
    yield


@yields_never.lifespan
def never() -> Iterator[None]:
    if not sys.argv:
        yield
