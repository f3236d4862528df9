"""Who is to blame when a shared runner dies: the rule, case by case, and for whatever may come together."""

from __future__ import annotations

import signal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conductor_protocol.messages import Finished, Report
from conductor_protocol.recorder import Reading
from conductor_supervisor.rules.blame import Held, Kill, sentence
from conductor_supervisor.rules.suspicion import Suspicion, seen_in, sentence_on_one_of, suspicion

A, B, C = ("a", 1), ("b", 2), ("c", 7)
OVERTIME = Kill("over its timeout of 10m", charged=True)
CANCELLED = Kill("it was cancelled", charged=False)
SHUTDOWN = Kill("the time to shut down was over", charged=False)
PROTOCOL = Kill("it broke the protocol", charged=True)


def inside(*helds: Held) -> list[Reading]:
    return [Reading(phase="handler", execution=held[0], claim=held[1], started=90.0) for held in helds]


def finished(held: Held) -> Report:
    return Finished(execution=held[0], claim=held[1], result=b"null", seconds=0.1)


def find(
    readings: list[Reading] | None,
    in_hand: list[Held],
    *reports: Report,
    kill: Kill | None = None,
    named: Held | None = None,
) -> Suspicion:
    return suspicion(readings=readings, in_hand=in_hand, outbox=reports, kill=kill, named=named)


def test_one_that_was_alone_inside_did_it() -> None:
    """Whatever else was in hand had ended or not begun."""
    found = find(inside(A), [A, B, C], finished(B))
    assert (found.culprit, found.suspects, found.unbegun) == (A, [], [C])
    assert found.reported == [finished(B)]


def test_of_several_inside_each_may_have_done_it() -> None:
    """None is charged, for which of them it was is not known."""
    found = find(inside(A, C), [A, B, C])
    assert (found.culprit, found.suspects, found.innocent, found.unbegun) == (None, [A, C], [], [B])


def test_one_that_had_reported_is_no_suspect() -> None:
    """Its place in the recorder may not have been cleared yet."""
    assert find(inside(A, B), [A, B], finished(A)).culprit == B


def test_nobody_did_it_when_nobody_was_inside() -> None:
    """A runner that dies idle, or before it has begun what it was given."""
    assert find([], [A, B]) == Suspicion(reported=[], culprit=None, suspects=[], innocent=[], unbegun=[A, B])
    assert find([], []).culprit is None


def test_without_a_trustworthy_recorder_all_that_had_not_reported_were_inside() -> None:
    """The less is known, the more are suspects."""
    assert find(None, [A, B, C], finished(B)).suspects == [A, C]
    assert find(None, [A]).culprit == A


@pytest.mark.parametrize("kill", [OVERTIME, CANCELLED])
def test_a_runner_stopped_for_one_by_name_makes_the_others_innocent(kill: Kill) -> None:
    """The culprit is known; whether it is charged, the order says."""
    found = find(inside(A, B), [A, B, C], kill=kill, named=B)
    assert (found.culprit, found.suspects, found.innocent, found.unbegun) == (B, [], [A], [C])


def test_a_runner_stopped_for_one_that_ended_meanwhile_has_no_culprit() -> None:
    """Nor are the others suspects: the supervisor did it."""
    found = find(inside(A, B), [A, B], finished(B), kill=OVERTIME, named=B)
    assert (found.culprit, found.suspects, found.innocent) == (None, [], [A])


def test_a_shutdown_makes_nobody_guilty_or_suspect() -> None:
    """Not even one that is alone inside."""
    assert find(inside(A, B), [A, B], kill=SHUTDOWN).innocent == [A, B]
    assert find(inside(A), [A], kill=SHUTDOWN).culprit is None


def test_a_runner_stopped_for_what_it_does_is_as_one_that_died() -> None:
    """One inside did it; of several, each may have."""
    assert find(inside(A), [A], kill=PROTOCOL).culprit == A
    assert find(inside(A, B), [A, B], kill=PROTOCOL).suspects == [A, B]


def test_a_place_in_the_recorder_of_another_claim_counts_for_nothing() -> None:
    """It tells of an earlier life."""
    assert find(inside(("a", 0), B), [A, B]).culprit == B


FATES = ("unbegun", "inside", "reported", "inside and reported")
KILLS = [
    (None, None),
    *((kill, named) for kill, named in product((OVERTIME, SHUTDOWN), (None, A, B, C))),
]


@pytest.mark.parametrize(("kill", "named"), KILLS)
@pytest.mark.parametrize("known", [True, False])
def test_whatever_happened_to_three_the_rule_decides(
    kill: Kill | None, named: Held | None, known: bool
) -> None:
    """All 64 combinations of what three may have been doing: each is in one place, and the right ones are."""
    for fates in product(FATES, repeat=3):
        by_held = dict(zip((A, B, C), fates, strict=True))
        readings = inside(*(held for held, fate in by_held.items() if "inside" in fate))
        reports = [finished(held) for held, fate in by_held.items() if "reported" in fate]
        found = find(readings if known else None, [A, B, C], *reports, kill=kill, named=named)

        reported = [(report.execution, report.claim) for report in found.reported]
        assert sorted([*found.inside, *reported, *found.unbegun]) == [A, B, C]
        assert reported == [held for held, fate in by_held.items() if "reported" in fate]
        running = [
            held
            for held, fate in by_held.items()
            if fate == "inside" or (fate == "unbegun" and (not known or held == named))
        ]
        assert sorted(found.inside) == running
        if kill is not None and named is not None:
            assert (found.culprit, found.suspects) == (named if named in running else None, [])
        elif kill is SHUTDOWN:
            assert (found.culprit, found.suspects) == (None, [])
        elif len(running) == 1:
            assert (found.culprit, found.suspects) == (running[0], [])
        else:
            assert (found.culprit, found.suspects) == (None, running)


@given(st.sets(st.integers(0, 19)), st.integers(1, 4))
def test_of_any_that_go_down_together_exactly_the_poisons_are_charged(
    poisons: set[int], max_attempts: int
) -> None:
    """Suspects are run alone until each has ended: a model of what the supervisor does by this rule."""
    everybody = [(str(number), 1) for number in range(20)]
    waiting = [int(name) for name, _ in find(inside(*everybody), everybody).suspects]
    charged = dict.fromkeys(range(20), 0)
    while waiting:
        number = waiting.pop(0)
        alone = (str(number), charged[number] + 2)
        dies = number in poisons
        found = find(inside(alone), [alone], *([] if dies else [finished(alone)]))
        if found.culprit == alone:
            charged[number] += 1
            if charged[number] < max_attempts:
                waiting.append(number)
    assert charged == {number: max_attempts if number in poisons else 0 for number in charged}


def test_the_cause_tells_of_one_among_several_where_it_was() -> None:
    """And that it may not have done it."""
    in_step = Reading(phase="step", execution="a", claim=1, step="resize-41", started=90.0, step_started=96.8)
    seen = seen_in([in_step, *inside(B)], A, 100.0)
    assert sentence_on_one_of(20, seen, -signal.SIGSEGV) == (
        "died of SIGSEGV with 20 executions in it; this one, which may not have done it, was "
        'in step "resize-41", 3.2 s into it'
    )
    assert sentence_on_one_of(2, seen_in(None, A, 100.0), -signal.SIGKILL, PROTOCOL) == (
        "was killed: it broke the protocol; with 2 executions in it; this one, which may not have done it, "
        "was at an unknown place"
    )
    assert sentence(seen_in(inside(A), A, 100.0), 3) == (
        "exited with status 3 between steps, 10.0 s into the attempt"
    )
