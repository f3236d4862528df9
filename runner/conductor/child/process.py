"""Making a process a runner: its birth, its signals, its output, its end."""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import inspect
import logging
import os
import select
import signal
import sys
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from conductor.app import Conductor
from conductor.child import forks
from conductor.child.connection import Connection
from conductor.child.control import end_at_once
from conductor.child.ending import COUNTDOWN, end_within
from conductor.child.lifespan import shared
from conductor.child.loading import load
from conductor.child.output import console, flush_output
from conductor.child.reports import tell_what_ends_us
from conductor.child.session import Session
from conductor.client import RunnerPerformer, enter_runner
from conductor_protocol.birth import BIRTH_FD, MARK, STACKS_SIGNAL, Birth, read_birth
from conductor_protocol.errors import UsageError
from conductor_protocol.recorder import Recorder

if TYPE_CHECKING:
    from conductor.child.eventloop import EventLoop
    from conductor.child.sharedsession import SharedSession

PR_SET_PDEATHSIG = 1
"""prctl(2)."""

C = ctypes.CDLL(None)
"""The C library."""


def run() -> int:
    """Be a runner until the supervisor says stop; return the exit status."""
    lifeline, birth = born()
    app = imported(birth)
    if app is None:
        return 2
    serve(app, birth, lifeline)
    flush_output()
    return 0


def born() -> tuple[BinaryIO, Birth]:
    """Begin as a child of the supervisor: return the lifeline, and what it has told us."""
    lifeline = _inherited_lifeline()
    forks.watch()
    _prepare_signals()
    _prepare_output()
    birth = told_at_birth(lifeline)
    die_with_the_supervisor(lifeline)
    return lifeline, birth


def told_at_birth(lifeline: BinaryIO) -> Birth:
    """Hear who we are, and bear our own mark: a forked runner has that of its template."""
    birth = read_birth(lifeline)
    os.environ[MARK] = birth.mark
    return birth


def imported(birth: Birth) -> Conductor | None:
    """Return the app; None, with a word on stderr, if it is named wrongly."""
    try:
        app = load(birth.app, birth.paths)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return None
    forks.end_if_forked()
    _prepare_logging()
    return app


def serve(app: Conductor, birth: Birth, lifeline: BinaryIO) -> None:
    """Run what the supervisor assigns, until it says stop."""
    console.mark_with(birth.output_key)
    recorder = Recorder(Path(birth.recorder), birth.at_once if birth.isolation == "shared" else 0)
    forks.when_forked(recorder.disown)
    forks.when_forked(partial(os.close, lifeline.fileno()))
    with _event_loop(app) as loop, Connection(birth, lifeline.fileno(), recorder) as connection:
        url = app.database_url()
        enter_runner(url, RunnerPerformer(url, connection.data))
        with shared(app.lifespan_function, loop) as state:
            forks.end_if_forked()
            connection.open()
            with end_within(connection.data.terms.end_grace):
                _session(birth, app, connection, recorder, loop).run(state)


def _session(
    birth: Birth, app: Conductor, connection: Connection, recorder: Recorder, loop: EventLoop | None
) -> Session | SharedSession:
    if birth.isolation != "shared" or loop is None:
        return Session(app, connection.data, recorder, connection.intents, loop)
    from conductor.child.sharedsession import SharedSession

    return SharedSession(app, connection.data, recorder, connection.intents, loop)


# Birth and death


def _inherited_lifeline() -> BinaryIO:
    """Take the pipe that we were born with, and keep it from what handlers start."""
    try:
        descriptor = int(os.environ.pop(BIRTH_FD))
    except (KeyError, ValueError):
        raise UsageError(
            f"{BIRTH_FD} names no descriptor; runners are started by conductor-supervisor"
        ) from None
    os.set_inheritable(descriptor, False)
    return lifeline_at(descriptor)


def lifeline_at(descriptor: int) -> BinaryIO:
    """Return the lifeline. Only the end of this process closes it: what it has started dies of that."""
    return os.fdopen(descriptor, "rb", closefd=False)


def die_with_the_supervisor(lifeline: BinaryIO) -> None:
    """Have the kernel end us when the supervisor ends, where it can; the lifeline tells us anyway."""
    if sys.platform == "linux":
        C.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The supervisor may have died before the kernel was told.
    if select.select([lifeline], [], [], 0)[0]:
        end_at_once()


def end_quickly() -> None:
    """End this process without taking the interpreter apart, as ``multiprocessing`` ends its children.

    That would take longer than all else that a fresh runner does. If user code has left threads, the
    interpreter ends them; the countdown to the end of all goes on meanwhile.
    """
    if any(thread.name != COUNTDOWN for thread in threading.enumerate()[1:]):
        return
    atexit._run_exitfuncs()  # noqa: SLF001  # what the interpreter calls; there is no other way to it
    flush_all()
    os._exit(0)


def flush_all() -> None:
    """Let everything out that was written, by Python or by C code, and may wait in a buffer."""
    flush_output()
    C.fflush(None)


# Surroundings of user code


def _event_loop(app: Conductor) -> AbstractContextManager[EventLoop | None]:
    """Return where what is async in this app runs; None if nothing is."""
    any_async = any(task.is_async for task in app.tasks.values())
    if not any_async and not inspect.isasyncgenfunction(app.lifespan_function):
        return nullcontext()
    from conductor.child.eventloop import EventLoop

    return EventLoop()


def _prepare_signals() -> None:
    """A terminal's Ctrl-C is the supervisor's affair. SIGTERM ends us, as it ends any process."""
    # Not SIG_IGN: processes that a handler starts would inherit that.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _prepare_output() -> None:
    """Both streams are pipes to the supervisor: let what we print, and how we die, be read there."""
    console.install()
    sys.excepthook = tell_what_ends_us
    with suppress(OSError, ValueError):
        faulthandler.enable(sys.stderr)
        # Written by the signal's handler in C: it needs no interpreter that still turns.
        faulthandler.register(STACKS_SIGNAL, sys.stderr, all_threads=True)
        # The control thread alone takes it: in any other it would interrupt what user code waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, {STACKS_SIGNAL})


def _prepare_logging() -> None:
    """Let what is logged be seen, unless the app has set up logging itself."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
