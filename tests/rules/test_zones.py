"""Zones are pieces of constant offset, and looking once a day finds every one of them."""

from __future__ import annotations

from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from zone_changes import DAY, FIRST, ZONES, changes, listed_changes, near_a_change

from conductor_protocol.errors import UsageError
from conductor_protocol.units import MICROSECONDS
from conductor_supervisor.rules.zones import offset_at, piece_at, zone


@pytest.mark.parametrize("name", ["Europe/Berlin", "Pacific/Apia"])
def test_the_files_of_the_zones_are_read_rightly(name: str) -> None:
    """The reader in this test finds the changes that Python's own zoneinfo shows."""
    listed = listed_changes(name)
    assert [at for at in listed if at > FIRST] == [at for at in changes(name) if at <= listed[-1]]


def test_no_zone_changes_its_offset_twice_within_six_days() -> None:
    """Since 1970: the code looks for a change once a day, and so misses none."""
    for name in ZONES:
        recent = [second for second in listed_changes(name) if second > -DAY]
        assert all(late - early > 6 * DAY for early, late in pairwise(recent)), name


@settings(deadline=None)
@given(near_a_change())
def test_a_piece_holds_its_instant_and_ends_where_the_offset_changes(near: tuple[str, int]) -> None:
    """``begin`` and ``end`` are exact to the microsecond, and ``before`` is the offset that ended there."""
    name, second = near
    now = second * MICROSECONDS
    piece = piece_at(ZoneInfo(name), now)
    assert piece.begin <= now < piece.end
    assert offset_at(ZoneInfo(name), piece.begin - 1) == piece.before
    assert offset_at(ZoneInfo(name), piece.begin) == piece.offset
    assert offset_at(ZoneInfo(name), piece.end - 1) == piece.offset
    inside = [at for at in changes(name) if piece.begin < at * MICROSECONDS < piece.end]
    assert inside == []


@pytest.mark.parametrize(
    ("name", "proposal"), [("Europe/Berln", "Europe/Berlin"), ("", "UTC"), ("../../etc/passwd", "UTC")]
)
def test_an_unknown_zone_is_refused_with_a_proposal(name: str, proposal: str) -> None:
    """The message names the setting and a zone that exists."""
    with pytest.raises(UsageError, match="timezone: expected an IANA time zone") as caught:
        zone(name, "timezone")
    assert proposal in str(caught.value)
