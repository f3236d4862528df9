"""Being told to stop before the loop runs: while the app is described, or the database is put in order."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)


class _Stopped(BaseException):
    """Unwinds the start: what was begun is ended on the way."""


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Let SIGTERM and SIGINT end a ``with`` block cleanly, as if it had come to its end.

    What is given is to be called once the loop heeds signals by itself; from then on they do nothing here.
    """
    begun = False

    def heed(_number: int, _frame: FrameType | None) -> None:
        if not begun:
            raise _Stopped

    def begin() -> None:
        nonlocal begun
        begun = True

    before = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
    # The code is being loaded just now, so there is nothing to reload. (SIG_IGN would be inherited.)
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda _number, _frame: None)
    try:
        yield begin
    except _Stopped:
        log.info("told to stop while starting: stopped")
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
