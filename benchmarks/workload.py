"""The tasks that the benchmarks run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from conductor import Conductor, Context, Event, Retry

app = Conductor()


@app.task
def empty(event: Event, ctx: Context) -> None:
    """Nothing: what remains is Conductor's own work."""


@app.task
def prints(event: Event, ctx: Context) -> None:
    """Print one line."""
    print("a line such as tasks print, to say what they do")


@app.task
def begun(event: Event, ctx: Context) -> float:
    """Say when the handler was begun, by the clock that all processes of the machine share."""
    return time.monotonic()


@app.task
def steps(event: Event[int], ctx: Context) -> tuple[float, float]:
    """Record so many steps; say when the first one began and the last one was acknowledged."""
    began = time.monotonic()
    for number in range(event.payload):
        ctx.step(f"step-{number}", int)
    return began, time.monotonic()


@app.task
def large_steps(event: Event[tuple[int, int]], ctx: Context) -> float:
    """Record so many steps with results of so many characters; say how long that took."""
    count, size = event.payload
    result = "x" * size
    began = time.monotonic()
    for number in range(count):
        ctx.step(f"step-{number}", lambda: result)
    return time.monotonic() - began


@app.task(max_attempts=2, retry=Retry(delays=[0]))
def goes_on(event: Event[tuple[int, str]], ctx: Context) -> float:
    """Record so many steps and fail; at the second attempt, say how long after that it is as far again."""
    count, note = event.payload
    for number in range(count):
        ctx.step(f"step-{number}", int)
    now = time.monotonic()
    if ctx.attempt == 1:
        Path(note).write_text(str(now))
        raise RuntimeError("once, for the benchmark")
    return now - float(Path(note).read_text())


@app.task
def work(event: Event[int], ctx: Context) -> tuple[float, float]:
    """Wait so many milliseconds, as work does that asks another machine; say from when to when.

    It leaves the processor free. Work that computes could not be spread over more runners than there are
    processors, so it would show how many these are, not what Conductor adds.
    """
    began = time.monotonic()
    time.sleep(event.payload / 1000)
    return began, time.monotonic()


@app.task
def checkpoints(event: Event[int], ctx: Context) -> list[float]:
    """Ask so many times; say how long each answer took."""
    return [_checkpoint(ctx) for _ in range(event.payload)]


def _checkpoint(ctx: Context) -> float:
    began = time.perf_counter()
    ctx.checkpoint()
    return time.perf_counter() - began


@app.task(max_attempts=2, retry=Retry(delays=[0]))
def crash(event: Event[str], ctx: Context) -> float:
    """Die at the first attempt; at the second, say how long after the death it began."""
    now = time.monotonic()
    note = Path(event.payload)
    if ctx.attempt == 1:
        note.write_text(str(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)
    return now - float(note.read_text())
