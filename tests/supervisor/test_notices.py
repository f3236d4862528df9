"""The log has one line for each attempt that ended badly, which says what happens next."""

from __future__ import annotations

import logging

import pytest
from holdings import NOW, held, task

from conductor_protocol.manifest import RetrySpec, TaskSpec
from conductor_protocol.messages import Failed, Finished
from conductor_protocol.operations import CrashReport, Failure
from conductor_supervisor import endings, notices
from conductor_supervisor.notices import Notices
from conductor_supervisor.roster import Held
from conductor_supervisor.store.attempts import Ending

JOB = TaskSpec(name="job", max_attempts=3, retry=RetrySpec(delays=(15.0, 0.0)))
CRASH = CrashReport(cause='died of SIGSEGV in step "resize-41", 3.2 s into it', attempt_seconds=2.0)


def attempt(charged: int = 0) -> Held:
    """Return an attempt with so many charged before it."""
    return held(of=task(JOB), charged=charged)


def failed(one: Held, message: str = "too wide", retryable: bool = True) -> Ending:
    """Return how an attempt ends whose handler raised."""
    failure = Failure(type="ValueError", message=message)
    return endings.failed(one, Failed(one.id, one.claim, failure, retryable, None, 0.5), NOW)


def line(caplog: pytest.LogCaptureFixture, one: Held, ending: Ending) -> tuple[str, str]:
    """Return the one line that is written about an ending: level and text after the execution's id."""
    Notices().ended(one, ending)
    (record,) = caplog.records
    start = f"execution {one.id} of job"
    assert record.getMessage().startswith(start)
    return record.levelname, record.getMessage().removeprefix(start)


def test_a_failed_handler_is_told_with_its_error_and_the_next_try(caplog: pytest.LogCaptureFixture) -> None:
    """A warning, for another attempt follows."""
    one = attempt()
    assert line(caplog, one, failed(one)) == (
        "WARNING",
        ": attempt 1 of 3 failed: ValueError: too wide; tried again in 15.0 s",
    )


def test_without_a_wait_it_is_tried_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """The backoff may be nothing."""
    one = attempt(charged=1)
    assert line(caplog, one, failed(one))[1].endswith("; tried again at once")


@pytest.mark.parametrize(("charged", "retryable"), [(2, True), (0, False)])
def test_a_failure_for_good_is_an_error(
    caplog: pytest.LogCaptureFixture, charged: int, retryable: bool
) -> None:
    """After the last attempt, or where the handler wants no other."""
    one = attempt(charged)
    assert line(caplog, one, failed(one, retryable=retryable)) == (
        "ERROR",
        f": attempt {charged + 1} of 3 failed for good: ValueError: too wide",
    )


def test_a_crash_is_told_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    """The runner's death is the reason."""
    one = attempt()
    assert line(caplog, one, endings.crashed(one, CRASH, NOW)) == (
        "WARNING",
        f": attempt 1 of 3 failed: its runner {CRASH.cause}; tried again in 15.0 s",
    )


def test_a_runner_that_was_killed_uncharged_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    """At a shutdown, for example: the execution goes back."""
    one = attempt()
    ending = endings.released(one, "shutdown", NOW, "stopped", CRASH)
    assert line(caplog, one, ending)[1].startswith(
        " goes back to the queue, uncharged: its runner died of SIGSEGV"
    )


def test_a_cancelled_execution_whose_runner_was_killed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """It had not stopped by itself."""
    one = attempt()
    one.cancelled = "changed my mind"
    assert line(caplog, one, endings.cancelled(one, NOW, CRASH))[1].startswith(" is cancelled: its runner ")


def test_what_ended_well_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Nor what was released or cancelled without harm."""
    one = attempt()
    notices = Notices()
    notices.ended(one, endings.completed(one, Finished(one.id, one.claim, b"1", 1.5), NOW))
    notices.ended(one, endings.released(one, "shutdown", NOW))
    notices.ended(one, endings.cancelled(one, NOW))
    notices.ended(one, endings.unbegun(one, NOW))
    notices.close()
    assert caplog.records == []


def test_a_line_is_one_line_and_not_long(caplog: pytest.LogCaptureFixture) -> None:
    """The message of an exception may be anything; the log shows its beginning, and no control characters."""
    one = attempt()
    text = line(caplog, one, failed(one, "no\x1b[31m" + "x" * 5000 + "\nmore"))[1]
    assert "\n" not in text
    assert "\x1b" not in text
    assert r"ValueError: no\x1b[31mxxx" in text
    assert text.endswith("xxx...; tried again in 15.0 s")
    assert len(text) < notices.LONGEST + 100


def test_a_flood_of_failures_is_bounded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Failures for good are counted apart, so that other failures do not hide them."""
    notices_ = Notices()
    again, last = attempt(), attempt(charged=2)
    for _ in range(10_000):
        notices_.ended(again, failed(again))
    notices_.ended(last, failed(last))
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING] * notices.LINES + [logging.ERROR]
    caplog.clear()
    notices_.look()
    assert caplog.records == []  # the period is not over
    notices_.close()
    assert [record.getMessage() for record in caplog.records] == [
        "and 9,990 more of job failed in the last 10.0 s"
    ]
