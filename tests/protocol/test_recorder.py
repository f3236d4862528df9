"""The flight recorder tells what a dead runner was doing, and is never believed when damaged."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conductor_protocol.codec import pack
from conductor_protocol.messages import Finished, Report
from conductor_protocol.recorder import MAX_STEP_NAME, PAGE_SIZE, Reading, Recorder, RecorderReader

EXECUTION = str(uuid.UUID(int=1))
OTHER = str(uuid.UUID(int=2))


places = st.one_of(
    st.integers(start, min(start + length, PAGE_SIZE) - 1)
    for start, length in [(0, PAGE_SIZE), (0, 200), (2560, 100), (5120, 300)]
)
"""Places in the page: anywhere, and more often where something is written."""


class Page:
    """A flight recorder's file with both ends open."""

    def __init__(self, path: Path) -> None:
        Recorder.create(path)
        self.path = path
        self.recorder = Recorder(path)
        self.reader = RecorderReader(path)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path / "recorder")
    yield page
    page.reader.close()


def report(number: int, size: int = 10) -> Report:
    return Finished(EXECUTION, number, b"x" * size, 0.5)


def test_a_new_page_cannot_be_read_until_its_runner_is_there(tmp_path: Path) -> None:
    """What died before it mapped the page was doing nobody knows what."""
    Recorder.create(tmp_path / "recorder")
    reader = RecorderReader(tmp_path / "recorder")
    assert reader.read() is None
    assert reader.outbox() == []
    reader.close()


def test_a_page_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It tells what runs."""
    Recorder.create(tmp_path / "recorder")
    assert stat.S_IMODE((tmp_path / "recorder").stat().st_mode) == 0o600


def test_a_page_that_was_cut_off_is_unknown(page: Page) -> None:
    """Whoever looks at it lives on."""
    page.recorder.begin(EXECUTION, 1)
    page.recorder.keep(pack([report(1)]))
    os.truncate(page.path, 100)
    assert (page.reader.read(), page.reader.outbox()) == (None, [])


@pytest.mark.parametrize("ahead", [3600.0, float("inf"), float("nan")])
def test_a_page_that_tells_of_the_future_is_unknown(page: Page, ahead: float) -> None:
    """User code has written it."""
    page.recorder.begin(EXECUTION, 1)
    page.recorder._started = time.monotonic() + ahead
    page.recorder.begin_step("forged")
    assert page.reader.read() is None


def test_a_page_that_was_disowned_says_what_it_said_before(page: Page) -> None:
    """A forked process may go through the motions."""
    page.recorder.begin(EXECUTION, 1)
    page.recorder.disown()
    page.recorder.begin_step("in the child")
    assert page.recorder.keep(pack([report(1)]))
    reading = page.reader.read()
    assert reading is not None
    assert (reading.phase, page.reader.outbox()) == ("handler", [])


def test_a_page_made_again_knows_nothing_of_the_last_runner(page: Page) -> None:
    """A report of the one before is not taken for one of the next."""
    page.recorder.keep(pack([report(1)]))
    Recorder.create(page.path)
    Recorder(page.path)
    again = RecorderReader(page.path)
    assert (again.read(), again.outbox()) == (Reading(phase="idle"), [])
    again.close()


def test_a_runner_starts_idle(page: Page) -> None:
    """It has nothing in hand."""
    assert page.reader.read() == Reading(phase="idle")


def test_what_runs_is_read_as_it_was_noted(page: Page) -> None:
    """Handler, step, handler again, idle again."""
    before = time.monotonic()
    page.recorder.begin(EXECUTION, 7)
    in_handler = page.reader.read()
    page.recorder.begin_step("resize-41")
    in_step = page.reader.read()
    page.recorder.end_step()
    after_step = page.reader.read()
    page.recorder.idle()
    assert in_handler is not None
    assert in_step is not None
    assert (in_handler.phase, in_handler.execution, in_handler.claim, in_handler.step) == (
        "handler",
        EXECUTION,
        7,
        None,
    )
    assert (in_step.phase, in_step.execution, in_step.claim, in_step.step) == (
        "step",
        EXECUTION,
        7,
        "resize-41",
    )
    assert before <= in_step.started == in_handler.started <= in_step.step_started <= time.monotonic()
    assert after_step == in_handler
    assert page.reader.read() == Reading(phase="idle")


def test_a_note_counts_only_when_it_is_whole(page: Page) -> None:
    """If a runner dies before the last byte of a note, the one before is still there to be read."""
    page.recorder.begin(EXECUTION, 7)
    earlier, slot = page.reader.read(), page.path.read_bytes()[16]
    page.recorder.begin_step("resize-41")
    scribble(page.path, 16, bytes([slot]))
    assert page.reader.read() == earlier


@given(st.text(min_size=1, max_size=MAX_STEP_NAME))
@settings(max_examples=50)
def test_a_step_may_have_any_name(name: str) -> None:
    """Of up to 500 characters, whatever they are; what UTF-8 does not have is shown as ``?``."""
    with TemporaryDirectory() as folder:
        page = Page(Path(folder) / "recorder")
        page.recorder.begin(EXECUTION, 1)
        page.recorder.begin_step(name)
        reading = page.reader.read()
        page.reader.close()
    assert reading is not None
    assert reading.step == name.encode("utf-8", "replace").decode()


def test_the_longest_name_fits(page: Page) -> None:
    """500 characters of four bytes each, in both slots."""
    page.recorder.begin(EXECUTION, 2**62)
    for letter in "😀🚀":
        page.recorder.begin_step(letter * MAX_STEP_NAME)
        reading = page.reader.read()
        assert reading is not None
        assert reading.step == letter * MAX_STEP_NAME
    assert page.recorder.keep(pack([report(1)]))
    assert page.reader.outbox() == [report(1)]


def test_kept_reports_are_read_in_order_until_they_are_forgotten(page: Page) -> None:
    """And new ones take their place."""
    for parcel in ([report(1)], [report(2), report(3)]):
        assert page.recorder.keep(pack(parcel))
    assert page.reader.outbox() == [report(1), report(2), report(3)]
    page.recorder.forget()
    assert page.reader.outbox() == []
    assert page.recorder.keep(pack([report(4, size=500)]))
    assert page.reader.outbox() == [report(4, size=500)]


def test_a_full_outbox_says_so_and_keeps_what_it_has(page: Page) -> None:
    """The runner then waits until the supervisor has the reports."""
    kept = 0
    while page.recorder.keep(pack([report(kept, size=4000)])):
        kept += 1
    assert kept == (PAGE_SIZE - 5120) // 4070
    assert page.reader.outbox() == [report(number, size=4000) for number in range(kept)]
    page.recorder.forget()
    assert not page.recorder.keep(bytes(PAGE_SIZE))
    assert page.recorder.keep(pack([report(9)]))


@given(places, st.binary(min_size=1, max_size=300))
@settings(max_examples=300)
def test_a_damaged_page_is_read_as_something_that_was_true_or_as_unknown(at: int, damage: bytes) -> None:
    """Wherever somebody scribbles: no error, no reading of something that never was, no invented report."""
    with TemporaryDirectory() as folder:
        page = Page(Path(folder) / "recorder")
        page.recorder.begin(OTHER, 1)
        earlier = page.reader.read()
        page.recorder.begin(EXECUTION, 2)
        now = page.reader.read()
        kept = [report(number) for number in range(3)]
        for one in kept:
            page.recorder.keep(pack([one]))
        scribble(page.path, at, damage)
        reading, outbox = page.reader.read(), page.reader.outbox()
        page.reader.close()
    assert reading in (now, earlier, None)
    assert outbox == kept[: len(outbox)]


def scribble(path: Path, at: int, damage: bytes) -> None:
    """Write over a part of the page, within its size."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(damage[: PAGE_SIZE - at])


def test_a_file_that_is_no_recorder_is_unknown(tmp_path: Path) -> None:
    """Right in size, but nothing of ours in it."""
    (tmp_path / "recorder").write_bytes(b"\x01" * PAGE_SIZE)
    reader = RecorderReader(tmp_path / "recorder")
    assert (reader.read(), reader.outbox()) == (None, [])
    reader.close()


def child(path: Path, code: str) -> subprocess.Popen[bytes]:
    """Start a process that has the page open as ``recorder`` and does as the code says."""
    prelude = f"""
        import os, signal, sys
        from pathlib import Path
        from conductor_protocol.codec import pack
        from conductor_protocol.messages import Finished
        from conductor_protocol.recorder import Recorder
        recorder = Recorder(Path({str(path)!r}))
    """
    return subprocess.Popen([sys.executable, "-c", dedent(prelude) + dedent(code)], stdout=subprocess.PIPE)


def test_what_was_noted_survives_a_segmentation_fault(tmp_path: Path) -> None:
    """The step in progress, since when, and the report that had not been sent."""
    Recorder.create(tmp_path / "recorder")
    before = time.monotonic()
    code = f"""
        recorder.begin({OTHER!r}, 3)
        recorder.keep(pack([Finished({OTHER!r}, 3, b"null", 0.5)]))
        recorder.begin({EXECUTION!r}, 4)
        recorder.begin_step("dereference")
        os.kill(os.getpid(), signal.SIGSEGV)
    """
    with child(tmp_path / "recorder", code) as process:
        assert process.wait() == -signal.SIGSEGV
    reader = RecorderReader(tmp_path / "recorder")
    reading = reader.read()
    assert reading is not None
    assert (reading.execution, reading.claim, reading.step) == (EXECUTION, 4, "dereference")
    assert before < reading.started <= reading.step_started < time.monotonic()
    assert reader.outbox() == [Finished(OTHER, 3, b"null", 0.5)]
    reader.close()


@pytest.mark.parametrize("looks", [1, 40, 400])
def test_a_kill_at_any_moment_leaves_a_page_that_can_be_read(tmp_path: Path, looks: int) -> None:
    """A runner that notes as fast as it can is killed outright, after so many looks at its page."""
    Recorder.create(tmp_path / "recorder")
    reader = RecorderReader(tmp_path / "recorder")
    code = f"""
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            recorder.begin({EXECUTION!r}, number)
            recorder.begin_step(f"step-{{number}}")
            recorder.end_step()
            if not recorder.keep(pack([Finished({EXECUTION!r}, number, b"null", 0.5)])):
                recorder.forget()
            recorder.idle()
    """
    with child(tmp_path / "recorder", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(looks):
            reader.read()  # may be torn, for the runner writes meanwhile; but it never raises
            reader.outbox()
        process.kill()
    reading = reader.read()
    assert reading is not None
    assert reading.execution in (EXECUTION, None)
    if reading.step is not None:
        assert reading.step == f"step-{reading.claim}"
    claims = [one.claim for one in reader.outbox()]
    assert claims == list(range(claims[0], claims[0] + len(claims))) if claims else True
    reader.close()


PLACES = 3


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[Recorder, RecorderReader]]:
    """The page of a shared runner with both ends open."""
    Recorder.create(tmp_path / "recorder", PLACES)
    reader = RecorderReader(tmp_path / "recorder", PLACES)
    yield Recorder(tmp_path / "recorder", PLACES), reader
    reader.close()


def test_each_execution_of_a_shared_runner_has_a_record_of_its_own(
    shared: tuple[Recorder, RecorderReader],
) -> None:
    """What one notes is not written over by another, nor by what the runner keeps in its outbox."""
    recorder, reader = shared
    first, _, last = recorder.places
    first.begin(EXECUTION, 7)
    last.begin(OTHER, 8)
    last.begin_step("x" * MAX_STEP_NAME)
    while recorder.keep(pack([report(1, 5000)])):
        pass
    readings = reader.read_places()
    assert readings is not None
    assert [(r.execution, r.claim, r.phase) for r in readings] == [
        (EXECUTION, 7, "handler"),
        (OTHER, 8, "step"),
    ]
    assert reader.read() == Reading(phase="idle")
    last.idle()
    first.idle()
    assert reader.read_places() == []


def test_a_damaged_place_makes_all_places_unknown(shared: tuple[Recorder, RecorderReader]) -> None:
    """Whoever it was for may have been running."""
    recorder, reader = shared
    for place in recorder.places:
        place.begin(EXECUTION, 7)
    recorder.places[1]._page[PAGE_SIZE + 5120 + 2560 + 40] ^= 0xFF
    recorder.places[1]._page[PAGE_SIZE + 5120 + 64 + 40] ^= 0xFF
    assert reader.read_places() is None
