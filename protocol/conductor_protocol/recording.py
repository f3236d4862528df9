"""The two files of a replay: what it is told, and what it tells.

``conductor-supervisor replay`` reads an execution from the database into a file without a name, and starts a
child process that inherits its descriptor and runs the handler. The child notes what happens, as it happens,
in a second such file: so the notes survive it, however it ends.

Each file is a row of frames: four bytes of length, then a Struct as MessagePack.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec
from msgspec import Struct

from conductor_protocol.errors import ProtocolError
from conductor_protocol.messages import Assignment, RecordedStep
from conductor_protocol.operations import Failure

_LENGTH = 4
"""Bytes that tell how long a frame is."""


class Manner(Struct, frozen=True, kw_only=True):
    """Where a replay stops."""

    stop_at_new: bool = False
    """End before the first step that is not recorded."""
    breakpoints: list[str] = []
    """Start a debugger before these steps."""
    post_mortem: bool = False
    """Start a debugger where the handler raises."""


class Recording(Struct, frozen=True, kw_only=True):
    """The first frame of what a replay is told; the recorded steps follow, in a frame each."""

    app: str
    """``module:attribute`` or ``path/file.py:attribute``."""
    paths: list[str]
    """Put before ``sys.path``."""
    database: str
    """URL of the database that the execution is in: clients that only read may."""
    assignment: Assignment
    """Without the steps, but with their number."""
    max_result: int
    """Bytes that a result may have."""
    manner: Manner


class Began(Struct, frozen=True, tag=True, array_like=True):
    """The app is imported, and the handler is about to be called."""

    at: float
    """``time.monotonic()``."""


class StepAnswered(Struct, frozen=True, tag=True, array_like=True):
    """A step's result was taken from the record."""

    name: str


class StepBegan(Struct, frozen=True, tag=True, array_like=True):
    """A step's function is about to be called: the step is not recorded."""

    name: str
    at: float
    """``time.monotonic()``."""


class StepEnded(Struct, frozen=True, tag=True, array_like=True):
    """The step that began has returned, or raised."""

    name: str


class Returned(Struct, frozen=True, tag=True, array_like=True):
    """The handler returned."""

    result: bytes
    """JSON."""


class Raised(Struct, frozen=True, tag=True, array_like=True):
    """The handler raised."""

    failure: Failure


class Stopped(Struct, frozen=True, tag=True, array_like=True):
    """The handler was stopped on purpose: before the step named, or (None) from the debugger."""

    step: str | None


class Unable(Struct, frozen=True, tag=True, array_like=True):
    """The handler could not be called."""

    message: str
    misuse: bool
    """What the user wrote is wrong: the app's name, a declaration, the payload."""
    traceback: str = ""


Ending: TypeAlias = Returned | Raised | Stopped | Unable
Note: TypeAlias = Began | StepAnswered | StepBegan | StepEnded | Ending

_encode = msgspec.msgpack.Encoder().encode
_recording: msgspec.msgpack.Decoder[Recording] = msgspec.msgpack.Decoder(Recording)
_step: msgspec.msgpack.Decoder[RecordedStep] = msgspec.msgpack.Decoder(RecordedStep)
_note: msgspec.msgpack.Decoder[Note] = msgspec.msgpack.Decoder(Note)


def write_recording(descriptor: int, recording: Recording, steps: Iterable[RecordedStep]) -> None:
    """Write what a replay is told."""
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        for part in (recording, *steps):
            file.write(_frame(part))


class RecordingReader:
    """What a replay is told. Results stay in the file until they are wanted. Threads may share it.

    :raises ProtocolError: when it is made from a file that holds anything else.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._places: dict[str, tuple[int, int]] = {}
        """By step: where its frame is, and how long."""
        places = _places(descriptor)
        try:
            self.recording = _recording.decode(self._read(next(places)))
            for place in places:
                self._places[_step.decode(self._read(place)).name] = place
        except (StopIteration, msgspec.MsgspecError) as error:
            raise ProtocolError(f"the recording cannot be read: {error!r}") from error

    def find(self, name: str) -> RecordedStep | None:
        """Return the recorded step of this name."""
        place = self._places.get(name)
        return None if place is None else _step.decode(self._read(place))

    def _read(self, place: tuple[int, int]) -> bytes:
        start, length = place
        return os.pread(self._descriptor, length, start)


def write_note(descriptor: int, note: Note) -> None:
    """Note what happens, in one call of the system."""
    os.write(descriptor, _frame(note))


def read_notes(descriptor: int) -> list[Note]:
    """Return what a replay told, in order. A last note that is torn counts as not written."""
    return [_note.decode(os.pread(descriptor, length, start)) for start, length in _places(descriptor)]


def _frame(part: Struct) -> bytes:
    body = _encode(part)
    return len(body).to_bytes(_LENGTH, "big") + body


def _places(descriptor: int) -> Iterator[tuple[int, int]]:
    """Give start and length of each whole frame."""
    size = os.fstat(descriptor).st_size
    start = 0
    while start + _LENGTH <= size:
        length = int.from_bytes(os.pread(descriptor, _LENGTH, start), "big")
        start += _LENGTH
        if start + length > size:
            return
        yield start, length
        start += length
