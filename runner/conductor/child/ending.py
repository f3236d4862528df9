"""A runner's end is bounded, whatever user code does to hold it up.

The countdown begins when nothing is in hand any more. It covers the teardown of the lifespan, threads that
handlers have left running, and exit handlers. Code that holds the GIL stops it as well; then the supervisor
ends the process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from conductor_protocol.units import in_words

COUNTDOWN = "conductor-ending"
"""Name of the thread that ends the process when its time is over."""

_PYTHONS_OWN = Path(threading.__file__).parent


@contextmanager
def end_within(seconds: float) -> Iterator[None]:
    """When the block ends, the process may live on for so many seconds; then it ends as it is."""
    try:
        yield
    except BaseException:
        _count_down(seconds, status=1)
        raise
    _count_down(seconds, status=0)


def _count_down(seconds: float, status: int) -> None:
    timer = threading.Timer(seconds, _end_now, (seconds, status))
    timer.daemon = True
    timer.name = COUNTDOWN
    timer.start()


def _end_now(seconds: float, status: int) -> None:
    try:
        sys.stderr.write(
            f"this runner had nothing in hand and has not ended within {in_words(seconds)}; "
            f"it ends without waiting for {_what_holds_up()}\n"
        )
        sys.stderr.flush()
    finally:
        os._exit(status)


def _what_holds_up() -> str:
    """Say where the threads are that the interpreter waits for."""
    frames = sys._current_frames()  # noqa: SLF001  # the documented way to see other threads
    waited_for = [thread for thread in threading.enumerate() if not thread.daemon and thread.ident in frames]
    return ", ".join(f"{thread.name} in {_place(frames[thread.ident or 0])}" for thread in waited_for) or (
        "exit handlers"
    )


def _place(frame: FrameType) -> str:
    """Say where a thread is: the function nearest to it that is not Python's own."""
    here: FrameType | None = frame
    while here is not None and Path(here.f_code.co_filename).parent == _PYTHONS_OWN:
        here = here.f_back
    frame = here or frame
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
