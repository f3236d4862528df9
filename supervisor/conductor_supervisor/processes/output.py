"""What a child prints: passed on with its speaker, and line by line for the log; the end of it is kept."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Set as AbstractSet
from typing import Protocol

from conductor_protocol.marks import MarkReader, Speaker
from conductor_protocol.operations import Stream

KEPT = 16 * 1024
"""Bytes of the end of each stream that are kept."""

CHUNK = 8 * 1024
"""Bytes that are taken at once."""

LONGEST_LINE = 4096
"""Bytes after which a line is passed on in pieces, so that output without an end cannot fill the memory."""

MOST_LINES = 200
"""Lines of one chunk that are passed on; to log a line takes much longer than to print it."""

STACKS_BEGIN = re.compile(r"Fatal Python error:|^(?:Timeout \(|Current thread 0x|Thread 0x)", re.MULTILINE)
"""How faulthandler begins; where a process died within a line, it goes on there."""


class Listener(Protocol):
    """Who wants to know what a child prints."""

    def running(self) -> Speaker | None:
        """Tell whose output it is that bears no mark; None: nobody's."""

    def heard(self, stream: Stream, speaker: Speaker | None, data: bytes) -> None:
        """Take what was printed, without marks."""

    def line(self, stream: Stream, speaker: Speaker | None, line: str) -> None:
        """Take one line for the log, or a piece of a long one."""


class Output:
    """The read end of one stream of one child. Owned by the loop thread; never blocks."""

    def __init__(self, descriptor: int, stream: Stream, key: str, listener: Listener) -> None:
        """:param key: what the marks in it begin with."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._stream: Stream = stream
        self._marks = MarkReader(key)
        self._listener = listener
        self._kept = b""
        self._line = b""
        self._line_speaker: Speaker | None = None
        self._lines = 0
        """Lines of this chunk, passed on or not."""
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._descriptor

    def read(self) -> bool:
        """Take one chunk of what waits; False if nothing waited or the stream has ended."""
        try:
            chunk = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._take(self._marks.finish())
            self.close()
            return False
        self._take(self._marks.feed(chunk))
        return True

    def read_to_end(self, most: int = 256 * 1024) -> None:
        """Take what a dead child has left, at most ``most`` bytes: others may still hold the pipe open."""
        for _ in range(most // CHUNK):
            if self.closed or not self.read():
                break
        self._take(self._marks.finish())
        self._end_line()

    def _take(self, pieces: list[tuple[Speaker | None, bytes]]) -> None:
        self._lines = 0
        for marked, data in pieces:
            speaker = marked or self._listener.running()
            self._kept = (self._kept + data)[-KEPT:]
            self._listener.heard(self._stream, speaker, data)
            self._pass_on(speaker, data)
        if self._lines > MOST_LINES:
            more = self._lines - MOST_LINES
            self._listener.line(self._stream, None, f"({more:,} short lines more, not passed on)")

    # For the log

    def _pass_on(self, speaker: Speaker | None, data: bytes) -> None:
        if speaker != self._line_speaker:
            self._end_line()
            self._line_speaker = speaker
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._pass_on_pieces(line)
        if len(self._line) > LONGEST_LINE:
            self._end_line()

    def _end_line(self) -> None:
        if self._line:
            self._pass_on_pieces(self._line)
            self._line = b""

    def _pass_on_pieces(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            self._lines += 1
            if self._lines <= MOST_LINES:
                piece = line[start : start + LONGEST_LINE].decode("utf-8", "backslashreplace")
                self._listener.line(self._stream, self._line_speaker, piece.rstrip("\r"))

    def tail(self) -> str:
        """Return the end of what the child has printed, whoever spoke."""
        return self._kept.decode("utf-8", "backslashreplace")

    def close(self) -> None:
        """Let go of the pipe."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)


class Source(Protocol):
    """Something that is read as it comes."""

    closed: bool

    def fileno(self) -> int:
        """Return the descriptor to poll."""

    def read(self) -> object:
        """Take some of what waits."""


class Outputs:
    """The outputs of all children, read in turn. Owned by the loop thread."""

    def __init__(self) -> None:
        self._outputs: dict[int, Source] = {}
        """By descriptor, the one that was read longest ago first."""
        self._arrivals = select.poll()

    def descriptors(self) -> AbstractSet[int]:
        """Return what to poll."""
        return self._outputs.keys()

    def add(self, output: Source) -> None:
        """Read this one too."""
        self._outputs[output.fileno()] = output
        self._arrivals.register(output.fileno(), select.POLLIN)

    def remove(self, output: Source) -> None:
        """Read this one no more; it is open still."""
        del self._outputs[output.fileno()]
        self._arrivals.unregister(output.fileno())

    def read(self, seconds: float) -> None:
        """Take what waits, but begin no further chunk after so many seconds: others wait for us.

        What is left stays in its pipe, and whoever prints so much waits until there is room in it.
        """
        until = time.monotonic() + seconds
        while ready := {descriptor for descriptor, _ in self._arrivals.poll(0)}:
            for descriptor in [one for one in self._outputs if one in ready]:
                self._read_one(descriptor)
                if time.monotonic() > until:
                    return

    def _read_one(self, descriptor: int) -> None:
        output = self._outputs.pop(descriptor)
        output.read()
        if output.closed:
            self._arrivals.unregister(descriptor)
        else:
            self._outputs[descriptor] = output


def split_stacks(stderr: str) -> tuple[str, str]:
    """Return what a process printed itself, and the stacks that faulthandler wrote after it."""
    found = STACKS_BEGIN.search(stderr)
    return (stderr, "") if found is None else (stderr[: found.start()], stderr[found.start() :])
