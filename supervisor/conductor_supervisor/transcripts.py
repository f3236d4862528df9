"""What executions print, on its way to the store: kept by attempt, bounded, written in batches.

A transcript is written with the ending of its attempt, and about once a second before. What is read after
that is written as soon as it is read. Owned by the loop thread.
"""

from __future__ import annotations

import codecs
import logging
import time
from collections import deque
from dataclasses import dataclass

from conductor_protocol.marks import Speaker
from conductor_protocol.operations import Stream
from conductor_protocol.recorder import Reading
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.clock import Clock
from conductor_supervisor.journal import Journal
from conductor_supervisor.processes.output import KEPT
from conductor_supervisor.roster import Roster, Runner
from conductor_supervisor.store.output import Chunk
from conductor_supervisor.writes import KeepOutput

KEEP_INTERVAL = 1.0
"""Seconds between writes of what running executions print."""

TOGETHER: Instant = MICROSECONDS // 10
"""What is printed within this time of each other may share one moment."""

LARGEST_CHUNK = 8 * 1024
"""Characters of one chunk. Whole chunks are dropped, so those of a small limit are smaller."""

REMEMBERED = 1000
"""Attempts of which we know for a while after their end how much they have printed."""

SHORT_ID = 12
"""Characters of an execution's id in the log: as many as commands show on a terminal."""

log = logging.getLogger(__name__)
output_log = logging.getLogger("conductor_supervisor.output")


@dataclass(slots=True)
class _Piece:
    stream: Stream
    time: Instant
    text: str
    size: int
    before: int
    """Bytes that the attempt had printed before this."""


class Transcript:
    """What one attempt has printed: its ends, for a crash report, and what is not written yet."""

    def __init__(self, limit: int, printed: int = 0) -> None:
        """
        :param limit: bytes that wait to be written at most; the oldest are dropped. 0: none.
        :param printed: bytes that the attempt has printed before.
        """
        self._limit = limit
        self._largest = max(1, min(LARGEST_CHUNK, limit // 16))
        self._waiting: deque[_Piece] = deque()
        self._size = 0
        self.printed = printed
        """Bytes that the attempt has printed so far."""
        self._decoders: dict[Stream, codecs.IncrementalDecoder] = {}
        self._tails: dict[Stream, bytes] = {}

    def add(self, stream: Stream, data: bytes, now: Instant) -> None:
        """Take what was printed."""
        self._tails[stream] = (self._tails.get(stream, b"") + data)[-KEPT:]
        if self._limit:
            if stream not in self._decoders:
                self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("backslashreplace")
            self._append(stream, self._decoders[stream].decode(data), now)

    def tail(self, stream: Stream) -> str:
        """Return the end of what was printed on a stream."""
        return self._tails.get(stream, b"").decode("utf-8", "backslashreplace")

    def take(self, speaker: Speaker, *, whole: bool) -> list[Chunk]:
        """Return what is not written yet, to be written now.

        :param whole: nothing more will come: also the beginning of a character is something.
        """
        if whole:
            for stream, decoder in self._decoders.items():
                last = self._waiting[-1].time if self._waiting else 0
                self._append(stream, decoder.decode(b"", final=True), last)
        chunks = [
            Chunk(
                execution=speaker.execution,
                claim=speaker.claim,
                attempt=speaker.attempt,
                stream=piece.stream,
                time=piece.time,
                text=piece.text,
                size=piece.size,
                before=piece.before,
            )
            for piece in self._waiting
        ]
        self._waiting.clear()
        self._size = 0
        return chunks

    def _append(self, stream: Stream, text: str, now: Instant) -> None:
        text = text.replace("\0", "\\x00")  # which no database can hold
        for start in range(0, len(text), self._largest):
            part = text[start : start + self._largest]
            size = len(part) if part.isascii() else len(part.encode())
            last = self._waiting[-1] if self._waiting else None
            if last is not None and self._belongs_to(last, stream, part, now):
                last.text += part
                last.size += size
            else:
                self._waiting.append(_Piece(stream, now, part, size, self.printed))
            self.printed += size
            self._size += size
        while self._size > self._limit:
            self._size -= self._waiting.popleft().size

    def _belongs_to(self, last: _Piece, stream: Stream, part: str, now: Instant) -> bool:
        return (
            last.stream == stream
            and 0 <= now - last.time < TOGETHER
            and len(last.text) + len(part) <= self._largest
        )


class Transcripts:
    """The transcripts of all attempts in our hands that have printed something."""

    def __init__(self, roster: Roster, journal: Journal, clock: Clock, limit: int) -> None:
        """:param limit: bytes that are kept of each execution."""
        self._roster = roster
        self._journal = journal
        self._clock = clock
        self._limit = limit
        self._open: dict[Speaker, Transcript] = {}
        self._closed: dict[Speaker, int] = {}
        """Bytes that the attempts which have ended of late have printed: there may be more to come."""
        self._keep_at = 0.0
        self._under_way = False

    def listener(self, runner: int, slot: int) -> RunnerListener:
        """Return who listens to a runner."""
        return RunnerListener(self, self._roster, runner, slot)

    def heard(self, speaker: Speaker, stream: Stream, data: bytes) -> None:
        """Take what an execution has printed."""
        transcript = self._open.get(speaker)
        if transcript is None:
            printed = self._closed.pop(speaker, 0)
            transcript = self._open[speaker] = Transcript(self._limit, printed)
        transcript.add(stream, data, self._clock.now())

    def tail(self, execution: str, claim: int, stream: Stream) -> str:
        """Return the end of what an attempt in our hands has printed on a stream."""
        for speaker, transcript in self._open.items():
            if speaker[:2] == (execution, claim):
                return transcript.tail(stream)
        return ""

    def keep(self) -> None:
        """Hand to the journal what is due: of attempts that have ended at once, of others now and then."""
        if not self._open:
            return
        now = time.monotonic()
        # One such write at a time: while the database is away, what waits for it stays within the limit.
        all_due = now >= self._keep_at and not self._under_way
        if all_due:
            self._keep_at = now + KEEP_INTERVAL
        chunks: list[Chunk] = []
        for speaker, transcript in list(self._open.items()):
            ended = not self._is_in_hand(speaker)
            if ended or all_due:
                chunks += transcript.take(speaker, whole=ended)
            if ended:
                self._close(speaker)
        if chunks:
            self._under_way = True
            self._journal.submit(KeepOutput(chunks, self._limit, self._kept, self._refused))

    def _close(self, speaker: Speaker) -> None:
        self._closed[speaker] = self._open.pop(speaker).printed
        if len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]

    def _is_in_hand(self, speaker: Speaker) -> bool:
        return any(
            held is not None and held.claim == speaker.claim
            for runner in self._roster.runners.values()
            for held in (runner.held.get(speaker.execution),)
        )

    def _kept(self) -> None:
        self._under_way = False

    def _refused(self, message: str) -> None:
        self._under_way = False
        log.error("what executions have printed could not be stored: %s", message)


class RunnerListener:
    """Hears one runner's output, and finds out whose it is where no mark tells."""

    def __init__(self, transcripts: Transcripts, roster: Roster, runner: int, slot: int) -> None:
        self._transcripts = transcripts
        self._roster = roster
        self._runner = runner
        self._slot = slot

    def running(self) -> Speaker | None:
        """Tell whom the flight recorder names; if its page is damaged, the first in the runner's hands."""
        runner = self._roster.runners.get(self._runner)
        if runner is None:
            return None
        reading = _only_reading(runner)
        if reading is None:
            held = runner.first()
        else:
            held = runner.held.get(reading.execution or "")
            if held is not None and held.claim != reading.claim:
                held = None
        return None if held is None else Speaker(held.id, held.claim, held.attempt)

    def heard(self, stream: Stream, speaker: Speaker | None, data: bytes) -> None:
        """See :class:`conductor_supervisor.processes.output.Listener`."""
        if speaker is not None:
            self._transcripts.heard(speaker, stream, data)

    def line(self, stream: Stream, speaker: Speaker | None, line: str) -> None:
        """Pass a line on to the log."""
        whose = f" {speaker.execution[-SHORT_ID:]}" if speaker is not None else ""
        output_log.info("runner %d %s%s| %s", self._slot, stream, whose, line)


def _only_reading(runner: Runner) -> Reading | None:
    """Return what the recorder says of the one execution that runs; of several in a shared runner: idle."""
    if not runner.shared:
        return runner.child.recorder.read()
    readings = runner.child.recorder.read_places()
    if readings is None:
        return None if len(runner.held) == 1 else Reading(phase="idle")
    return readings[0] if len(readings) == 1 else Reading(phase="idle")


class TemplateListener:
    """Hears what the template of fresh runners prints: no execution does."""

    def running(self) -> None:
        """Tell that nobody runs in it."""

    def heard(self, stream: Stream, speaker: Speaker | None, data: bytes) -> None:
        """See :class:`conductor_supervisor.processes.output.Listener`."""

    def line(self, stream: Stream, speaker: Speaker | None, line: str) -> None:  # noqa: ARG002  # nobody's
        """Pass a line on to the log."""
        output_log.info("template %s| %s", stream, line)
