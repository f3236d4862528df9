"""What a child prints is passed on line by line, and its end is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from conductor_supervisor.processes.output import KEPT, LONGEST_LINE, Output, split_stacks


class Printer:
    """A pipe with a reader: what a child and the supervisor see of each other."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        self.lines: list[str] = []
        self.output = Output(read, self.lines.append)

    def prints(self, data: bytes) -> None:
        os.write(self._write, data)
        self.output.read()

    def ends(self) -> None:
        with suppress(OSError):
            os.close(self._write)


@pytest.fixture
def printer() -> Iterator[Printer]:
    """A child's stream, closed at the end."""
    printer = Printer()
    yield printer
    printer.ends()
    printer.output.close()


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
    printer.prints(b"")
    os.write(printer._write, b"whole\nhalf")
    printer.ends()
    printer.output.read_to_end()
    assert printer.lines == ["whole", "half"]
    assert printer.output.closed


def test_a_pipe_that_others_hold_open_does_not_keep_us(printer: Printer) -> None:
    """A grandchild may live on with it."""
    os.write(printer._write, b"last words")
    printer.output.read_to_end()
    assert printer.lines == ["last words"]
    assert not printer.output.closed


def test_a_line_without_end_is_passed_on_in_pieces(printer: Printer) -> None:
    """It must not fill the memory."""
    printer.prints(b"x" * (2 * LONGEST_LINE + 1))
    assert [len(line) for line in printer.lines] == [LONGEST_LINE, LONGEST_LINE, 1]


def test_only_the_end_is_kept(printer: Printer) -> None:
    """Enough for a crash report, until another execution begins."""
    for _ in range(3):
        printer.prints(b"a" * KEPT)
    printer.prints(b"the end")
    assert len(printer.output.tail()) == KEPT
    assert printer.output.tail().endswith("the end")
    printer.output.forget()
    assert printer.output.tail() == ""


def test_bytes_that_are_no_text_are_shown_as_such(printer: Printer) -> None:
    """A crash report is text."""
    printer.prints(b"caf\xe9\n")
    assert printer.lines == ["caf\\xe9"]


@pytest.mark.parametrize(
    "stacks", ["Fatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n", "Thread 0x7f (most recent"]
)
def test_the_stacks_of_faulthandler_are_told_from_what_the_process_printed(stacks: str) -> None:
    """They have a place of their own in a crash report."""
    assert split_stacks("loading\n" + stacks) == ("loading\n", stacks)


def test_what_has_no_stacks_is_left_as_it_is() -> None:
    """Nothing is lost."""
    assert split_stacks("a line\nanother") == ("a line\nanother", "")
