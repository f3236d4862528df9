"""Why work that could run does not."""

from __future__ import annotations

import pytest
from workplace import NOON, SECOND

from conductor_protocol.manifest import KeyLimitSpec, RateSpec, TaskSpec, WindowSpec
from conductor_protocol.operations import State
from conductor_protocol.units import moment
from conductor_supervisor.cli.waiting import Full, Waiting, waiting

NIGHT = TaskSpec("night", windows=(WindowSpec("20:00", "06:00"),))
EIGHT_AT_NIGHT = moment(NOON + 8 * 3600 * SECOND)


@pytest.mark.parametrize(
    ("spec", "counts", "paused", "reasons"),
    [
        (TaskSpec("t"), {"ready": 3}, set(), []),
        (TaskSpec("t"), {"scheduled": 3, "running": 1, "failed": 2}, {("task", "t")}, []),
        (TaskSpec("t"), {"ready": 3}, {("task", "t")}, ["paused"]),
        (TaskSpec("t", queue="q"), {"ready": 3}, {("queue", "q")}, ["queue q is paused"]),
        (TaskSpec("t", queue="q"), {"ready": 3}, {("task", "q"), ("queue", "t")}, []),
        (TaskSpec("t", concurrency=2), {"ready": 1, "running": 2}, set(), ["at its limit of 2"]),
        (TaskSpec("t", concurrency=2), {"ready": 1, "running": 1}, set(), []),
        (
            TaskSpec("t", concurrency=1),
            {"ready": 1, "running": 1},
            {("task", "t")},
            ["paused", "at its limit of 1"],
        ),
    ],
)
def test_the_reasons_of_a_task(
    spec: TaskSpec, counts: dict[State, int], paused: set[tuple[str, str]], reasons: list[str]
) -> None:
    """Each that holds; none if a runner is all that is missing."""
    assert [one.reason for one in waiting([spec], {"t": counts}, paused, NOON, {})] == reasons


def test_a_limit_by_key_and_a_rate_are_reasons_where_they_are_used_up() -> None:
    """For as many as have such a key; with the moment of the next start."""
    spec = TaskSpec("t", concurrency_by_key=KeyLimitSpec(2, "tenant"), rate=RateSpec(100, 60.0))
    counts: dict[str, dict[State, int]] = {"t": {"ready": 3}}
    assert waiting([spec], counts, set(), NOON, {"t": Full()}) == []
    assert waiting([spec], counts, set(), NOON, {"t": Full(2, 1, NOON + SECOND)}) == [
        Waiting("t", 2, "1 key at the limit of 2 by tenant"),
        Waiting("t", 3, "at its rate of 100/minute", moment(NOON + SECOND)),
    ]


def test_outside_its_window_what_was_released_for_it_counts_too() -> None:
    """That is scheduled for the opening."""
    assert waiting([NIGHT], {"night": {"ready": 1, "scheduled": 2}}, set(), NOON, {}) == [
        Waiting("night", 3, "outside its window", EIGHT_AT_NIGHT)
    ]


def test_inside_its_window_nothing_waits_for_it() -> None:
    """It is past eight."""
    assert waiting([NIGHT], {"night": {"ready": 1}}, set(), NOON + 9 * 3600 * SECOND, {}) == []


def test_a_task_that_the_code_does_not_declare_waits() -> None:
    """Never dropped, and shown; its finished ones are no matter."""
    (found,) = waiting([], {"gone": {"ready": 1, "scheduled": 1}, "past": {"completed": 5}}, set(), NOON, {})
    assert (found.task, found.executions) == ("gone", 2)
    assert found.reason.startswith("unknown task")
