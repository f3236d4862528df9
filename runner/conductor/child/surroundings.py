"""What a handler may leave changed in its process, and how it is put back before the next one.

Everything with a cheap way back is put back after each execution, to what it was before the first handler:
working directory, umask, environment, locale, signal handlers, interval timers, and the objects behind
``sys.stdin``, ``sys.stdout`` and ``sys.stderr``. What has no way back makes the runner *worn*: another takes
its place.

An untouched process costs about 2 µs, two system calls. What costs more is looked at, and put back, when
nothing more is in hand, and else every :data:`LOOK_INTERVAL`: so always after an execution that is longer
than that; of shorter ones that follow each other closely, the last may be named for what another has done.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time

# What is behind ``signal.getsignal`` and ``locale.setlocale``: without enums and parsing, ten times as fast.
from _locale import LC_ALL, setlocale
from _signal import getsignal  # type: ignore[import-not-found]  # typeshed does not know it
from typing import TextIO, cast

LOOK_INTERVAL = 0.01
"""Seconds between two looks at what takes further system calls."""

MOST_LEFT_OPEN = 2000
"""Descriptors that handlers may leave open, or half of what the process may have, whichever is less."""

_SIGNALS = tuple(
    int(number)  # an enum's member is slower to pass to C
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGPIPE,
        signal.SIGALRM,
        signal.SIGTERM,
        signal.SIGCHLD,
        signal.SIGVTALRM,
        signal.SIGPROF,
    )
)
"""Those that programs handle."""

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_OUTPUTS = {"stdout": 1, "stderr": 2}
_SILENT = (0.0, 0.0)
"""A timer that will not fire."""


class Surroundings:
    """How the process was before its first handler."""

    def __init__(self) -> None:
        """Take note of everything; the calling thread must be the main thread."""
        self._folder = _open_folder()
        self._has_folder = _folder_exists()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._environ = os.environ
        # Comparing through the mapping, which decodes every text, takes ten times as long as all the rest.
        self._live_environ = cast("dict[bytes, bytes]", vars(os.environ)["_data"])
        self._noted_environ = dict(self._live_environ)
        self._locale = setlocale(LC_ALL, None)
        self._handlers = list(map(getsignal, _SIGNALS))
        self._timers = {timer: signal.getitimer(timer) for timer in _TIMERS}
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._outputs = {name: _identity(descriptor) for name, descriptor in _OUTPUTS.items()}
        self._lowest_free = _lowest_free_descriptor() or 0
        self._most_left_open = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2, MOST_LEFT_OPEN)
        self._look_at = 0.0

    def put_back(self, task: str, *, more: bool = False) -> str | None:
        """Put back what an execution has changed.

        :param task: the task that ran.
        :param more: another execution follows at once.
        :returns: why the runner is worn, if it is: ``its stdout was closed by task resize``.
        """
        try:
            os.umask(self._umask)
            self._put_back_environ()
            self._put_back_streams()
            self._put_back_signals()
            if self._folder is not None:
                os.fchdir(self._folder)
            now = time.monotonic()
            if more and now < self._look_at:
                return None
            self._look_at = now + LOOK_INTERVAL
            if setlocale(LC_ALL, None) != self._locale:
                setlocale(LC_ALL, self._locale)
            self._put_back_timers(_TIMERS)
            return self._wear(task)
        except Exception as error:  # noqa: BLE001  # whatever a handler has broken must not break its runner
            return f"its surroundings cannot be put back after task {task}: {error!r}"

    # Putting back

    def _put_back_environ(self) -> None:
        os.environ = self._environ  # noqa: B003  # the object, should a handler have put another there
        live, noted = self._live_environ, self._noted_environ
        if live == noted:
            return
        changed = {name for name in live.keys() | noted.keys() if live.get(name) != noted.get(name)}
        for name in changed:
            if name in noted:
                os.environb[name] = noted[name]
            else:
                del os.environb[name]
        if b"TZ" in changed:
            time.tzset()

    def _put_back_streams(self) -> None:
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def _put_back_signals(self) -> None:
        if list(map(getsignal, _SIGNALS)) == self._handlers:
            return
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            # None: something that is not Python handles it, and Python could not put that back.
            if handler is not None and getsignal(number) != handler:
                signal.signal(number, handler)

    def _put_back_timers(self, timers: tuple[int, ...]) -> None:
        for timer in timers:
            now, before = signal.getitimer(timer), self._timers[timer]
            # One that ran before, a profiler's, goes on: only its interval can be compared.
            if now != before and (before == _SILENT or now[1] != before[1]):
                signal.setitimer(timer, *before)

    # Wear

    def _wear(self, task: str) -> str | None:
        for name, descriptor in _OUTPUTS.items():
            before, now = self._outputs[name], _identity(descriptor)
            if before is not None and (now is None or not _is_usable(getattr(sys, name))):
                return f"its {name} was closed by task {task}"
            if now != before:
                return f"its {name} was pointed elsewhere by task {task}"
        lowest = _lowest_free_descriptor()
        if lowest is None:
            return f"its descriptors are used up after task {task}"
        if lowest - self._lowest_free > self._most_left_open:
            return f"about {lowest - self._lowest_free:,} descriptors are left open after task {task}"
        if self._has_folder and not _folder_exists():
            return f"its working directory is gone after task {task}"
        return None


def _open_folder() -> int | None:
    """Hold the working directory: a path may lead elsewhere later. None if it cannot be held."""
    try:
        return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
    except OSError:
        return None


def _folder_exists() -> bool:
    try:
        os.getcwd()  # noqa: PTH109  # its failing is what we want to know
    except OSError:
        return False
    return True


def _is_usable(stream: TextIO | None) -> bool:
    try:
        return stream is None or not stream.closed
    except ValueError:  # its buffer was detached
        return False


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return what a descriptor leads to; None if it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lowest_free_descriptor() -> int | None:
    """Return the number that the next open file would get; None if there is none left.

    It rises with every descriptor that is left open.
    """
    try:
        read, write = os.pipe()
    except OSError:
        return None
    os.close(read)
    os.close(write)
    return read
