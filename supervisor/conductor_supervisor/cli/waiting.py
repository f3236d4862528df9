"""Why work that could run does not: one rule for ``status`` and whoever else asks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct

from conductor_protocol.limits import limits_in_words, rate_in_words
from conductor_protocol.manifest import TaskSpec
from conductor_protocol.operations import State
from conductor_protocol.units import Instant, counted, moment
from conductor_supervisor.rules.windows import Windows


class Full(NamedTuple):
    """What is used up of a task's limits by key and its rate."""

    held_back: int = 0
    """Executions whose key is at its limit."""
    keys: int = 0
    """How many different keys these have."""
    until: Instant | None = None
    """When its rate allows another start at the earliest; None: now."""


class Waiting(Struct, frozen=True):
    """Executions of one task that wait, and for what."""

    task: str
    executions: int
    reason: str
    """In words: paused, outside its window, at a limit, unknown task."""
    until: datetime | None = None
    """When the window opens, or the rate allows another start."""


def waiting(
    specs: Sequence[TaskSpec],
    counts: Mapping[str, Mapping[State, int]],
    paused: Collection[tuple[str, str]],
    now: Instant,
    full: Mapping[str, Full],
) -> list[Waiting]:
    """Return the tasks whose executions wait for something other than a free runner.

    :param full: of tasks that have such limits.
    """
    known = {spec.name: spec for spec in specs}
    return [
        found
        for task in sorted(counts)
        for found in _why(task, known.get(task), counts[task], paused, now, full.get(task, Full()))
    ]


def _why(
    task: str,
    spec: TaskSpec | None,
    counts: Mapping[State, int],
    paused: Collection[tuple[str, str]],
    now: Instant,
    full: Full,
) -> Iterator[Waiting]:
    held_back = counts.get("ready", 0)
    with_scheduled = held_back + counts.get("scheduled", 0)
    if spec is None:
        if with_scheduled:
            yield Waiting(task, with_scheduled, "unknown task: the running code does not declare it")
        return
    windows = Windows(spec.windows, "UTC")
    if with_scheduled and not windows.is_open(now):
        opening = windows.next_opening(now)
        yield Waiting(
            task, with_scheduled, "outside its window", None if opening is None else moment(opening)
        )
    if not held_back:
        return
    if ("task", task) in paused:
        yield Waiting(task, held_back, "paused")
    if ("queue", spec.queue) in paused:
        yield Waiting(task, held_back, f"queue {spec.queue} is paused")
    if spec.concurrency is not None and counts.get("running", 0) >= spec.concurrency:
        yield Waiting(task, held_back, f"at its limit of {spec.concurrency}")
    if spec.concurrency_by_key is not None and full.held_back:
        limit = limits_in_words(None, spec.concurrency_by_key)
        yield Waiting(task, full.held_back, f"{counted(full.keys, 'key')} at the limit of {limit}")
    if spec.rate is not None and full.until is not None:
        yield Waiting(task, held_back, f"at its rate of {rate_in_words(spec.rate)}", moment(full.until))
