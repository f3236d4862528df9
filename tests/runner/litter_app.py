"""Handlers that do to their process whatever the test says."""

from __future__ import annotations

import ctypes
import locale
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from conductor import AsyncContext, Conductor, Context, Event

app = Conductor()
hanging = Conductor()
hanging_async = Conductor()
forking = Conductor()

resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p


def touch(line: str) -> None:
    with Path("touched").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _do(event: Event[str], ctx: Context) -> object:
    names = {"ctx": ctx, "app": app, "touch": touch}
    exec(event.payload, names)
    return names.get("result")


for one in (app, hanging, forking):
    one.task(name="do")(_do)


@app.task
async def do_async(event: Event[str], ctx: AsyncContext) -> object:
    """Run the code as the body of a coroutine function."""
    names: dict[str, object] = {"ctx": ctx, "app": app, "touch": touch}
    body = "\n".join(f"    {line}" for line in event.payload.splitlines())
    exec(f"async def body():\n{body}", names)
    return await names["body"]()  # type: ignore[operator]


@app.task
def look(event: Event, ctx: Context) -> dict[str, object]:
    """Tell how the process is."""
    umask = os.umask(0)
    os.umask(umask)
    signals = sorted(signal.valid_signals())
    return {
        "cwd": str(Path.cwd()),
        "umask": umask,
        "environ": dict(os.environ),
        "for C": [str(libc.getenv(name.encode())) for name in ("PATH", "LITTER", "TZ")],
        "zone": time.tzname,
        "locale": locale.setlocale(locale.LC_ALL, None),
        "handlers": [repr(signal.getsignal(number)) for number in signals],
        "timers": [signal.getitimer(timer) for timer in (0, 1, 2)],
        "streams": [id(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
    }


@hanging.lifespan
def hangs() -> Iterator[None]:
    yield
    touch("tearing down")
    time.sleep(3600)


@hanging_async.lifespan
async def hangs_async() -> AsyncIterator[None]:
    yield
    touch("tearing down")
    time.sleep(3600)  # noqa: ASYNC251  # a hang is the point


@forking.lifespan
def forks() -> Iterator[str]:
    yield "parent" if os.fork() else "child"
    touch("torn down")
