"""What shows what executions have printed: ``logs``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import get_args

import click
from msgspec import Struct, structs

from conductor_protocol.errors import UsageError
from conductor_protocol.operations import FINISHED, GetOutput, OutputPiece, Printed, State, Stream
from conductor_protocol.units import size_in_words
from conductor_supervisor.cli import render
from conductor_supervisor.cli.site import Site, json_option, located

FOLLOW_INTERVAL = 0.5
"""Seconds between looks for more; what is printed last is kept sooner than that after the ending."""


class OutputLine(Struct, frozen=True, kw_only=True):
    """One line that an execution has printed."""

    time: datetime
    """When its beginning was read."""
    stream: Stream
    attempt: int
    text: str
    """Without the line's end."""


class Lines:
    """Puts lines together from pieces: a line may come in several, with those of the other stream between."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, Stream], OutputLine] = {}

    def feed(self, pieces: Iterable[OutputPiece]) -> Iterator[OutputLine]:
        """Give the lines that are whole now."""
        for piece in pieces:
            if piece.dropped:
                yield from self._end(piece.attempt, piece.stream)
            *whole, begun = piece.text.split("\n")
            for text in whole:
                line = self._joined(piece, text)
                self._begun.pop((piece.attempt, piece.stream), None)
                yield structs.replace(line, text=line.text.removesuffix("\r"))
            if begun:
                self._begun[piece.attempt, piece.stream] = self._joined(piece, begun)

    def finish(self) -> Iterator[OutputLine]:
        """Give the lines that have no end: nothing more will come."""
        for key in list(self._begun):
            yield from self._end(*key)

    def _joined(self, piece: OutputPiece, text: str) -> OutputLine:
        begun = self._begun.get((piece.attempt, piece.stream))
        if begun is not None:
            return structs.replace(begun, text=begun.text + text)
        return OutputLine(time=piece.time, stream=piece.stream, attempt=piece.attempt, text=text)

    def _end(self, attempt: int, stream: Stream) -> Iterator[OutputLine]:
        if (begun := self._begun.pop((attempt, stream), None)) is not None:
            yield begun


@click.command()
@click.argument("wanted", metavar="ID")
@click.option(
    "--stream", metavar="STREAM", type=click.Choice(get_args(Stream)), help="Only what was printed there."
)
@click.option(
    "--attempt", metavar="N", type=click.IntRange(min=1), help="Only of this attempt, as show numbers it."
)
@click.option("--tail", metavar="N", type=click.IntRange(min=0), help="Only the last so many lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the execution has finished.")
@json_option
@located
def logs(
    site: Site,
    wanted: str,
    stream: Stream | None,
    attempt: int | None,
    tail: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show what an execution has printed and logged.

    Of one that has printed much, the newest lines are kept: log_limit says how much. On a terminal the lines
    of stderr are dim.
    """
    if follow and as_json:
        raise UsageError("--follow shows lines as they come, --json all of them at once; write one of them")
    execution = site.find_id(wanted)
    reader = _Reader(site, execution, stream, attempt)
    lines = reader.read()
    if not follow:
        lines += reader.rest()
    if tail is not None:
        lines = lines[max(0, len(lines) - tail) :]
    if as_json:
        render.show_json(lines)
        return
    if reader.dropped:
        render.remark(f"({size_in_words(reader.dropped)} that were printed earlier are kept no more)")
    _show(lines)
    if follow:
        for more in reader.follow():
            _show(more)
    if not reader.found:
        render.remark(_nothing(execution, stream, attempt))


class _Reader:
    """Reads what an execution has printed, from where it stopped, and chooses lines."""

    def __init__(self, site: Site, execution: str, stream: Stream | None, attempt: int | None) -> None:
        """:param stream: only this one; None: both. So with the attempt."""
        self._site = site
        self._execution = execution
        self._stream = stream
        self._attempt = attempt
        self._lines = Lines()
        self._last = 0
        self._state: State = "scheduled"
        self.dropped = 0
        """Bytes that are missing in what was read."""
        self.found = False
        """A line has been chosen."""

    def read(self) -> list[OutputLine]:
        """Return the lines that have become whole since."""
        lines: list[OutputLine] = []
        complete = False
        while not complete:
            page = self._site.perform(GetOutput(self._execution, self._last), Printed)
            self._last, self._state, complete = page.last, page.state, page.complete
            self.dropped += sum(piece.dropped for piece in page.pieces)
            lines += self._chosen(self._lines.feed(page.pieces))
        return lines

    def rest(self) -> list[OutputLine]:
        """Return the lines that have no end yet."""
        return self._chosen(self._lines.finish())

    def follow(self) -> Iterator[list[OutputLine]]:
        """Give what comes, until the execution has finished."""
        finished = False
        while not finished:
            # What was printed last may be kept a moment after the ending, so a look behind that is the last.
            finished = self._state in FINISHED
            time.sleep(FOLLOW_INTERVAL)
            yield self.read()
        yield self.rest()

    def _chosen(self, lines: Iterable[OutputLine]) -> list[OutputLine]:
        chosen = [
            line
            for line in lines
            if self._stream in (None, line.stream) and self._attempt in (None, line.attempt)
        ]
        self.found = self.found or bool(chosen)
        return chosen


def _show(lines: Iterable[OutputLine]) -> None:
    for line in lines:
        render.say(line.text, dim=line.stream == "stderr")
    sys.stdout.flush()


def _nothing(execution: str, stream: Stream | None, attempt: int | None) -> str:
    where = f" to {stream}" if stream is not None else ""
    when = f" in attempt {attempt}" if attempt is not None else ""
    return f"execution {execution} has printed nothing{where}{when}"
