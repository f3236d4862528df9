"""An app that drains are tried on."""

from __future__ import annotations

import os
import time
from datetime import datetime

from conductor import Conductor, Context, Event, Fail, Retry

app = Conductor()


@app.task
def add(event: Event[list[int]], ctx: Context) -> int:
    """Two steps; prints."""
    print("adding")
    first = ctx.step("first", int, event.payload[0])
    return ctx.step("sum", sum, event.payload[1:], start=first)


@app.task
def add_later(event: Event[list[int]], ctx: Context) -> str:
    """Invokes another task."""
    return ctx.step("invoke", lambda: add.invoke(event.payload).id)


@app.task
def refuse(event: Event, ctx: Context) -> None:
    """Fails for good."""
    raise Fail("never")


@app.task
def give_up(event: Event, ctx: Context) -> None:
    """Cancels itself."""
    app.cancel(ctx.execution_id, "changed my mind")
    while True:
        ctx.checkpoint()


@app.task(retry=Retry(delays=["1h"]))
def second_time_lucky(event: Event, ctx: Context) -> int:
    """Fails at the first attempt."""
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return ctx.attempt


@app.task(window=("22:00", "06:00"))
def at_night(event: Event, ctx: Context) -> str:
    """Has a window."""
    return "good night"


@app.task(cron="30 2 * * *")
def nightly(event: Event, ctx: Context) -> datetime | None:
    """Has a schedule."""
    return event.scheduled_for


@app.task
def sleep(event: Event, ctx: Context) -> None:
    """Does not end in time."""
    time.sleep(60)


@app.task
def environment(event: Event[str], ctx: Context) -> str | None:
    """Looks at its process."""
    return os.environ.get(event.payload)
