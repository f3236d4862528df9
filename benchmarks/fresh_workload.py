"""A task whose attempts each run in a process of their own; such a task has runners of its own, too."""

from __future__ import annotations

import os
import time

from conductor import Conductor, Context, Event

app = Conductor()


@app.task(isolation="fresh")
def fresh(event: Event, ctx: Context) -> str:
    """Nothing: say only in which process. Its number may be used again, the moment not."""
    return f"{os.getpid()} {time.monotonic_ns()}"
