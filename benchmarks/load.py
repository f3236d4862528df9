"""Work that never ends: what a supervisor under full load has to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.site import Site
from conductor import Conductor

AT_ONCE = 1_000

WAITING = 10_000
"""Executions that wait for the supervisor, all the time."""


@contextmanager
def full_load(here: Site) -> Iterator[None]:
    """Keep as many empty executions waiting, by a thread and a client of its own; begin when all run well."""
    enough = threading.Event()

    def feed() -> None:
        with Conductor(here.url) as client:
            invoked = 0
            while not enough.wait(0.05):
                while invoked - here.status().ended < WAITING and not enough.is_set():
                    client.invoke_many("empty", [None] * AT_ONCE)
                    invoked += AT_ONCE

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        here.wait_until_ended(AT_ONCE)
        yield
    finally:
        enough.set()
        thread.join()
