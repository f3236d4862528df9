"""What is stored of each way in which an attempt ends: its state, its charge, and when it goes on."""

from __future__ import annotations

import msgspec
import pytest
from holdings import NOW, held, task

from conductor_protocol.manifest import RateSpec, RetrySpec, TaskSpec, WindowSpec
from conductor_protocol.messages import Failed, Finished
from conductor_protocol.operations import TIMED_OUT, CrashReport, Failure
from conductor_protocol.units import MICROSECONDS
from conductor_supervisor import endings
from conductor_supervisor.roster import Overdue
from conductor_supervisor.rules.lifecycle import CHARGED, MOVES
from conductor_supervisor.store.attempts import CRASHED, Ending

DAY = 86_400 * MICROSECONDS
JOB = TaskSpec(name="job", max_attempts=2, retry=RetrySpec(delays=(15.0,)))
NIGHTLY = msgspec.structs.replace(JOB, windows=(WindowSpec(start="22:00", end="06:00"),))
"""Closed at :data:`~holdings.NOW`, 08:00; opens again fourteen hours later."""

CRASH = CrashReport(cause="died of SIGSEGV", attempt_seconds=2.0)
FINISHED = Finished("a", 1, b'"done"', 1.5)


def report(retryable: bool = True, retry_after: float | None = None) -> Failed:
    return Failed("a", 1, Failure(type="ValueError", message="no"), retryable, retry_after, 0.5)


def cancelled_held() -> endings.Held:
    one = held(of=task(JOB))
    one.cancelled = "changed my mind"
    return one


def every_ending() -> list[Ending]:
    """Return one of each kind."""
    one, last, asleep = held(of=task(JOB)), held(of=task(JOB), charged=1), held(of=task(NIGHTLY))
    return [
        endings.completed(one, FINISHED, NOW),
        endings.unsendable(one, 1, NOW),
        endings.failed(one, report(), NOW),
        endings.failed(one, report(retry_after=0.0), NOW),
        endings.failed(last, report(), NOW),
        endings.crashed(one, CRASH, NOW),
        endings.crashed(last, CRASH, NOW),
        endings.cancelled(cancelled_held(), NOW),
        endings.released(one, "shutdown", NOW),
        endings.released(asleep, "window", NOW),
        endings.released(one, "shutdown", NOW, "stopped", CRASH),
        endings.unbegun(one, NOW),
        endings.unbegun(asleep, NOW),
        endings.unbegun(cancelled_held(), NOW),
    ]


@pytest.mark.parametrize("ending", every_ending(), ids=lambda e: f"{e.outcome}-{e.state}")
def test_every_ending_is_a_legal_move_and_charged_as_the_table_says(ending: Ending) -> None:
    """Only what failed or crashed uses up an attempt."""
    assert ending.state in {after for (before, _), after in MOVES.items() if before == "running"}
    assert ending.charged == (ending.outcome in CHARGED)
    assert (ending.state == "scheduled") == (ending.waiting_for is not None)
    assert ending.state != "scheduled" or (ending.due is not None and ending.due > NOW)
    assert ending.started <= ending.ended == NOW
    assert ending.expires is None or ending.state in ("completed", "failed", "cancelled")


def test_a_completion_keeps_the_result_as_long_as_the_task_says() -> None:
    """Seven days, if it says nothing."""
    ending = endings.completed(held(of=task(JOB)), FINISHED, NOW)
    assert (ending.state, ending.result, ending.expires) == ("completed", b'"done"', NOW + 7 * DAY)
    assert ending.started == NOW - 1_500_000
    for_ever = task(msgspec.structs.replace(JOB, keep_completed=None))
    assert endings.completed(held(of=for_ever), FINISHED, NOW).expires is None


def test_a_failure_waits_for_its_backoff() -> None:
    """Or for as long as the handler asked."""
    one = held(of=task(JOB))
    ending = endings.failed(one, report(), NOW)
    assert (ending.state, ending.due, ending.waiting_for) == ("scheduled", NOW + 15_000_000, "retry")
    assert endings.failed(one, report(retry_after=3.0), NOW).due == NOW + 3_000_000


def test_the_last_attempt_fails_for_good_and_so_does_one_that_wants_it() -> None:
    """``Fail`` needs no further attempts."""
    for ending in (
        endings.failed(held(of=task(JOB), charged=1), report(), NOW),
        endings.failed(held(of=task(JOB)), report(retryable=False), NOW),
    ):
        assert (ending.state, ending.due, ending.expires) == ("failed", None, NOW + 30 * DAY)


def test_a_crash_counts_as_a_failure_with_its_report() -> None:
    """Whoever waits for the result reads the cause."""
    ending = endings.crashed(held(of=task(JOB)), CRASH, NOW)
    assert (ending.outcome, ending.state, ending.crash) == ("crashed", "scheduled", CRASH)
    assert ending.failure is not None
    assert ending.failure.message == "died of SIGSEGV"


def test_a_runner_that_was_stopped_for_its_time_has_timed_out() -> None:
    """The error has the type of a handler that unwound by itself; one that crashed meanwhile has crashed."""
    one = held(of=task(JOB))
    one.overdue = Overdue("over its timeout of 1.0 s", since=0.0)
    stopped = msgspec.structs.replace(CRASH, cause="was killed: over its timeout of 1.0 s; between steps")
    assert [
        ending.failure.type
        for ending in (endings.crashed(one, stopped, NOW), endings.crashed(one, CRASH, NOW))
        if ending.failure is not None
    ] == [TIMED_OUT, CRASHED]


def test_what_is_released_outside_its_window_waits_for_the_next_opening() -> None:
    """For whatever reason, begun or not; inside its window it is ready at once."""
    asleep, awake = held(of=task(NIGHTLY)), held(of=task(JOB))
    opening = NOW + 14 * 3600 * MICROSECONDS
    for ending in (
        endings.released(asleep, "window", NOW),
        endings.released(asleep, "shutdown", NOW),
        endings.unbegun(asleep, NOW),
    ):
        assert (ending.state, ending.due, ending.waiting_for) == ("scheduled", opening, "window")
    assert endings.released(awake, "window", NOW).state == "ready"


def test_what_had_not_begun_leaves_no_attempt() -> None:
    """Its handler was never called."""
    assert endings.unbegun(held(of=task(JOB)), NOW).outcome is None


def test_what_has_not_begun_for_sure_frees_its_place_under_the_rate() -> None:
    """Nobody can be sure of what a dead runner had in hand."""
    one = held(of=task(TaskSpec(name="rated", rate=RateSpec(1, 60.0))))
    assert endings.unbegun(one, NOW).frees_start
    one.may_have_begun = True
    assert not endings.unbegun(one, NOW).frees_start
    assert not endings.unbegun(held(of=task(JOB)), NOW).frees_start


def test_what_is_cancelled_does_not_come_back() -> None:
    """A release, a crash or a failure that would be tried again ends it; a last failure stays one."""
    one = cancelled_held()
    for ending in (
        endings.released(one, "shutdown", NOW),
        endings.crashed(one, CRASH, NOW),
        endings.failed(one, report(), NOW),
        endings.unbegun(one, NOW),
    ):
        assert (ending.state, ending.reason) == ("cancelled", "changed my mind")
    assert endings.failed(one, report(retryable=False), NOW).state == "failed"
