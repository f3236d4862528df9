"""Who was running in a dead runner, and how it is said."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conductor_protocol.messages import Finished, Released, Report
from conductor_protocol.recorder import Reading
from conductor_supervisor.rules.blame import Blame, Held, Kill, blame, exit_in_words, sentence, signal_name

A, B, C = ("a", 1), ("b", 1), ("c", 7)
IDLE = Reading(phase="idle")
OVERTIME = Kill("over its timeout of 10m", charged=True)
SHUTDOWN = Kill("its grace at shutdown ran out", charged=False)


def in_handler(held: Held, started: float = 90.0) -> Reading:
    return Reading(phase="handler", execution=held[0], claim=held[1], started=started)


def in_step(
    held: Held, step: str = "resize-41", started: float = 90.0, step_started: float = 96.8
) -> Reading:
    return Reading(
        phase="step", execution=held[0], claim=held[1], step=step, started=started, step_started=step_started
    )


def finished(held: Held) -> Report:
    return Finished(execution=held[0], claim=held[1], result=b"null", seconds=0.1)


def find(reading: Reading | None, in_hand: list[Held], *reports: Report, kill: Kill | None = None) -> Blame:
    return blame(reading=reading, in_hand=in_hand, outbox=reports, now=100.0, kill=kill)


def test_the_one_that_was_running_is_guilty_and_the_others_go_back() -> None:
    """Those behind it had not begun."""
    found = find(in_handler(A), [A, B, C])
    assert (found.guilty, found.innocent, found.reported) == (A, [B, C], [])


def test_what_had_reported_counts_as_reported() -> None:
    """Its report lay in the recorder's outbox, and is as good as received."""
    found = find(in_step(B), [A, B, C], finished(A))
    assert (found.guilty, found.reported, found.innocent) == (B, [finished(A)], [C])


def test_a_runner_that_dies_idle_has_nobody_to_blame() -> None:
    """Neither what it was about to begin nor what it had ended."""
    found = find(IDLE, [A, B], finished(A))
    assert (found.running, found.guilty, found.innocent) == (None, None, [B])


def test_one_that_has_reported_is_not_guilty_of_what_came_after() -> None:
    """Between its report and the next beginning, what is left in hand has not begun."""
    found = find(in_handler(A), [A, B], finished(A))
    assert (found.guilty, found.reported, found.innocent) == (None, [finished(A)], [B])


def test_a_reading_of_what_has_ended_blames_nobody_in_hand() -> None:
    """The runner died between that one's report and the next beginning."""
    found = blame(reading=in_handler(C), in_hand=[A, B], outbox=[], now=100.0, ended=C)
    assert (found.running, found.innocent) == (None, [A, B])


@pytest.mark.parametrize("forged", [C, ("a", 2), ("b", 8)])
def test_a_reading_of_what_the_runner_never_had_is_not_believed(forged: Held) -> None:
    """User code has written the page: it does not acquit whoever wrote it. A claim is part of the name."""
    found = blame(reading=in_step(forged), in_hand=[A, B], outbox=[], now=100.0, ended=("b", 1))
    assert (found.guilty, found.innocent) == (A, [B])
    assert (found.step, found.attempt_seconds) == (None, None)


@pytest.mark.parametrize(("in_hand", "guilty"), [([A], A), ([A, B, C], A), ([], None)])
def test_without_a_reading_the_first_in_hand_is_guilty(in_hand: list[Held], guilty: Held | None) -> None:
    """Executions run in order, so only the first can have been running."""
    assert find(None, in_hand).guilty == guilty


def test_without_a_reading_the_first_that_has_not_reported_is_guilty() -> None:
    """What has reported has ended."""
    found = find(None, [A, B, C], finished(A))
    assert (found.guilty, found.innocent) == (B, [C])
    assert find(None, [A], finished(A)).guilty is None


def test_reports_of_other_claims_are_left_out() -> None:
    """A late voice changes nothing; nor does a second report of the same execution."""
    again = Released(execution="a", claim=1, word="shutdown", seconds=0.1)
    found = find(IDLE, [A], finished(C), finished(("a", 2)), finished(A), again)
    assert found.reported == [finished(A)]


def test_a_kill_that_is_not_charged_makes_nobody_guilty() -> None:
    """It is still said what was running; that goes back with the others, in order."""
    found = find(in_step(B), [A, B, C], finished(A), kill=SHUTDOWN)
    assert (found.running, found.guilty, found.innocent) == (B, None, [B, C])


def test_a_kill_that_is_charged_makes_the_running_one_guilty() -> None:
    """As any other death."""
    assert find(in_step(B), [A, B], finished(A), kill=OVERTIME).guilty == B


def test_times_are_counted_up_to_the_death() -> None:
    """Of the step and of the attempt; between steps there is no step's time."""
    found = find(in_step(A), [A])
    assert (found.step, found.step_seconds, found.attempt_seconds) == ("resize-41", pytest.approx(3.2), 10.0)
    found = find(in_handler(A), [A])
    assert (found.step, found.step_seconds, found.attempt_seconds) == (None, None, 10.0)


def test_a_time_that_lies_ahead_counts_as_none() -> None:
    """No negative seconds reach a crash report."""
    found = find(in_step(A, started=101.0, step_started=102.0), [A])
    assert (found.step_seconds, found.attempt_seconds) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("reading", "returncode", "kill", "expected"),
    [
        (in_step(A), -signal.SIGSEGV, None, 'died of SIGSEGV in step "resize-41", 3.2 s into it'),
        (in_handler(A, 99.6), 3, None, "exited with status 3 between steps, 400 ms into the attempt"),
        (in_handler(A, 0.0), 0, None, "exited with status 0 between steps, 1m40s into the attempt"),
        (IDLE, -signal.SIGABRT, None, "died of SIGABRT between executions"),
        (None, -signal.SIGBUS, None, "died of SIGBUS at an unknown place"),
        (
            in_handler(A),
            -signal.SIGKILL,
            None,
            "died of SIGKILL between steps, 10.0 s into the attempt",
        ),
        (
            in_step(A),
            -signal.SIGKILL,
            OVERTIME,
            'was killed: over its timeout of 10m; in step "resize-41", 3.2 s into it',
        ),
    ],
)
def test_the_cause_is_said_in_one_sentence(
    reading: Reading | None, returncode: int, kill: Kill | None, expected: str
) -> None:
    """How it ended, where, and how far it had got."""
    assert sentence(find(reading, [A], kill=kill), returncode, kill) == expected


def test_a_kill_for_want_of_memory_is_called_so() -> None:
    """Where the kernel tells; the place is said as ever."""
    said = sentence(find(in_step(A), [A]), -signal.SIGKILL, no_memory=True)
    assert said == 'was killed by the kernel, which was out of memory; in step "resize-41", 3.2 s into it'


def test_a_death_of_deafness_is_called_so() -> None:
    """The supervisor lives, and had said so; where it killed by itself, that counts."""
    said = sentence(find(in_step(A), [A]), -signal.SIGKILL, deaf=True)
    assert said.startswith("was killed by its dead-man's timer: for too long it could not hear")
    assert said.endswith('in step "resize-41", 3.2 s into it')
    assert "dead-man" not in sentence(find(in_step(A), [A]), -signal.SIGKILL, OVERTIME, deaf=True)


def test_signals_are_named() -> None:
    """By the names that people know; one without a name by its number."""
    assert [signal_name(code) for code in (-11, -9, -77, 0, 3)] == [
        "SIGSEGV",
        "SIGKILL",
        "signal 77",
        None,
        None,
    ]
    assert [exit_in_words(code) for code in (-77, 3)] == ["died of signal 77", "exited with status 3"]


helds = st.sampled_from([(name, claim) for name in "abcd" for claim in (1, 2)])
readings = st.none() | st.just(IDLE) | helds.map(in_handler) | helds.map(in_step)


@given(
    readings,
    st.lists(helds, unique_by=lambda held: held[0]),
    st.lists(helds.map(finished)),
    st.sampled_from([None, OVERTIME, SHUTDOWN]),
)
def test_everything_in_hand_is_guilty_or_reported_or_innocent(
    reading: Reading | None, in_hand: list[Held], reports: list[Report], kill: Kill | None
) -> None:
    """Exactly one of the three, whatever the recorder says; the innocent keep their order."""
    found = find(reading, in_hand, *reports, kill=kill)
    reported = [(report.execution, report.claim) for report in found.reported]
    guilty = [found.guilty] if found.guilty is not None else []
    assert sorted(guilty + reported + found.innocent) == sorted(in_hand)
    assert found.innocent == [held for held in in_hand if held in found.innocent]
    assert found.guilty is None or found.guilty == found.running
