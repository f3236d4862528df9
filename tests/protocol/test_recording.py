"""The two files of a replay: what is written comes back, and what is torn is left out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from conductor_protocol.errors import ProtocolError
from conductor_protocol.messages import Assignment, RecordedStep
from conductor_protocol.operations import Failure
from conductor_protocol.recording import (
    Began,
    Manner,
    Note,
    Raised,
    Recording,
    RecordingReader,
    Returned,
    StepAnswered,
    StepBegan,
    StepEnded,
    Stopped,
    Unable,
    read_notes,
    write_note,
    write_recording,
)

NOTES: list[Note] = [
    Began(1.5),
    StepAnswered("one"),
    StepBegan("two", 2.5),
    StepEnded("two"),
    Returned(b"[1]"),
    Raised(Failure(type="ValueError", message="no")),
    Stopped(None),
    Unable("why", True),
]


@pytest.fixture
def descriptor() -> Iterator[int]:
    """An empty file."""
    with tempfile.TemporaryFile(buffering=0) as file:
        yield file.fileno()


def recording(steps: int) -> Recording:
    assignment = Assignment("e", 1, "t", 1, "conductor.invoke", None, b"null", [], steps)
    return Recording(
        app="a:b",
        paths=["."],
        database="sqlite:///x.db",
        assignment=assignment,
        max_result=9,
        manner=Manner(),
    )


def test_a_recording_comes_back_step_by_step(descriptor: int) -> None:
    """In any order, and as often as is asked."""
    steps = [RecordedStep(f"step {n}", b"x" * n) for n in range(300)]
    write_recording(descriptor, recording(300), steps)
    reader = RecordingReader(descriptor)
    assert reader.recording == recording(300)
    for step in reversed(steps):
        assert reader.find(step.name) == step
    assert reader.find("step 7") == steps[7]
    assert reader.find("another") is None


@pytest.mark.parametrize("content", [b"", b"\0\0\0\1\xc1", b"\0\0\1\0short"])
def test_what_is_no_recording_is_refused(descriptor: int, content: bytes) -> None:
    os.write(descriptor, content)
    with pytest.raises(ProtocolError, match="the recording cannot be read"):
        RecordingReader(descriptor)


def test_notes_come_back_in_order(descriptor: int) -> None:
    for note in NOTES:
        write_note(descriptor, note)
    assert read_notes(descriptor) == NOTES


def test_a_torn_last_note_is_left_out(descriptor: int) -> None:
    """Whoever wrote it died over it."""
    for note in NOTES:
        write_note(descriptor, note)
    whole = os.fstat(descriptor).st_size
    for missing in range(1, 8):
        os.ftruncate(descriptor, whole - missing)
        assert read_notes(descriptor) == NOTES[:-1]
