"""The app that the stories run: small tasks that write into the diary what happens to them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import chaos_runner
import diary

from conductor import AsyncContext, Conductor, Context, Cron, Event, Fail, Retry, Window
from conductor_protocol.manifest import Isolation

chaos_runner.watch()

ISOLATION = cast(Isolation, os.environ.get("CHAOS_ISOLATION", "runner"))

WINDOWS = [Window(f"{hour:02}:{minute:02}", f"{hour:02}:{minute + 1:02}")
           for hour in range(6) for minute in range(0, 60, 2)]  # fmt: skip
"""Open in every even minute."""
MINUTE = 60_000_000

LIMIT = 2
LARGE = "x" * 100_000
LARGEST = 300_000

app = Conductor()
Any_context = Context | AsyncContext


class Attempt:
    """What an attempt writes about itself."""

    def __init__(self, event: Event[Any], ctx: Any_context) -> None:
        self._ctx = ctx
        self._word = uuid.uuid4().hex[:12]

    def note(self, what: str, detail: str = "") -> None:
        """Write a line."""
        diary.write(
            diary.Line(
                what=what,
                task=self._ctx.task,
                execution=self._ctx.execution_id,
                attempt=self._word,
                pid=os.getpid(),
                parent=os.getppid(),
                detail=detail,
                clock=diary.clock_now(),
            )
        )

    def look_around(self, limit: int | None) -> None:
        """Note who runs beside us that must not: an earlier attempt, or too many of our task."""
        others = [
            line
            for line in diary.unfinished(diary.read(Path()))
            if line.attempt != self._word and line.task == self._ctx.task and diary.is_alive(line.pid)
        ]
        if rivals := [line for line in others if line.execution == self._ctx.execution_id]:
            self.note("violation", f"beside another attempt of its own: {rivals}")
        if limit is not None and len(others) >= limit:
            self.note("violation", f"above the limit, beside {others}")

    def run_step(self, name: str) -> str:
        """Be the function of a step."""
        self.note("run", name)
        time.sleep(0.005)
        return f"{name} of {self._ctx.execution_id}"

    async def run_step_async(self, name: str) -> str:
        """Be the function of a step."""
        self.note("run", name)
        await asyncio.sleep(0.005)
        return f"{name} of {self._ctx.execution_id}"

    def acked(self, name: str, value: str) -> None:
        """Note that a step was recorded; nobody may run it from here on."""
        if value != f"{name} of {self._ctx.execution_id}":
            self.note("violation", f"step {name} returned {value!r}")
        self.note("acked", name)

    def checked(self, before: int) -> None:
        """Note it if an ask outside the window was answered as if it had been inside."""
        minute = before // MINUTE
        if minute % 2 and diary.clock_now() // MINUTE == minute:
            self.note("violation", "went on after it had asked outside its window")


@contextmanager
def attempt(event: Event[Any], ctx: Any_context, limit: int | None = None) -> Iterator[Attempt]:
    """Note begin and end."""
    me = Attempt(event, ctx)
    me.note("begin")
    me.look_around(limit)
    ending = "returned"
    try:
        yield me
    except BaseException as error:
        ending = type(error).__name__
        raise
    finally:
        me.note("end", ending)


def task(**options: Any) -> Callable[[Any], Any]:
    """Declare a task that any number of mishaps leave attempts for."""
    return app.task(
        **{
            "max_attempts": 60,
            "retry": Retry(delays=[1]),
            "isolation": ISOLATION,
            "hang_after": "5s",
            **options,
        }
    )


def raise_until(me: Attempt, ctx: Any_context, attempts: int) -> None:
    """Raise in the first attempts that are charged."""
    if ctx.attempt <= attempts:
        me.note("raise")
        raise ValueError("as it was told")


if ISOLATION == "shared":

    @task()
    async def steps(event: Event[Any], ctx: AsyncContext) -> int:
        with attempt(event, ctx) as me:
            for name in (f"step-{number}" for number in range(event.payload["steps"])):
                me.acked(name, await ctx.step(name, me.run_step_async, name))
                await ctx.checkpoint()
            raise_until(me, ctx, event.payload.get("raise", 0))
            return cast(int, event.payload["steps"])

    @task()
    async def large(event: Event[Any], ctx: AsyncContext) -> str:
        with attempt(event, ctx) as me:
            for number in range(4):
                await ctx.step(f"large-{number}", lambda: LARGE)
            raise_until(me, ctx, 1)
            return "x" * LARGEST

    @task(concurrency=LIMIT)
    async def limited(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx, LIMIT):
            await asyncio.sleep(0.03)

    @task()
    async def invokes(event: Event[Any], ctx: AsyncContext) -> str:
        with attempt(event, ctx):
            return (await app.invoke_async("quick", dedupe_key=f"child of {ctx.execution_id}")).id

    @task()
    async def quick(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx):
            pass

    @task()
    async def instant(event: Event[Any], ctx: AsyncContext) -> None:
        me = Attempt(event, ctx)
        me.note("begin")
        await asyncio.sleep(event.payload.get("pause", 0))
        me.note("end")

    @task(rate="1000/second")
    async def rated(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx):
            pass

    @task()
    async def progressing(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx):
            for number in range(5):
                ctx.progress(number, 5)
                print("progress", number, flush=True)
                await asyncio.sleep(0.1)

    @task()
    async def lingering(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx) as me:
            me.note("lingers")
            while True:
                await ctx.checkpoint()
                await asyncio.sleep(0.02)

    @task()
    async def stubborn(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx) as me:
            me.note("lingers")
            await asyncio.sleep(600)

    @task(window=WINDOWS)
    async def windowed(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx) as me:
            for _ in range(6):
                before = diary.clock_now()
                await ctx.checkpoint()
                me.checked(before)
                await asyncio.sleep(0.05)

    @task(window=WINDOWS)
    async def deaf(event: Event[Any], ctx: AsyncContext) -> None:
        with attempt(event, ctx):
            await asyncio.sleep(5)

else:

    @task()
    def steps(event: Event[Any], ctx: Context) -> int:
        with attempt(event, ctx) as me:
            for name in (f"step-{number}" for number in range(event.payload["steps"])):
                me.acked(name, ctx.step(name, me.run_step, name))
                ctx.checkpoint()
            raise_until(me, ctx, event.payload.get("raise", 0))
            return cast(int, event.payload["steps"])

    @task()
    def large(event: Event[Any], ctx: Context) -> str:
        with attempt(event, ctx) as me:
            for number in range(4):
                ctx.step(f"large-{number}", lambda: LARGE)
            raise_until(me, ctx, 1)
            return "x" * LARGEST

    @task(concurrency=LIMIT)
    def limited(event: Event[Any], ctx: Context) -> None:
        with attempt(event, ctx, LIMIT):
            time.sleep(0.03)

    @task()
    def invokes(event: Event[Any], ctx: Context) -> str:
        with attempt(event, ctx):
            return app.invoke("quick", dedupe_key=f"child of {ctx.execution_id}").id

    @task()
    def quick(event: Event[Any], ctx: Context) -> None:
        with attempt(event, ctx):
            pass

    @task()
    def instant(event: Event[Any], ctx: Context) -> None:
        me = Attempt(event, ctx)
        me.note("begin")
        time.sleep(event.payload.get("pause", 0))
        me.note("end")

    @task(rate="1000/second")
    def rated(event: Event[Any], ctx: Context) -> None:
        with attempt(event, ctx):
            pass

    @task()
    def progressing(event: Event[Any], ctx: Context) -> None:
        with attempt(event, ctx):
            for number in range(5):
                ctx.progress(number, 5)
                print("progress", number, flush=True)
                time.sleep(0.1)

    @task()
    def lingering(event: Event[Any], ctx: Context) -> None:
        with attempt(event, ctx) as me:
            me.note("lingers")
            while True:
                ctx.checkpoint()
                time.sleep(0.02)

    @task(window=WINDOWS)
    def windowed(event: Event[Any], ctx: Context) -> None:
        with attempt(event, ctx) as me:
            for _ in range(6):
                before = diary.clock_now()
                ctx.checkpoint()
                me.checked(before)
                time.sleep(0.05)

    @task(window=WINDOWS)
    def deaf(event: Event[Any], ctx: Context) -> None:
        with attempt(event, ctx):
            time.sleep(5)


@task(isolation="runner")
def crashes(event: Event[Any], ctx: Context) -> None:
    """Die of a segmentation fault in the first attempt."""
    with attempt(event, ctx) as me:
        if ctx.attempt == 1:
            me.note("crash")
            ctypes.string_at(0)


@task(isolation="runner", max_attempts=2)
def fails(event: Event[Any], ctx: Context) -> None:
    """Raise in each attempt."""
    with attempt(event, ctx) as me:
        me.note("raise")
        raise ValueError("as always")


@task(isolation="runner")
def gives_up(event: Event[Any], ctx: Context) -> None:
    """Fail for good."""
    with attempt(event, ctx) as me:
        me.note("raise")
        raise Fail("for good")


@task(isolation="runner", cron=Cron("* * * * *", catch_up="all"))
def ticks(event: Event[Any], ctx: Context) -> None:
    """Be fired every minute."""
    with attempt(event, ctx):
        pass
