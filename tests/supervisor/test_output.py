"""What a child prints is passed on piece by piece and line by line, and its end is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from conductor_protocol.marks import Speaker, mark
from conductor_protocol.operations import Stream
from conductor_supervisor.processes.output import (
    CHUNK,
    KEPT,
    LONGEST_LINE,
    MOST_LINES,
    Output,
    Outputs,
    split_stacks,
)

KEY = "0123456789abcdef"
ONE, TWO = Speaker("one", 1, 1), Speaker("two", 1, 1)


class Printer:
    """A pipe with a reader and a listener: what a child and the supervisor see of each other."""

    def __init__(self) -> None:
        read, self.write_end = os.pipe()
        self.lines: list[str] = []
        self.pieces: list[tuple[Speaker | None, bytes]] = []
        self.speakers_of_lines: list[Speaker | None] = []
        self.runs: Speaker | None = None
        self.output = Output(read, "stdout", KEY, self)

    def running(self) -> Speaker | None:
        return self.runs

    def heard(self, stream: Stream, speaker: Speaker | None, data: bytes) -> None:
        self.pieces.append((speaker, data))

    def line(self, stream: Stream, speaker: Speaker | None, line: str) -> None:
        self.lines.append(line)
        self.speakers_of_lines.append(speaker)

    def prints(self, data: bytes) -> None:
        os.write(self.write_end, data)
        while self.output.read():
            pass

    def ends(self) -> None:
        with suppress(OSError):
            os.close(self.write_end)


@pytest.fixture
def new_printer() -> Iterator[Callable[[], Printer]]:
    """Makes children's streams, closed at the end."""
    made: list[Printer] = []

    def make() -> Printer:
        made.append(Printer())
        return made[-1]

    yield make
    for printer in made:
        printer.ends()
        printer.output.close()


@pytest.fixture
def printer(new_printer: Callable[[], Printer]) -> Printer:
    """A child's stream."""
    return new_printer()


def test_lines_are_passed_on_when_they_are_whole(printer: Printer) -> None:
    """However they are cut by the pipe."""
    printer.prints(b"one\ntw")
    assert printer.lines == ["one"]
    printer.prints(b"o\r\nthree\n")
    assert printer.lines == ["one", "two", "three"]


def test_reading_never_waits(printer: Printer) -> None:
    """The loop has other things to do."""
    assert printer.output.read() is False
    assert not printer.output.closed


def test_the_last_words_of_a_dead_child_are_read_to_the_end(printer: Printer) -> None:
    """Also those without a line's end; then the stream is closed."""
    os.write(printer.write_end, b"whole\nhalf")
    printer.ends()
    printer.output.read_to_end()
    assert printer.lines == ["whole", "half"]
    assert printer.output.closed


def test_a_pipe_that_others_hold_open_does_not_keep_us(printer: Printer) -> None:
    """A grandchild may live on with it."""
    os.write(printer.write_end, b"last words\x1e")
    printer.output.read_to_end()
    assert printer.lines == ["last words\x1e"]
    assert not printer.output.closed


def test_a_line_without_end_is_passed_on_in_pieces(printer: Printer) -> None:
    """It must not fill the memory."""
    printer.prints(b"x" * (2 * LONGEST_LINE + 1))
    printer.prints(b"\n")
    assert [len(line) for line in printer.lines] == [LONGEST_LINE, LONGEST_LINE, 1]


def test_only_the_end_is_kept(printer: Printer) -> None:
    """Enough to say why a runner did not start."""
    for _ in range(3):
        printer.prints(b"a" * KEPT)
    printer.prints(b"the end")
    assert len(printer.output.tail()) == KEPT
    assert printer.output.tail().endswith("the end")


def test_bytes_that_are_no_text_are_shown_as_such(printer: Printer) -> None:
    """A log is text."""
    printer.prints(b"caf\xe9\n")
    assert printer.lines == ["caf\\xe9"]


def test_what_a_mark_announces_is_its_speakers(printer: Printer) -> None:
    """And marks are neither passed on nor kept."""
    printer.prints(mark(KEY, ONE) + b"of one\n" + mark(KEY, None) + mark(KEY, TWO) + b"of two")
    printer.prints(mark(KEY, None))
    assert printer.pieces == [(ONE, b"of one\n"), (TWO, b"of two")]
    printer.output.read_to_end()
    assert list(zip(printer.speakers_of_lines, printer.lines, strict=True)) == [
        (ONE, "of one"),
        (TWO, "of two"),
    ]
    assert printer.output.tail() == "of one\nof two"


def test_what_bears_no_mark_is_whose_that_runs(printer: Printer) -> None:
    """Native code and child processes write into the pipe as they like."""
    printer.runs = ONE
    printer.prints(b"native")
    printer.prints(mark(KEY, TWO) + b"two")
    printer.prints(mark(KEY, None) + b"native again")
    assert printer.pieces == [(ONE, b"native"), (TWO, b"two"), (ONE, b"native again")]


def test_lines_that_are_too_many_for_the_log_are_counted(printer: Printer) -> None:
    """To log a line takes longer than to print it; what is kept of the execution is complete."""
    printer.prints(b"\n" * CHUNK)
    assert len(printer.lines) == MOST_LINES + 1
    assert printer.lines[-1] == f"({CHUNK - MOST_LINES:,} short lines more, not passed on)"
    assert printer.pieces == [(None, b"\n" * CHUNK)]


def test_outputs_are_read_in_turn_and_not_for_ever(new_printer: Callable[[], Printer]) -> None:
    """A child that prints without end neither keeps the loop nor silences another."""
    first, second = new_printer(), new_printer()
    outputs = Outputs()
    for printer in (first, second):
        outputs.add(printer.output)
        os.write(printer.write_end, b"x" * 5 * CHUNK)
    began = time.monotonic()
    outputs.read(seconds=-1)
    outputs.read(seconds=-1)
    outputs.read(seconds=-1)
    assert [len(printer.pieces) for printer in (first, second)] == [2, 1]
    outputs.read(seconds=60)
    assert [len(printer.pieces) for printer in (first, second)] == [5, 5]
    assert time.monotonic() - began < 30
    first.ends()
    outputs.read(seconds=60)
    assert first.output.closed
    assert outputs.descriptors() == {second.output.fileno()}
    outputs.remove(second.output)
    assert not outputs.descriptors()


@pytest.mark.parametrize(
    "stacks", ["Fatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n", "Thread 0x7f (most recent"]
)
def test_the_stacks_of_faulthandler_are_told_from_what_the_process_printed(stacks: str) -> None:
    """They have a place of their own in a crash report."""
    assert split_stacks("loading\n" + stacks) == ("loading\n", stacks)


def test_stacks_may_begin_within_a_line() -> None:
    """Native code rarely ends its last one."""
    assert split_stacks("half a lineFatal Python error: Aborted\n") == (
        "half a line",
        "Fatal Python error: Aborted\n",
    )
    assert split_stacks("of Thread 0x1\n") == ("of Thread 0x1\n", "")


def test_what_has_no_stacks_is_left_as_it_is() -> None:
    """Nothing is lost."""
    assert split_stacks("a line\nanother") == ("a line\nanother", "")
