"""Cron schedules, held to the written rule for gaps and repeats wall-clock minute by minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zone_changes import DAY, near_a_change, wall

from conductor_protocol.errors import UsageError
from conductor_protocol.units import MICROSECONDS, Instant, instant
from conductor_supervisor.rules import cron as cron_module
from conductor_supervisor.rules.cron import Cron

NOBODY_KNOWS = 1_000_000
"""More firings than any of these tests makes."""

MINUTES: list[tuple[str, set[int]]] = [
    ("*", set(range(60))),
    ("*/7", set(range(0, 60, 7))),
    ("0", {0}),
    ("15,45", {15, 45}),
    ("30", {30}),
    ("59", {59}),
]
HOURS: list[tuple[str, set[int]]] = [
    ("*", set(range(24))),
    ("*/2", set(range(0, 24, 2))),
    ("0-23", set(range(24))),
    ("0", {0}),
    ("1,2,3", {1, 2, 3}),
    ("2", {2}),
    ("12", {12}),
]
WEEKDAYS: list[tuple[str, set[int]]] = [("*", set(range(7))), ("mon-fri", set(range(5))), ("sun", {6})]


def occurrences(zone: ZoneInfo, local: datetime) -> list[int]:
    """Return the seconds at which the wall clock shows this: none in a gap, two in a repeat."""
    candidates = {int(local.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1)}
    return sorted(second for second in candidates if wall(zone, second) == local)


def end_of_gap(zone: ZoneInfo, skipped: datetime) -> int:
    """Return the first second after the gap that skipped a wall time."""
    early = int(skipped.replace(tzinfo=zone, fold=1).timestamp())
    late = int(skipped.replace(tzinfo=zone, fold=0).timestamp())
    while late - early > 1:
        middle = (early + late) // 2
        early, late = (early, middle) if wall(zone, middle) > skipped else (middle, late)
    return late


def firings_of(zone: ZoneInfo, local: datetime, is_hourly: bool) -> list[int]:
    """Return when a wall time fires, as the documentation has it."""
    found = occurrences(zone, local)
    if not found:
        return [end_of_gap(zone, local)]
    return found if is_hourly else found[:1]


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(MINUTES), st.sampled_from(HOURS), st.sampled_from(WEEKDAYS), near_a_change())
def test_schedules_agree_with_a_scan_of_the_wall_clock(
    minute: tuple[str, set[int]],
    hour: tuple[str, set[int]],
    weekday: tuple[str, set[int]],
    near: tuple[str, int],
) -> None:
    """Near every change of every zone's clocks: each firing, once, in order, and no other."""
    name, now = near
    zone = ZoneInfo(name)
    until = now + DAY
    expected: set[int] = set()
    # A gap of a day at most lies before, and less than half a day is ever repeated.
    local = wall(zone, now).replace(second=0) - timedelta(hours=25)
    while local < wall(zone, until) + timedelta(hours=12):
        if local.minute in minute[1] and local.hour in hour[1] and local.weekday() in weekday[1]:
            expected.update(firings_of(zone, local, is_hourly=hour[0] in ("*", "*/2")))
        local += timedelta(minutes=1)
    schedule = Cron(f"{minute[0]} {hour[0]} * * {weekday[0]}", name)
    found = schedule.firings(now * MICROSECONDS, until * MICROSECONDS, NOBODY_KNOWS)
    assert found == [second * MICROSECONDS for second in sorted(expected) if now < second <= until]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(MINUTES), st.sampled_from(HOURS), near_a_change())
def test_one_firing_leads_to_the_next(
    minute: tuple[str, set[int]], hour: tuple[str, set[int]], near: tuple[str, int]
) -> None:
    """Walking by ``next_firing`` meets the same instants as ``firings``, in order and without repeats."""
    name, now = near
    schedule = Cron(f"{minute[0]} {hour[0]} * * *", name)
    walked, last = [], now * MICROSECONDS
    for _ in range(12):
        last = schedule.next_firing(last)
        walked.append(last)
    assert walked == schedule.firings(now * MICROSECONDS, last, NOBODY_KNOWS)
    assert walked == sorted(set(walked))


def at(text: str) -> Instant:
    """Return the instant of an ISO time with offset."""
    return instant(datetime.fromisoformat(text))


def walls(expression: str, zone: str, after: str, until: str) -> list[str]:
    """Return the firings between two moments, in UTC."""
    found = Cron(expression, zone).firings(at(after), at(until), NOBODY_KNOWS)
    return [datetime.fromtimestamp(firing / MICROSECONDS, UTC).strftime("%d %H:%M:%S") for firing in found]


SPRING = ("2026-03-28T12:00+00:00", "2026-03-29T06:00+00:00")
AUTUMN = ("2026-10-24T12:00+00:00", "2026-10-25T06:00+00:00")


def test_a_skipped_wall_time_fires_once_right_after_the_gap() -> None:
    """02:30 does not exist in Berlin on 29 March 2026; 03:00 summer time is 01:00 in UTC."""
    assert walls("30 2 * * *", "Europe/Berlin", *SPRING) == ["29 01:00:00"]


def test_all_that_a_gap_skips_fires_together_once() -> None:
    """Three skipped wall times and the one right after the gap make one firing."""
    assert walls("0,15,45 2,3 * * *", "Europe/Berlin", *SPRING) == [
        "29 01:00:00",
        "29 01:15:00",
        "29 01:45:00",
    ]


def test_a_repeated_wall_time_fires_at_its_first_occurrence() -> None:
    """02:30 comes twice in Berlin on 25 October 2026."""
    assert walls("30 2 * * *", "Europe/Berlin", *AUTUMN) == ["25 00:30:00"]


@pytest.mark.parametrize("hour", ["*", "*/1", "*/2"])
def test_a_wildcard_hour_fires_at_both_occurrences(hour: str) -> None:
    """A schedule of every hour means real hours, also while the clocks repeat one."""
    found = walls(f"30 {hour} * * *", "Europe/Berlin", *AUTUMN)
    assert {"25 00:30:00", "25 01:30:00"} <= set(found)


def test_a_repeated_hour_fires_again_also_where_days_without_a_firing_follow() -> None:
    """In São Paulo the clocks went back from Sunday to Saturday 23:00, 17 February 2019."""
    found = walls("30 * * * sat", "America/Sao_Paulo", "2019-02-17T01:00+00:00", "2019-02-20T00:00+00:00")
    assert found == ["17 01:30:00", "17 02:30:00"]


def test_a_firing_at_a_repeated_time_is_not_made_again_after_a_look_between_the_two() -> None:
    """Asked between both occurrences, the next firing is that of the next day."""
    schedule = Cron("30 2 * * *", "Europe/Berlin")
    between = at("2026-10-25T00:45+00:00")
    assert schedule.next_firing(between) == at("2026-10-26T02:30+01:00")


def test_six_fields_have_the_seconds_last() -> None:
    """As croniter reads them."""
    found = walls("0 2 * * * 10,40", "UTC", "2026-01-01T00:00+00:00", "2026-01-02T00:00+00:00")
    assert found == ["01 02:00:10", "01 02:00:40"]


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("@hourly", "2026-01-01T01:00+00:00"),
        ("@daily", "2026-01-02T00:00+00:00"),
        ("@weekly", "2026-01-04T00:00+00:00"),
        ("@yearly", "2027-01-01T00:00+00:00"),
    ],
)
def test_aliases_mean_what_they_say(alias: str, expected: str) -> None:
    """From the first minute of 2026."""
    assert Cron(alias, "UTC").next_firing(at("2026-01-01T00:00+00:00")) == at(expected)


def test_the_next_firing_is_strictly_after() -> None:
    """Asked at a firing, or within the second before or after, no firing comes twice and none is missed."""
    schedule = Cron("0 2 * * *", "UTC")
    firing = at("2026-01-02T02:00+00:00")
    assert schedule.next_firing(firing - 1) == firing
    assert schedule.next_firing(firing) == schedule.next_firing(firing + 1) == firing + DAY * MICROSECONDS


def test_years_without_a_firing_are_crossed() -> None:
    """29 February comes every fourth year, and not in 2100."""
    schedule = Cron("0 0 29 2 *", "America/New_York")
    assert schedule.next_firing(at("2028-03-01T00:00+00:00")) == at("2032-02-29T00:00-05:00")
    assert schedule.next_firing(at("2096-03-01T00:00+00:00")) == at("2104-02-29T00:00-05:00")


def test_firings_are_limited_to_the_first() -> None:
    """A caller can take them in portions."""
    found = Cron("0 * * * *", "UTC").firings(0, DAY * MICROSECONDS, 3)
    assert found == [hour * 3600 * MICROSECONDS for hour in (1, 2, 3)]


LAST = at("2026-01-10T02:00+00:00")
NOW = at("2026-01-13T12:00+00:00")
MISSED = [LAST + days * DAY * MICROSECONDS for days in (1, 2, 3)]


def test_catching_up_with_latest_makes_one_run() -> None:
    """Of three missed firings only the newest."""
    assert Cron("0 2 * * *", "UTC").catch_up("latest", LAST, NOW) == MISSED[-1:]


def test_catching_up_with_all_makes_each_run() -> None:
    """Oldest first."""
    assert Cron("0 2 * * *", "UTC").catch_up("all", LAST, NOW) == MISSED


def test_catching_up_with_skip_makes_none() -> None:
    """What was due while nobody was there is dropped."""
    assert Cron("0 2 * * *", "UTC").catch_up("skip", LAST, NOW) == []


@pytest.mark.parametrize("policy", ["latest", "all", "skip"])
def test_a_firing_due_this_very_instant_is_never_lost(policy: str) -> None:
    """``next_firing(now)`` would not give it any more, so catching up does, by every policy."""
    caught_up = Cron("0 2 * * *", "UTC").catch_up(policy, LAST, MISSED[0])  # type: ignore[arg-type]
    assert caught_up == MISSED[:1]


@pytest.mark.parametrize("policy", ["latest", "all", "skip"])
def test_with_nothing_missed_there_is_nothing_to_catch_up(policy: str) -> None:
    """Also if the clock has gone back behind the last firing."""
    schedule = Cron("0 2 * * *", "UTC")
    assert schedule.catch_up(policy, LAST, LAST) == []  # type: ignore[arg-type]
    assert schedule.catch_up(policy, LAST, LAST - DAY * MICROSECONDS) == []  # type: ignore[arg-type]


def test_years_of_missed_seconds_are_looked_at_from_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are kept, without walking through all that was missed."""
    monkeypatch.setattr(cron_module, "MOST_CAUGHT_UP", 100)
    found = Cron("* * * * * *", "UTC").catch_up("all", 0, NOW)
    assert found == [NOW - second * MICROSECONDS for second in reversed(range(100))]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "write five fields"),
        ("every day", "write five fields"),
        ("0 2 * *", "write five fields"),
        ("60 2 * * *", "out of range"),
        ("0 25 * * *", "out of range"),
        ("0 2 * * funday", "write five fields"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6 *", "never fires"),
        ("0 2 * * * 0 2026", "expected five or six fields, got 7"),
        ("h 2 * * *", "write five fields"),
        ("r 2 * * *", "random time"),
        ("R(0-29)/10 2 * * *", "random time"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_write(expression: str, message: str) -> None:
    """Each message shows a form that works."""
    with pytest.raises(UsageError) as caught:
        Cron(expression, "UTC")
    assert message in str(caught.value)
    assert "write five fields" in str(caught.value)


def test_an_unknown_zone_is_refused() -> None:
    """With one that exists."""
    with pytest.raises(UsageError, match="expected an IANA time zone"):
        Cron("0 2 * * *", "Mars/Olympus")


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="0123456789*/,-?#lLwWhHrR @():monjan", max_size=24))
def test_no_text_breaks_the_reading_of_an_expression(text: str) -> None:
    """An expression is read or refused; nothing else happens."""
    try:
        schedule = Cron(text, "UTC")
    except UsageError:
        return
    assert schedule.next_firing(NOW) > NOW


def test_a_firing_is_told_from_any_other_moment() -> None:
    """To the microsecond."""
    cron = Cron("0 2 * * *", "Asia/Tokyo")
    firing = cron.next_firing(0)
    assert cron.fires_at(firing)
    assert not cron.fires_at(firing - 1)
    assert not cron.fires_at(firing + 1)
