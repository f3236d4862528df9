"""How people write durations, sizes and moments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conductor_protocol.errors import UsageError
from conductor_protocol.units import counted, in_words, instant, moment, seconds, size_in_bytes, size_in_words


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        (1.5, 1.5),
        ("90", 90),
        ("90s", 90),
        ("250ms", 0.25),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5 h", 5400),
        (" 2H ", 7200),
        ("7d", 604_800),
        ("2w", 1_209_600),
        (timedelta(minutes=1, milliseconds=500), 60.5),
    ],
)
def test_durations_are_read_in_every_form(written: float | str | timedelta, meant: float) -> None:
    """Seconds, text and timedelta."""
    assert seconds(written) == meant


@pytest.mark.parametrize(
    "written",
    ["", "s", "soon", "5 minutes", "1h30", "-5s", -1, -0.001, float("nan"), float("inf"), True, None,
     timedelta(seconds=-1), 10**400, "9" * 400, "1e5", "1s1"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(written: object) -> None:
    """The message names the setting and what came."""
    with pytest.raises(UsageError, match=r"timeout: expected (a duration|seconds)"):
        seconds(written, "timeout")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("100 B", 100),
        ("512MiB", 512 * 2**20),
        ("1.5 GB", 1_500_000_000),
        ("2gib", 2 * 2**30),
        ("10kb", 10_000),
    ],
)
def test_sizes_are_read_in_every_form(written: int | str, meant: int) -> None:
    """Bytes, and text with decimal or binary units."""
    assert size_in_bytes(written) == meant


@pytest.mark.parametrize(
    "written", ["", "much", "5 MB/s", "-1", -1, 1.5, True, None, "1tb", "9" * 400 + "gb"]
)
def test_what_is_no_size_is_refused(written: object) -> None:
    """The message names the setting and shows forms that work."""
    with pytest.raises(UsageError, match='memory: expected bytes or text such as "512MiB"'):
        size_in_bytes(written, "memory")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (0, "0 ms"),
        (0.004, "4 ms"),
        (0.9999, "1.0 s"),
        (3.2, "3.2 s"),
        (59.94, "59.9 s"),
        (59.97, "1m"),
        (61, "1m1s"),
        (5400, "1h30m"),
        (3599.6, "1h"),
        (90_000, "1d1h"),
    ],
)
def test_durations_are_said_as_people_say_them(duration: float, words: str) -> None:
    """In at most two units, and never 60 of one where the next larger unit says it."""
    assert in_words(duration) == words


@given(st.integers(1, 10**9))
def test_a_duration_of_whole_minutes_in_words_can_be_read_back(minutes: int) -> None:
    """To the two units that are said, of which the smaller may round off less than a day."""
    said = seconds(in_words(minutes * 60.0))
    assert 0 <= minutes * 60 - said < 86_400


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (2048, "2 KiB"), (812 * 2**20, "812 MiB"), (3 * 2**29, "1.5 GiB")],
)
def test_sizes_are_said_as_people_say_them(size: int, words: str) -> None:
    """In binary units, as the kernel counts."""
    assert size_in_words(size) == words


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_and_its_moment_are_the_same(at: datetime) -> None:
    """To the microsecond, before 1970 too."""
    assert moment(instant(at)) == at


def test_an_instant_does_not_depend_on_the_zone_it_was_written_in() -> None:
    """Instants are microseconds since 1970 in UTC."""
    assert instant(datetime(1970, 1, 1, 2, 0, 0, 7, tzinfo=timezone(timedelta(hours=2)))) == 7


def test_a_datetime_without_a_zone_is_refused() -> None:
    """Nobody could say which moment it means."""
    with pytest.raises(UsageError, match="expected a datetime with a time zone"):
        instant(datetime(2026, 1, 1))  # noqa: DTZ001


def test_what_is_counted_is_one_or_many() -> None:
    """None is many, too."""
    assert [counted(n, "step") for n in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]
