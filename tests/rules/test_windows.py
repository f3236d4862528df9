"""Windows, held to a plain reading of their definition minute by minute."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zone_changes import DAY, ODD_CHANGES, ZONES, changes, listed_changes, near_a_change, wall

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Day, WindowSpec
from conductor_protocol.units import MICROSECONDS, Instant, instant, moment
from conductor_supervisor.rules.windows import Windows

DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTE = 60


def is_inside(spec: WindowSpec, default_zone: str, second: int) -> bool:
    """Say whether the wall time is inside, as the documentation defines it."""
    local = wall(ZoneInfo(spec.tz or default_zone), second)
    days = spec.days or DAYS
    opens_today, opened_yesterday = DAYS[local.weekday()] in days, DAYS[local.weekday() - 1] in days
    time = local.strftime("%H:%M")
    if spec.start < spec.end:
        return opens_today and spec.start <= time < spec.end
    return (opens_today and time >= spec.start) or (opened_yesterday and time < spec.end)


def is_inside_any(specs: tuple[WindowSpec, ...], default_zone: str, second: int) -> bool:
    return any(is_inside(spec, default_zone, second) for spec in specs)


def scan(specs: tuple[WindowSpec, ...], default_zone: str, start: int, end: int) -> Iterator[int]:
    """Give every minute of a time, and every second around the changes of the clocks, in order."""
    seconds = set(range(start, end, MINUTE))
    for name in {spec.tz or default_zone for spec in specs}:
        for change in changes(name):
            seconds.update(at for at in range(change - 90, change + 90) if start <= at < end)
    yield from sorted(seconds)


def at(text: str) -> Instant:
    """Return the instant of an ISO time with offset."""
    return instant(datetime.fromisoformat(text))


def berlin(start: str, end: str, *days: Day, grace: float | None = None) -> Windows:
    return Windows((WindowSpec(start, end, days=days or None, grace=grace),), "Europe/Berlin")


minutes = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
hours = st.tuples(minutes, minutes | st.just("24:00")).filter(lambda pair: pair[0] != pair[1])
some_days = st.none() | st.sets(st.sampled_from(DAYS), min_size=1).map(lambda days: tuple(sorted(days)))
zone_names = st.none() | st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe"])
window_specs = st.builds(
    lambda pair, tz, days: WindowSpec(*pair, tz=tz, days=days), hours, zone_names, some_days
)
window_lists = st.lists(window_specs, min_size=1, max_size=2).map(tuple)


@settings(max_examples=60)
@given(window_lists, near_a_change())
def test_windows_agree_with_a_scan(specs: tuple[WindowSpec, ...], near: tuple[str, int]) -> None:
    """Near every change of every zone's clocks, each second scanned is open or closed as defined."""
    default_zone, now = near
    windows = Windows(specs, default_zone)
    for second in scan(specs, default_zone, now, now + 2 * DAY):
        expected = is_inside_any(specs, default_zone, second)
        assert windows.is_open(second * MICROSECONDS) == expected, moment(second * MICROSECONDS)


@settings(max_examples=60)
@given(window_lists, near_a_change())
def test_the_next_change_is_the_first_one_that_a_scan_finds(
    specs: tuple[WindowSpec, ...], near: tuple[str, int]
) -> None:
    """Between now and the next change nothing changes; at it, to the microsecond, open or closed does."""
    default_zone, now = near
    windows = Windows(specs, default_zone)
    is_open = is_inside_any(specs, default_zone, now)
    change = windows.next_change(now * MICROSECONDS)
    until = now + 3 * DAY
    if change is not None:
        assert windows.is_open(change) != windows.is_open(change - 1) == is_open
        assert is_inside_any(specs, default_zone, change // MICROSECONDS) != is_open
        until = min(until, change // MICROSECONDS)
    for second in scan(specs, default_zone, now, until):
        assert is_inside_any(specs, default_zone, second) == is_open, moment(second * MICROSECONDS)
    opening = windows.next_opening(now * MICROSECONDS)
    assert opening == (now * MICROSECONDS if is_open else change)


@settings(max_examples=60)
@given(window_lists, near_a_change())
def test_the_last_closing_is_the_last_one_that_a_scan_finds(
    specs: tuple[WindowSpec, ...], near: tuple[str, int]
) -> None:
    """Since the instant told, all is closed; just before it, something was open."""
    default_zone, now = near
    closing = Windows(specs, default_zone).closed_since(now * MICROSECONDS)
    if is_inside_any(specs, default_zone, now):
        assert closing is None
        return
    since = now - 3 * DAY
    if closing is not None:
        assert is_inside_any(specs, default_zone, closing // MICROSECONDS - 1)
        since = max(since, closing // MICROSECONDS)
    for second in scan(specs, default_zone, since, now):
        assert not is_inside_any(specs, default_zone, second), moment(second * MICROSECONDS)


@settings(max_examples=50)
@given(window_lists, near_a_change(), st.lists(st.integers(-40 * DAY, 40 * DAY), max_size=20))
def test_what_was_asked_before_does_not_matter(
    specs: tuple[WindowSpec, ...], near: tuple[str, int], jumps: list[int]
) -> None:
    """A clock that jumps, back or forth, gets the answers that a fresh object gives."""
    default_zone, now = near
    used = Windows(specs, default_zone)
    for jump in jumps:
        then = (now + jump) * MICROSECONDS
        fresh = Windows(specs, default_zone)
        assert used.is_open(then) == fresh.is_open(then)
        assert used.next_change(then) == fresh.next_change(then)
        assert used.closed_since(then) == fresh.closed_since(then)


def test_every_zone_agrees_with_the_definition_around_its_newest_change() -> None:
    """No zone of the database is left to chance: each is looked at around a change of its clocks."""
    specs = (WindowSpec("22:30", "02:30"),)
    for name in ZONES:
        newest = max([0, *listed_changes(name)])
        windows = Windows(specs, name)
        for second in range(newest - 10 * 3600, newest + 10 * 3600, 900):
            assert windows.is_open(second * MICROSECONDS) == is_inside_any(specs, name, second), name


def test_without_windows_it_is_always_open() -> None:
    """An empty list means no restriction."""
    windows = Windows((), "UTC")
    assert windows.is_open(0)
    assert windows.next_opening(5) == 5
    assert windows.next_change(0) is None
    assert windows.closed_since(0) is None
    assert windows.grace(0) is None


def test_a_window_of_the_whole_day_never_closes() -> None:
    """From 00:00 to 24:00 on all days there is no change, not even at midnight."""
    windows = berlin("00:00", "24:00")
    now = at("2026-03-29T00:00+00:00")
    assert windows.is_open(now)
    assert windows.next_change(now) is None


def test_two_windows_that_meet_are_one() -> None:
    """Where one ends as the other begins, nothing changes."""
    halves = (WindowSpec("00:00", "12:00"), WindowSpec("12:00", "24:00"))
    assert Windows(halves, "UTC").next_change(at("2026-01-01T05:00+00:00")) is None


def test_the_end_is_outside_and_the_start_inside() -> None:
    """Windows are half-open, to the microsecond."""
    windows = berlin("22:00", "06:00")
    start, end = at("2026-01-10T22:00+01:00"), at("2026-01-11T06:00+01:00")
    assert [windows.is_open(start - 1), windows.is_open(start)] == [False, True]
    assert [windows.is_open(end - 1), windows.is_open(end)] == [True, False]


def test_days_name_the_day_on_which_the_window_opens() -> None:
    """A window of Friday night is open on Saturday morning, not on Friday morning."""
    windows = berlin("22:00", "06:00", "fri")
    assert not windows.is_open(at("2026-01-09T05:00+01:00"))
    assert windows.is_open(at("2026-01-10T05:00+01:00"))
    assert windows.next_opening(at("2026-01-10T06:00+01:00")) == at("2026-01-16T22:00+01:00")


def test_an_overnight_window_of_sunday_reaches_into_the_next_week() -> None:
    """The week has no seam."""
    windows = berlin("22:00", "06:00", "sun")
    assert windows.next_change(at("2026-01-11T23:00+01:00")) == at("2026-01-12T06:00+01:00")


def test_a_repeated_hour_counts_twice() -> None:
    """At the end of summer time a window in the repeated hour opens, closes, and opens once more."""
    windows = berlin("02:00", "02:30")
    now, openings = at("2026-10-25T01:00+02:00"), []
    for _ in range(4):
        change = windows.next_change(now)
        assert change is not None
        openings.append(moment(change).strftime("%H:%M"))
        now = change
    assert openings == ["00:00", "00:30", "01:00", "01:30"]


def test_a_window_in_a_skipped_hour_does_not_open_that_day() -> None:
    """At the start of summer time it is the next day's turn; if only that day counts, the next week's."""
    now = at("2026-03-29T00:00+01:00")
    assert berlin("02:00", "03:00").next_opening(now) == at("2026-03-30T02:00+02:00")
    assert berlin("02:00", "03:00", "sun").next_opening(now) == at("2026-04-05T02:00+02:00")


def test_a_window_that_begins_in_a_skipped_hour_opens_after_it() -> None:
    """The first instant whose wall time is inside is 03:00."""
    windows = berlin("02:30", "04:00")
    assert windows.next_opening(at("2026-03-29T00:00+01:00")) == at("2026-03-29T03:00+02:00")


def test_a_day_that_a_zone_skipped_has_no_window() -> None:
    """Samoa had no Friday, 30 December 2011."""
    windows = Windows((WindowSpec("09:00", "17:00", tz="Pacific/Apia", days=("fri",)),), "UTC")
    assert windows.next_opening(at("2011-12-26T00:00+00:00")) == at("2012-01-06T09:00+14:00")


def test_the_grace_is_that_of_the_window_that_closed_last() -> None:
    """Each window of a list brings its own grace; none is needed while one is open."""
    windows = Windows(
        (WindowSpec("01:00", "02:00", grace=60.0), WindowSpec("03:00", "04:00", grace=300.0)), "UTC"
    )
    assert windows.grace(at("2026-01-10T02:30+00:00")) == 60.0
    assert windows.grace(at("2026-01-10T03:30+00:00")) is None
    assert windows.grace(at("2026-01-10T04:30+00:00")) == 300.0


@pytest.mark.parametrize(("other", "expected"), [(60.0, 300.0), (None, None)])
def test_of_windows_that_close_together_the_longest_grace_counts(
    other: float | None, expected: float | None
) -> None:
    """No limit is longer than any."""
    windows = Windows(
        (WindowSpec("01:00", "04:00", grace=300.0), WindowSpec("03:00", "04:00", grace=other)), "UTC"
    )
    assert windows.grace(at("2026-01-10T05:00+00:00")) == expected


def test_a_zone_of_its_own_wins_over_the_default() -> None:
    """Windows of one list may lie in different zones."""
    windows = Windows((WindowSpec("01:00", "02:00"), WindowSpec("01:00", "02:00", tz="Asia/Tokyo")), "UTC")
    openings = [at("2026-01-10T01:30+00:00"), at("2026-01-10T01:30+09:00")]
    assert [windows.is_open(opening) for opening in openings] == [True, True]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (WindowSpec("22:00", "22:00"), 'for the whole day write start "00:00" and end "24:00"'),
        (WindowSpec("24:00", "06:00"), 'write for example "00:00"'),
        (WindowSpec("9:00", "17:00"), "expected start as \"HH:MM\", got '9:00'"),
        (WindowSpec("09:00", "17:60"), "expected end as \"HH:MM\", got '17:60'"),
        (WindowSpec("09:00", "17:00\n"), 'expected end as "HH:MM"'),
        (WindowSpec("09:00", "17:00", days=()), "leave days out for every day"),
        (WindowSpec("09:00", "17:00", days=("monday",)), "got ['monday']"),  # type: ignore[arg-type]
        (WindowSpec("09:00", "17:00", tz="Berlin"), "expected an IANA time zone"),
        (WindowSpec("09:00", "17:00", grace=-1.0), "expected a grace of zero or more"),
        (WindowSpec("09:00", "17:00", grace=float("nan")), "expected a grace of zero or more"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_write(spec: WindowSpec, message: str) -> None:
    """Each message shows a form that works."""
    with pytest.raises(UsageError) as caught:
        Windows((spec,), "UTC")
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "change"), ODD_CHANGES)
def test_the_odd_changes_of_these_tests_are_real(name: str, change: datetime) -> None:
    """The list that the property tests lean on names changes that exist."""
    assert int(change.timestamp()) in changes(name)


@pytest.mark.parametrize("name", ["Europe/Berlin", "Australia/Lord_Howe", "UTC"])
def test_a_window_opens_on_every_day_of_a_leap_year(name: str) -> None:
    """However often the clocks change meanwhile, noon comes 366 times."""
    windows = Windows((WindowSpec("12:00", "13:00"),), name)
    now, openings = at("2028-01-01T00:00+00:00"), 0
    while (opening := windows.next_opening(now)) is not None and opening < at("2029-01-01T00:00+00:00"):
        openings += 1
        now = windows.next_change(opening) or opening
    assert openings == 366
