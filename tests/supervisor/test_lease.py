"""When a supervisor may go on, when it must kill, and when it begins again: rules of its lease."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conductor_supervisor.lease import KILL_AFTER, Lease

SECONDS = 30.0


def test_a_lease_without_end_is_always_held() -> None:
    """Nobody else uses the database, so there is nothing to renew and no dead-man's timer."""
    lease = Lease()
    assert lease.is_held(1e9)
    assert not lease.must_kill(1e9)
    assert lease.live_until is None


def test_it_is_held_for_a_while_after_a_renewal() -> None:
    """Then all is to be killed, before the runners' own timers do it, and long before the end."""
    lease = Lease(SECONDS, at=100)
    lease.renewed(110)
    killed = 110 + SECONDS * KILL_AFTER
    assert lease.is_held(killed - 0.1)
    assert not lease.must_kill(killed - 0.1)
    assert not lease.is_held(killed)
    assert lease.must_kill(killed)
    assert lease.live_until == 110 + lease.dead_after
    assert killed < lease.live_until < 110 + SECONDS


def test_being_taken_for_dead_by_another_loses_it() -> None:
    """Though it has been renewed in time: what we held may be another's now. Once lost, that is no news."""
    lease = Lease(SECONDS)
    lease.missed()
    lease.renewed(10)
    assert lease.must_kill(10)
    lease.lose()
    lease.missed()
    lease.renewed(11)
    assert lease.is_back(12)


def test_all_is_killed_once() -> None:
    """However long there is no renewal."""
    lease = Lease(SECONDS)
    assert lease.must_kill(40)
    lease.lose()
    assert not lease.must_kill(40)
    assert not lease.must_kill(4000)
    assert not lease.is_held(40)


def test_a_lost_lease_that_is_renewed_can_be_taken_up() -> None:
    """Only by who says so: hands must be empty first."""
    lease = Lease(SECONDS)
    lease.lose()
    assert not lease.is_back(40)
    lease.renewed(40)
    assert lease.is_back(41)
    assert not lease.is_held(41)
    lease.take_up()
    assert lease.is_held(41)
    assert not lease.is_back(41)


def test_a_lost_lease_whose_renewal_is_old_stays_lost() -> None:
    """The renewal was begun, and then we were stopped again."""
    lease = Lease(SECONDS)
    lease.lose()
    lease.renewed(40)
    assert not lease.is_back(40 + SECONDS)


def test_a_renewal_that_comes_too_late_does_not_hide_that_it_was_over() -> None:
    """We were stopped, and renewed it before anybody looked: what we held may be another's now."""
    lease = Lease(SECONDS)
    lease.renewed(40)
    assert lease.must_kill(40)
    assert not lease.is_held(40)
    lease.lose()
    lease.renewed(45)
    assert lease.is_back(45)


def test_a_renewal_that_was_begun_long_ago_counts_from_then() -> None:
    """It gives no time that has passed; and an older one takes none away."""
    lease = Lease(SECONDS)
    lease.renewed(10)
    lease.renewed(5)
    assert lease.live_until == 10 + lease.dead_after
    assert lease.must_kill(10 + SECONDS)


@given(
    seconds=st.floats(3, 3600),
    gaps=st.lists(st.floats(0.001, 100), min_size=1, max_size=20),
    wait=st.floats(0, 4000),
)
def test_whenever_it_is_held_its_end_is_far(seconds: float, gaps: list[float], wait: float) -> None:
    """And a runner that lives as long as it was allowed is dead before the end."""
    lease, moment = Lease(seconds), 0.0
    for gap in gaps:
        moment += gap
        lease.renewed(moment)
    now = moment + wait
    assert lease.live_until is not None
    if lease.is_held(now):
        assert now < lease.live_until < moment + seconds
        assert all(gap < seconds for gap in gaps)


@pytest.mark.parametrize("seconds", [3.0, SECONDS, math.inf])
def test_there_is_one_state_at_a_time(seconds: float) -> None:
    """Held, over, or lost."""
    lease = Lease(seconds)
    for now in (0.0, seconds * 0.59, seconds * 0.61, seconds * 2):
        assert lease.is_held(now) + lease.must_kill(now) == 1
