"""The flight recorder: a small shared page in which a runner notes what it is about to do.

The page is a memory-mapped file in the runtime folder. Writing costs about a microsecond and no system
call, and what was written survives the process, however it dies. After a death the supervisor reads from it
exactly which execution was running, in which step, for how long; and the *outbox*: reports that the runner
handed to its socket but that may not have left the process.

Layout, little-endian::

    0     magic, version
    16    which of the two slots is current (one byte: written last, so a death tears nothing)
    64    slot 0 ┐ checksum, execution, claim, phase, started (monotonic), step started, step name
    2560  slot 1 ┘
    5120  outbox: length of the newest reports, then the reports as parcels, each with length and checksum
    65536 in a shared runner, for each execution that it may run at once, a *place*: 5120 bytes with a current
          slot and two slots, laid out as at the beginning of the page

Only the runner's handler thread writes; the supervisor reads only after the process is gone, or to show what
runs, when a torn reading does no harm. A page that does not check out is read as "unknown", never trusted.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct

from conductor_protocol.codec import unpack_reports
from conductor_protocol.errors import ProtocolError
from conductor_protocol.messages import Report

PAGE_SIZE = 64 * 1024
MAX_STEP_NAME = 500
"""Characters."""

_MAGIC = b"CONDUCTOR-FR-01\0"
_CURRENT = 16
_SLOTS = (64, 2560)
_OUTBOX = 5120
_PLACE_SIZE = 5120
_HEAD = struct.Struct("<I36sqBddH")
"""Checksum, execution, claim, phase, started, step started, length of the step's name."""
_BODY = struct.Struct("<36sqBddH")
_COUNT = struct.Struct("<I")
_ENTRY = struct.Struct("<II")
"""Length and checksum of one parcel in the outbox."""

Phase: TypeAlias = Literal["idle", "handler", "step"]
_PHASES: tuple[Phase, ...] = ("idle", "handler", "step")


def _record(
    execution: bytes, claim: int, phase: int, started: float, step_started: float, step: bytes
) -> bytes:
    body = _BODY.pack(execution, claim, phase, started, step_started, len(step)) + step
    return _COUNT.pack(zlib.crc32(body)) + body


_IDLE = _record(b"", 0, 0, 0.0, 0.0, b"")


def _size(places: int) -> int:
    return PAGE_SIZE + places * _PLACE_SIZE


def _offset(place: int) -> int:
    return PAGE_SIZE + place * _PLACE_SIZE


class Reading(Struct, frozen=True, kw_only=True):
    """What the recorder says: ``phase`` is ``idle`` between executions."""

    phase: Phase
    execution: str | None = None
    claim: int = 0
    step: str | None = None
    started: float = 0.0
    """When the execution was begun, by ``time.monotonic()``, which is one clock for the machine."""
    step_started: float = 0.0


class Record:
    """Where the runner notes what one execution is about to do."""

    def __init__(self, page: mmap.mmap, offset: int) -> None:
        self._page: mmap.mmap | bytearray = page
        self._offset = offset
        self._slot = 0
        self._execution = b""
        self._claim = 0
        self._started = 0.0
        self.idle()

    def disown(self) -> None:
        """Write to nobody's page from now on: this process was forked from the runner."""
        self._page = bytearray(len(self._page))

    def idle(self) -> None:
        """Nothing runs."""
        self._write(_IDLE)

    def begin(self, execution: str, claim: int) -> None:
        """A handler is about to be called."""
        self._execution = execution.encode()
        self._claim = claim
        self._started = time.monotonic()
        self._note(1, 0.0, b"")

    def begin_step(self, name: str) -> None:
        """A step's function is about to be called."""
        self._note(2, time.monotonic(), name.encode("utf-8", "replace"))

    def end_step(self) -> None:
        """The step's function has returned and its result is committed, or it has raised."""
        self._note(1, 0.0, b"")

    def _note(self, phase: int, step_started: float, step: bytes) -> None:
        self._write(_record(self._execution, self._claim, phase, self._started, step_started, step))

    def _write(self, record: bytes) -> None:
        slot = 1 - self._slot
        offset = self._offset + _SLOTS[slot]
        self._page[offset : offset + len(record)] = record
        self._page[self._offset + _CURRENT] = slot
        self._slot = slot


class Recorder(Record):
    """The runner's end: notes what is about to happen, before it happens."""

    def __init__(self, path: Path, places: int = 0) -> None:
        """:param places: how many executions a shared runner may run at once; 0: it is not shared."""
        with path.open("r+b") as file:
            page = mmap.mmap(file.fileno(), _size(places))
        super().__init__(page, 0)
        self.places = [Record(page, _offset(place)) for place in range(places)]
        """For the executions of a shared runner: each has a record of its own."""
        self._outbox_end = _OUTBOX + _COUNT.size

    def disown(self) -> None:
        """See the base class."""
        super().disown()
        for place in self.places:
            place.disown()

    @staticmethod
    def create(path: Path, places: int = 0) -> None:
        """Make the file that a runner will map. The supervisor does this before it starts the runner."""
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        with path.open("r+b") as file:
            file.write(_MAGIC)
            file.truncate(_size(places))

    def keep(self, parcel: bytes) -> bool:
        """Keep reports that are about to be sent, until :meth:`forget`. False if there is no room left."""
        end = self._outbox_end + _ENTRY.size + len(parcel)
        if end > PAGE_SIZE:
            return False
        _ENTRY.pack_into(self._page, self._outbox_end, len(parcel), zlib.crc32(parcel))
        self._page[self._outbox_end + _ENTRY.size : end] = parcel
        self._outbox_end = end
        _COUNT.pack_into(self._page, _OUTBOX, end)
        return True

    def forget(self) -> None:
        """Empty the outbox: the supervisor has everything."""
        self._outbox_end = _OUTBOX + _COUNT.size
        _COUNT.pack_into(self._page, _OUTBOX, self._outbox_end)


def places_in(path: Path) -> int:
    """Return how many executions at once a recorder's file has places for; 0: its runner was not shared.

    :raises OSError: if it cannot be found.
    """
    return max(0, path.stat().st_size - PAGE_SIZE) // _PLACE_SIZE


class RecorderReader:
    """The supervisor's end: reads a page that anyone may have scribbled over.

    It reads the file and does not map it: touching a mapped page whose file somebody has made shorter kills.
    """

    def __init__(self, path: Path, places: int = 0) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._places = places

    def is_blank(self) -> bool:
        """Tell whether no runner has opened the page yet."""
        page = os.pread(self._descriptor, PAGE_SIZE, 0)
        whole = len(page) == PAGE_SIZE and page.startswith(_MAGIC)
        return whole and not any(page[len(_MAGIC) :])

    def read(self) -> Reading | None:
        """Return what was noted last, or None if the page cannot be trusted."""
        page = os.pread(self._descriptor, _OUTBOX, 0)
        return _reading(page) if page.startswith(_MAGIC) else None

    def read_places(self) -> list[Reading] | None:
        """Return what the executions of a shared runner do, or None if any of it cannot be trusted."""
        readings: list[Reading] = []
        for place in range(self._places):
            reading = _reading(os.pread(self._descriptor, _PLACE_SIZE, _offset(place)))
            if reading is None:
                return None
            if reading.phase != "idle":
                readings.append(reading)
        return readings

    def outbox(self) -> list[Report]:
        """Return the reports kept since the last :meth:`Recorder.forget`, up to the first that is damaged."""
        page = os.pread(self._descriptor, PAGE_SIZE, 0)
        reports: list[Report] = []
        if len(page) < PAGE_SIZE:
            return reports
        (end,) = _COUNT.unpack_from(page, _OUTBOX)
        offset = _OUTBOX + _COUNT.size
        while offset + _ENTRY.size <= min(end, PAGE_SIZE):
            length, checksum = _ENTRY.unpack_from(page, offset)
            parcel = page[offset + _ENTRY.size : offset + _ENTRY.size + length]
            if zlib.crc32(parcel) != checksum:
                break
            try:
                reports += unpack_reports(parcel)
            except ProtocolError:
                break
            offset += _ENTRY.size + length
        return reports

    def close(self) -> None:
        """Let go of the page."""
        os.close(self._descriptor)


def _reading(page: bytes) -> Reading | None:
    """Read one record; None if it does not check out."""
    if len(page) < _PLACE_SIZE or (slot := page[_CURRENT]) > 1:
        return None
    offset = _SLOTS[slot]
    checksum, execution, claim, phase, started, step_started, length = _HEAD.unpack_from(page, offset)
    end = offset + _HEAD.size + length
    if length > 4 * MAX_STEP_NAME or phase >= len(_PHASES):
        return None
    if zlib.crc32(page[offset + 4 : end]) != checksum:
        return None
    if phase == 0:
        return Reading(phase="idle")
    now = time.monotonic()
    if not (0 <= started <= now and 0 <= step_started <= now):
        return None
    try:
        step = page[offset + _HEAD.size : end].decode()
        return Reading(
            phase=_PHASES[phase],
            execution=execution.rstrip(b"\0").decode(),
            claim=claim,
            step=step if phase == 2 else None,
            started=started,
            step_started=step_started,
        )
    except UnicodeDecodeError:
        return None
