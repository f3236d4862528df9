"""What handlers share in a runner: set up before its first execution, torn down after its last."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast


@contextmanager
def shared(function: Callable[[], object] | None, loop: asyncio.Runner) -> Iterator[object]:
    """Run the generator that ``@app.lifespan`` marked, and give what it yields: ``ctx.state``.

    :param function: None: there is nothing to share.
    :param loop: where async handlers run too, so that they can use what was made there.
    """
    if function is None:
        yield None
    elif inspect.isasyncgenfunction(function):
        with _shared_async(function, loop.get_loop()) as state:
            yield state
    else:
        with contextmanager(cast("Callable[[], Iterator[object]]", function))() as state:
            yield state


@contextmanager
def _shared_async(
    function: Callable[[], AsyncIterator[object]], loop: asyncio.AbstractEventLoop
) -> Iterator[object]:
    """Keep an async generator in one task for all its life: a task group in it insists on that."""
    ready: asyncio.Future[object] = loop.create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with asynccontextmanager(function)() as state:
            ready.set_result(state)
            await over.wait()

    life = loop.create_task(live())
    _run_until_either(loop, life, ready)
    try:
        yield ready.result()
    finally:
        over.set()
        loop.run_until_complete(life)


def _run_until_either(
    loop: asyncio.AbstractEventLoop, life: asyncio.Task[None], ready: asyncio.Future[Any]
) -> None:
    loop.run_until_complete(asyncio.wait({life, ready}, return_when=asyncio.FIRST_COMPLETED))
    if life.done():
        life.result()
