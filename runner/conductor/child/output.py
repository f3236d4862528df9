"""What this process prints: both streams go to the supervisor, with marks that say whose output follows.

A mark is written when an execution first prints, and another when it ends, if it has printed at all: see
:mod:`conductor_protocol.marks`. Whose output it is tells a context variable. So it is right for async
handlers that run side by side, and for what ``asyncio.to_thread`` runs. A plain thread has no such context:
what it prints belongs to the execution that is inside, if there is just one.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from conductor_protocol.marks import Speaker, mark

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ROOM = 8192
"""Bytes that wait for the end of their line at most."""


class Console:
    """Both streams of this process, and who is speaking. There is one: :data:`console`."""

    def __init__(self) -> None:
        self.key = ""
        """What marks begin with; empty: nothing is marked."""
        self._streams: list[tuple[str, io.TextIOWrapper, MarkedPipe]] = []
        self._speaking: ContextVar[Speaker | None] = ContextVar("conductor_speaker", default=None)
        self._inside: dict[Speaker, None] = {}
        self._alone: Speaker | None = None
        """The one that is inside, if there is just one."""

    def install(self) -> None:
        """Print whole lines, whatever they contain. To be called once, before anything else prints."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, io.TextIOWrapper):
                stream.flush()
                pipe = MarkedPipe(stream.fileno(), f"<{name}>", self)
                text = io.TextIOWrapper(
                    pipe, encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=True
                )
                self._streams.append((name, text, pipe))
                setattr(sys, name, text)
                setattr(sys, f"__{name}__", text)

    def mark_with(self, key: str) -> None:
        """Mark from now on whose output follows. A forked process calls this with a key of its own."""
        self.key = key
        for _, _, pipe in self._streams:
            pipe.begin_anew()

    def begins(self, speaker: Speaker) -> None:
        """What is printed in this context from now on is this one's."""
        self._speaking.set(speaker)
        self._inside[speaker] = None
        self._alone = speaker if len(self._inside) == 1 else None

    def ends(self, speaker: Speaker) -> None:
        """Let out what it has printed, and mark its end."""
        self._speaking.set(None)
        for name, text, pipe in self._streams:
            if getattr(sys, name, None) is not text:  # the handler has replaced it
                _flush(name)
            if pipe.speaker is speaker or pipe.waiting:
                pipe.leave(speaker)
        self._inside.pop(speaker, None)
        self._alone = next(iter(self._inside)) if len(self._inside) == 1 else None

    def speaker(self) -> Speaker | None:
        """Return whose output it is that is printed just now."""
        return self._speaking.get() or self._alone


class MarkedPipe(io.BufferedIOBase):
    """One stream below its text layer. Any thread may write.

    It does not close its descriptor: whoever closes ``sys.stdout`` silences Python, not the process.
    """

    mode = "wb"

    def __init__(self, descriptor: int, name: str, console: Console) -> None:
        self.name = name
        self._descriptor = descriptor
        self._console = console
        self._identity = _identity(descriptor)
        self.speaker: Speaker | None = None
        """Whom the last mark has named."""
        self.waiting = bytearray()
        """What has not left yet."""
        self._renew_lock()
        os.register_at_fork(after_in_child=self._renew_lock)

    def begin_anew(self) -> None:
        """Take the descriptor for ours as it is now: a forked process has had its own pipe put there."""
        self._identity = _identity(self._descriptor)
        self.speaker = None

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Tell that it can be written to."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Take bytes; they leave with their line's end, or when many wait."""
        if self.closed:
            raise ValueError(f"{self.name} is closed")
        view = memoryview(data).cast("B")
        with self._lock:
            speaker = self._console.speaker()
            if speaker is not self.speaker:
                self._name(speaker)
            if len(self.waiting) + len(view) > ROOM:
                self._let_out()
                self._send(view)
            else:
                self.waiting += view
        return len(view)

    def flush(self) -> None:
        """Let out what waits."""
        with self._lock:
            self._let_out()

    def leave(self, speaker: Speaker) -> None:
        """Let out what waits, and mark the end of this speaker's output if it has printed anything."""
        with suppress(OSError), self._lock:  # a handler may have closed the descriptor
            if self.speaker is speaker:
                self._name(None)
            self._let_out()

    def _name(self, speaker: Speaker | None) -> None:
        # Nor is anything marked where the handler has put a file of its own in the pipe's place.
        if self._console.key and _identity(self._descriptor) == self._identity:
            self.waiting += mark(self._console.key, speaker)
            self.speaker = speaker

    def _let_out(self) -> None:
        if self.waiting:
            # Forgotten first: what cannot be written must not be kept for ever.
            waiting, self.waiting = self.waiting, bytearray()
            self._send(memoryview(waiting))

    def _send(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # a process that shares the pipe has made it so
                writable = select.poll()
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll()


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return which file a descriptor leads to, whatever its number; None if it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def flush_output() -> None:
    """Pass on what user code has printed, as far as there is still a way."""
    for name in ("stdout", "stderr"):
        _flush(name)


def _flush(name: str) -> None:
    with suppress(BaseException):  # closed, or whatever the user has put there: it must not end the runner
        getattr(sys, name).flush()


console = Console()
