"""The wait before the next attempt, and when there is none."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conductor_protocol.manifest import RetrySpec, TaskSpec
from conductor_supervisor.rules.retry import after_failure, delay_before

EXPONENTIAL = RetrySpec(delays=None, initial=2.0, factor=3.0, maximum=100.0)


def middle() -> float:
    """Chance that changes nothing."""
    return 0.5


def waits(spec: RetrySpec, attempts: int) -> list[float]:
    return [delay_before(spec, failed, middle) for failed in range(1, attempts + 1)]


def test_the_default_waits_15_30_60_and_then_60_seconds() -> None:
    """As the documentation promises."""
    assert waits(RetrySpec(), 6) == [15, 30, 60, 60, 60, 60]


def test_exponential_waits_grow_up_to_the_maximum() -> None:
    """Each is the one before times the factor."""
    assert waits(EXPONENTIAL, 6) == [2, 6, 18, 54, 100, 100]


def test_no_delays_at_all_mean_no_wait() -> None:
    """``delays=[]`` tries again at once."""
    assert waits(RetrySpec(delays=()), 2) == [0, 0]


@pytest.mark.parametrize(
    "spec", [RetrySpec(delays=(100.0,), jitter=0.25), RetrySpec(delays=None, initial=100.0, jitter=0.25)]
)
def test_jitter_spreads_the_wait_by_its_fraction_to_both_sides(spec: RetrySpec) -> None:
    """A quarter of 100 s less, up to a quarter more."""
    assert delay_before(spec, 1, lambda: 0.0) == 75
    assert delay_before(spec, 1, middle) == 100
    assert delay_before(spec, 1, lambda: math.nextafter(1.0, 0.0)) == pytest.approx(125)


@given(
    failed=st.integers(1, sys.maxsize),
    initial=st.floats(0, 1e6),
    factor=st.floats(0, 1e6),
    maximum=st.floats(0, 1e9),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_however_many_attempts_have_failed_the_wait_stays_in_its_bounds(
    failed: int, initial: float, factor: float, maximum: float, jitter: float, chance: float
) -> None:
    """No overflow, nothing negative, nothing above the maximum but by jitter."""
    spec = RetrySpec(delays=None, initial=initial, factor=factor, maximum=maximum, jitter=jitter)
    assert 0 <= delay_before(spec, failed, lambda: chance) <= maximum * (1 + jitter)


def test_another_attempt_follows_until_they_are_used_up() -> None:
    """With three attempts in all, the third failure is final."""
    task = TaskSpec(name="t", max_attempts=3)
    assert [after_failure(task, charged, True, None, middle) for charged in (1, 2, 3, 4)] == [
        15,
        30,
        None,
        None,
    ]


def test_what_is_not_retryable_fails_at_once() -> None:
    """Even if the handler named a wait."""
    assert after_failure(TaskSpec(name="t"), 1, False, 5.0, middle) is None


def test_a_wait_that_the_handler_named_replaces_the_backoff() -> None:
    """Also a wait of nothing; but it gives no attempt beyond the last."""
    task = TaskSpec(name="t", max_attempts=2)
    assert after_failure(task, 1, True, 5.0, middle) == 5.0
    assert after_failure(task, 1, True, 0.0, middle) == 0.0
    assert after_failure(task, 2, True, 5.0, middle) is None
