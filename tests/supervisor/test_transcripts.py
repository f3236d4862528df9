"""What attempts print is gathered in bounded chunks, and written when it is due."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import cast

import pytest
from holdings import NOW, held, runner
from hypothesis import given
from hypothesis import strategies as st

from conductor_protocol.marks import Speaker
from conductor_protocol.operations import Stream
from conductor_protocol.recorder import Reading
from conductor_protocol.units import Instant
from conductor_supervisor import transcripts
from conductor_supervisor.journal import Journal
from conductor_supervisor.processes.output import KEPT
from conductor_supervisor.roster import Held, Pool, Roster, Runner
from conductor_supervisor.store.output import Chunk
from conductor_supervisor.transcripts import LARGEST_CHUNK, TOGETHER, Transcript, Transcripts
from conductor_supervisor.writes import KeepOutput

ONE = Speaker("one", 3, 2)


def taken(transcript: Transcript, *, whole: bool = True) -> list[Chunk]:
    return transcript.take(ONE, whole=whole)


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_whatever_bytes_are_printed_the_text_is_the_same_however_they_are_cut(
    data: bytes, places: list[int]
) -> None:
    """And every database can hold it: no zero characters, no half surrogates."""
    transcript = Transcript(100_000)
    ends = sorted({min(place, len(data)) for place in places})
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        transcript.add("stdout", data[start:end], NOW)
    printed = text(taken(transcript))
    assert printed == data.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    assert "\0" not in printed
    printed.encode()


def test_a_half_character_waits_for_its_other_half() -> None:
    """But not when nothing more will come; and what came between on the other stream does no harm."""
    transcript = Transcript(100)
    transcript.add("stdout", "é".encode()[:1], NOW)
    assert taken(transcript, whole=False) == []
    transcript.add("stderr", b"x", NOW)
    transcript.add("stdout", "é".encode()[1:], NOW)
    assert [(chunk.stream, chunk.text) for chunk in taken(transcript)] == [("stderr", "x"), ("stdout", "é")]
    transcript.add("stdout", "é".encode()[:1], NOW)
    assert text(taken(transcript)) == "\\xc3"


def test_chunks_say_whose_they_are_and_what_went_before() -> None:
    """Also what has been taken already."""
    transcript = Transcript(1000)
    transcript.add("stdout", "ä".encode(), NOW)
    taken(transcript)
    transcript.add("stderr", b"b", NOW + 1)
    assert taken(transcript) == [
        Chunk(
            execution="one",
            claim=3,
            attempt=2,
            stream="stderr",
            time=NOW + 1,
            text="b",
            size=1,
            before=2,
        )
    ]
    assert taken(transcript) == []


def test_what_is_printed_at_once_on_one_stream_is_one_chunk() -> None:
    """A later moment, the other stream, or too much of it begins another."""
    transcript = Transcript(10 * LARGEST_CHUNK * 16)
    for stream, data, later in (
        ("stdout", b"a", 0),
        ("stdout", b"b", TOGETHER - 1),
        ("stdout", b"c", TOGETHER),
        ("stderr", b"d", TOGETHER),
        ("stderr", b"e" * LARGEST_CHUNK, TOGETHER),
        ("stderr", b"f", TOGETHER),
    ):
        transcript.add(cast(Stream, stream), data, NOW + later)
    assert [chunk.text[:2] for chunk in taken(transcript)] == ["ab", "c", "d", "ee", "f"]


def test_a_clock_that_is_set_back_begins_another_chunk() -> None:
    """No moment is made up."""
    transcript = Transcript(100_000)
    transcript.add("stdout", b"a", NOW)
    transcript.add("stdout", b"b", NOW - 1)
    assert [chunk.time for chunk in taken(transcript)] == [NOW, NOW - 1]


@pytest.mark.parametrize("limit", [1, 7, 1000, 100_000])
def test_no_more_waits_than_the_limit_and_it_is_the_newest(limit: int) -> None:
    """Whatever the size of what is printed at once; what was dropped counts as printed."""
    transcript = Transcript(limit)
    printed = b"".join(b"%06d\n" % number for number in range(40_000))
    for start in range(0, len(printed), 8192):
        transcript.add("stdout", printed[start : start + 8192], NOW + start)
    chunks = taken(transcript)
    kept = text(chunks).encode()
    assert limit * 0.9 <= len(kept) <= limit
    assert printed.endswith(kept)
    assert chunks[0].before == len(printed) - len(kept)


def test_without_a_limit_only_the_ends_are_kept() -> None:
    """A crash report needs them."""
    transcript = Transcript(0)
    transcript.add("stdout", b"x" * KEPT + b"the end", NOW)
    assert taken(transcript) == []
    assert len(transcript.tail("stdout")) == KEPT
    assert transcript.tail("stdout").endswith("the end")
    assert transcript.tail("stderr") == ""


# All transcripts of a supervisor


class Keeper:
    """Transcripts with a roster of one runner, a journal that only collects, and time in our hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic = 100.0
        self.writes: list[KeepOutput] = []
        self.roster = Roster({Pool(): 1})
        self.runner: Runner = runner()
        self.page: Reading | None = Reading(phase="idle")
        self.runner.child = SimpleNamespace(  # type: ignore[assignment]
            recorder=SimpleNamespace(read=lambda: self.page)
        )
        self.roster.runners[1] = self.runner
        monkeypatch.setattr(transcripts, "time", SimpleNamespace(monotonic=lambda: self.monotonic))
        self.transcripts = Transcripts(self.roster, cast(Journal, self), self, limit=1000)
        self.listener = self.transcripts.listener(1, slot=7)

    def now(self) -> Instant:
        return NOW

    def submit(self, write: KeepOutput) -> None:
        self.writes.append(write)

    def runs(self, execution: str) -> Held:
        one = held(execution)
        self.runner.hand(one, 0.0)
        self.page = Reading(phase="handler", execution=execution, claim=1)
        return one

    def prints(self, execution: str, data: bytes, stream: Stream = "stdout") -> None:
        self.listener.heard(stream, Speaker(execution, 1, 1), data)

    def kept(self) -> list[str]:
        """What the writes since the last call hold; they are committed."""
        self.transcripts.keep()
        writes, self.writes = self.writes, []
        for write in writes:
            write.then()
        return [chunk.text for write in writes for chunk in write.chunks]


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Keeper:
    return Keeper(monkeypatch)


def test_what_runs_is_written_once_a_second(keeper: Keeper) -> None:
    """Not at each turn of the loop."""
    keeper.runs("a")
    keeper.prints("a", b"1")
    assert keeper.kept() == ["1"]
    keeper.prints("a", b"2")
    assert keeper.kept() == []
    keeper.monotonic += 0.9
    keeper.prints("a", b"3")
    assert keeper.kept() == []
    keeper.monotonic += 0.2
    assert keeper.kept() == ["23"]
    keeper.monotonic += 2
    assert keeper.kept() == []


def test_what_has_ended_is_written_at_once_and_forgotten(keeper: Keeper) -> None:
    """However it has left our hands; also what comes later."""
    keeper.runs("a")
    keeper.runs("b")
    keeper.prints("a", b"1")
    keeper.prints("b", b"2")
    assert keeper.kept() == ["1", "2"]
    keeper.prints("a", b"3")
    keeper.prints("b", b"4")
    keeper.runner.take_back("a", 1)
    assert keeper.kept() == ["3"]
    assert keeper.transcripts.tail("a", 1, "stdout") == ""
    keeper.prints("a", b"5")
    keeper.transcripts.keep()
    (write,) = keeper.writes
    assert [(chunk.text, chunk.before) for chunk in write.chunks] == [("5", 2)]


def test_while_the_database_is_away_no_writes_pile_up(keeper: Keeper) -> None:
    """What waits stays within the limit."""
    keeper.runs("a")
    keeper.prints("a", b"1")
    keeper.transcripts.keep()
    for _ in range(10):
        keeper.monotonic += 1
        keeper.prints("a", b"x" * 1000)
        keeper.transcripts.keep()
    (write,) = keeper.writes
    write.then()
    keeper.transcripts.keep()
    assert sum(chunk.size for chunk in keeper.writes[1].chunks) <= 1000


def test_a_refused_write_is_told_and_the_next_one_is_made(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """Output is not worth more than the executions."""
    keeper.runs("a")
    keeper.prints("a", b"1")
    keeper.transcripts.keep()
    keeper.writes.pop().refused("no room")
    assert "could not be stored: no room" in caplog.text
    keeper.monotonic += 2
    keeper.prints("a", b"2")
    assert keeper.kept() == ["2"]


def test_the_ends_for_a_crash_report_are_those_of_the_attempt(keeper: Keeper) -> None:
    """By stream, and not what an earlier one in that runner has printed."""
    keeper.runs("a")
    keeper.prints("b", b"of another")
    keeper.prints("a", b"out")
    keeper.prints("a", b"err", "stderr")
    assert keeper.transcripts.tail("a", 1, "stdout") == "out"
    assert keeper.transcripts.tail("a", 1, "stderr") == "err"
    assert keeper.transcripts.tail("a", 2, "stderr") == ""


def test_what_bears_no_mark_belongs_to_whom_the_recorder_names(keeper: Keeper) -> None:
    """Under the claim that is in hand; between executions it is nobody's."""
    assert keeper.listener.running() is None
    keeper.runs("a")
    assert keeper.listener.running() == Speaker("a", 1, 1)
    keeper.page = Reading(phase="handler", execution="a", claim=2)
    assert keeper.listener.running() is None
    keeper.page = Reading(phase="handler", execution="gone", claim=1)
    assert keeper.listener.running() is None
    keeper.page = None
    assert keeper.listener.running() == Speaker("a", 1, 1)
    del keeper.roster.runners[1]
    assert keeper.listener.running() is None


def test_a_line_in_the_log_names_runner_stream_and_execution(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """By the id's end, as commands show it."""
    caplog.set_level(logging.INFO)
    speaker = Speaker("01999999-9999-7999-9999-99999999999a", 1, 1)
    keeper.listener.line("stdout", speaker, "a line")
    keeper.listener.line("stderr", None, "importing")
    keeper.listener.heard("stderr", None, b"importing\n")
    assert caplog.messages == ["runner 7 stdout 99999999999a| a line", "runner 7 stderr| importing"]
    assert keeper.kept() == []
