"""A FakeClock stands still, moves when told, and is the clock of everything that Conductor runs."""

from __future__ import annotations

import gc
import os
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from conductor.testing.clock import CLOCK_FILE, FakeClock
from conductor_protocol.errors import UsageError
from conductor_protocol.units import instant
from conductor_supervisor import clock as supervisors
from conductor_supervisor.clock import FileClock, SystemClock, clock_from_environment

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def test_it_stands_still() -> None:
    """Real time does not move it."""
    clock = FakeClock(NEW_YEAR)
    time.sleep(0.001)
    assert clock.now == NEW_YEAR


def test_it_starts_at_the_present_moment_unless_told() -> None:
    """So that moments which handlers get from Python are near."""
    before = datetime.now(UTC)
    assert before - timedelta(milliseconds=1) < FakeClock().now <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("duration", "moved"),
    [
        ("1h30m", timedelta(hours=1, minutes=30)),
        (90, timedelta(seconds=90)),
        (0.000001, timedelta(microseconds=1)),
        (timedelta(days=400), timedelta(days=400)),
    ],
)
def test_it_advances_by_any_duration(duration: str | float | timedelta, moved: timedelta) -> None:
    """Durations are written here as everywhere."""
    clock = FakeClock(NEW_YEAR)
    clock.advance(duration)
    assert clock.now == NEW_YEAR + moved


def test_it_is_set_in_any_zone_and_tells_utc() -> None:
    """A moment is a moment, whatever zone names it."""
    clock = FakeClock()
    clock.set(datetime(2026, 7, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")))
    assert clock.now == datetime(2026, 7, 1, tzinfo=UTC)
    assert clock.now.tzinfo is UTC


def test_a_naive_datetime_is_refused() -> None:
    """Nobody could say which moment it means."""
    with pytest.raises(UsageError, match="time zone"):
        FakeClock().set(datetime(2026, 1, 1))  # noqa: DTZ001


def test_supervisors_and_clients_read_the_same_moment() -> None:
    """The kit writes the file format by itself, as it may not import the supervisor; both agree."""
    assert supervisors.CLOCK_FILE == CLOCK_FILE
    clock = FakeClock(NEW_YEAR)
    theirs = FileClock(clock.file)
    assert theirs.now() == instant(NEW_YEAR)
    clock.advance("1ms")
    assert theirs.now() == instant(NEW_YEAR) + 1000


def test_it_reads_what_a_supervisors_clock_writes() -> None:
    """The format agrees in the other direction, before 1970 as well."""
    clock = FakeClock()
    FileClock(clock.file).set(-1)
    assert clock.now == datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1)


def test_inside_the_with_block_it_is_the_clock_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks nest; outside of them the machine's clock counts again."""
    monkeypatch.delenv(CLOCK_FILE, raising=False)
    with FakeClock(NEW_YEAR):
        with FakeClock(NEW_YEAR + timedelta(days=1)) as inner:
            assert clock_from_environment().now() == instant(inner.now)
        assert clock_from_environment().now() == instant(NEW_YEAR)
    assert CLOCK_FILE not in os.environ
    assert isinstance(clock_from_environment(), SystemClock)


def test_its_file_goes_with_it() -> None:
    """Nothing stays behind in the temporary folder."""
    clock = FakeClock()
    file = clock.file
    assert file.exists()
    del clock
    gc.collect()
    assert not file.exists()


@pytest.mark.parametrize("wrong", ["2030-01-31", 0, datetime(2030, 1, 31), date(2030, 1, 31)])  # noqa: DTZ001
def test_a_moment_that_cannot_be_meant_is_refused(wrong: Any) -> None:
    """The message has one to write, and the clock stays where it was."""
    with pytest.raises(UsageError, match=r"FakeClock: expected a datetime .* tzinfo=UTC\), got "):
        FakeClock(wrong)
    clock = FakeClock(datetime(2030, 1, 1, tzinfo=UTC))
    with pytest.raises(UsageError, match="FakeClock: expected a datetime"):
        clock.set(wrong)
    assert clock.now == datetime(2030, 1, 1, tzinfo=UTC)
