"""Processes that user code forks from a runner: they must not act as the runner.

A fork inherits the runner's sockets and its flight recorder, and the code that would go on after the handler.
So the kernel's copy is told apart at once: the sockets and the page are taken away from it, each call of the
context raises an error, and when it leaves the code that forked it, it ends.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from conductor_protocol.errors import UsageError

in_child = False
"""True in a process that was forked from a runner."""

_disown: list[Callable[[], None]] = []
_watching = False


def watch() -> None:
    """From now on this process is a runner, and what it forks is none."""
    global in_child, _watching  # noqa: PLW0603  # facts about the process, not about any object
    in_child = False
    _disown.clear()
    if not _watching:
        os.register_at_fork(after_in_child=_note_fork)
        _watching = True


def when_forked(disown: Callable[[], None]) -> None:
    """Have ``disown`` called in each process that is forked from now on, before its code goes on."""
    _disown.append(disown)


def _note_fork() -> None:
    global in_child  # noqa: PLW0603
    in_child = True
    for disown in _disown:
        disown()


def refusal() -> UsageError:
    """Return the error for a forked process that wants to speak for the runner."""
    return UsageError(
        "this is a process that the handler forked; only the handler's own process may use ctx and the app's "
        "clients. Send what it has found back to the handler, through a pipe or multiprocessing's queues, "
        "and let the handler make the call"
    )


def end_if_forked(error: BaseException | None = None) -> None:
    """End a forked process that has left the code that forked it, as Python ends: ``error`` is printed.

    Nothing is torn down and no exit handler runs: they are the runner's.
    """
    if in_child:
        _end(error)


def _end(error: BaseException | None) -> NoReturn:
    try:
        status = _status(error)
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    finally:
        os._exit(1)  # whatever the printing has met


def _status(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    traceback.print_exception(error)
    return 1
