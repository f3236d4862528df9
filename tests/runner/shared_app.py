"""Handlers that share a runner: each meets the others, or does one thing that must not disturb them."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from conductor import AsyncContext, Conductor, Event

app = Conductor()
mine: contextvars.ContextVar[object] = contextvars.ContextVar("mine")


def touch(line: str) -> None:
    with Path("touched").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class Meeting:
    """Where handlers wait for each other."""

    def __init__(self) -> None:
        self._inside = 0
        self._changed = asyncio.Condition()

    async def of(self, number: int) -> None:
        async with self._changed:
            self._inside += 1
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._inside >= number)


@app.lifespan
async def meeting() -> AsyncIterator[Meeting]:
    touch("up")
    yield Meeting()
    touch("down")


@app.task
async def meets(event: Event[int], ctx: AsyncContext) -> object:
    mine.set(ctx.execution_id)
    await ctx.state.of(event.payload)
    await asyncio.sleep(0)
    return mine.get()


@app.task
async def echo(event: Event, ctx: AsyncContext) -> object:
    return event.payload


@app.task
async def forgets_to_await(event: Event, ctx: AsyncContext) -> None:
    ctx.step("charge the card", int)  # type: ignore[unused-coroutine]  # the mistake itself


@app.task
async def steps(event: Event[int], ctx: AsyncContext) -> int:
    for number in range(event.payload):
        await ctx.step(f"step-{number}", asyncio.sleep, 0, number)
    return event.payload


@app.task
async def waits(event: Event, ctx: AsyncContext) -> None:
    """Deaf: it never asks."""
    touch("waiting")
    try:
        await asyncio.Event().wait()
    finally:
        touch("unwound")


@app.task
async def waits_in_a_step(event: Event, ctx: AsyncContext) -> None:
    await ctx.step("endless", asyncio.Event().wait)


@app.task
async def ignores(event: Event, ctx: AsyncContext) -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "all the same"
    return "never"


@app.task
async def watches(event: Event, ctx: AsyncContext) -> None:
    while not ctx.should_stop:  # noqa: ASYNC110  # this is what is looked at
        await asyncio.sleep(0.001)
    await ctx.checkpoint()


@app.task
async def leaves_a_task_behind(event: Event, ctx: AsyncContext) -> None:
    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            touch("ended with its handler")

    app.left = asyncio.create_task(linger())  # type: ignore[attr-defined]
    await asyncio.sleep(0)


@app.task
async def exits(event: Event[bool], ctx: AsyncContext) -> None:
    async def leave() -> None:
        sys.exit(3)

    if event.payload:
        await asyncio.create_task(leave())
    sys.exit(3)
