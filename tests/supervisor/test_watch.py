"""What is done about a runner that gives no sign of life, as far as it can be seen without waiting for it."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import cast

import pytest
from holdings import held, runner

from conductor_protocol.recorder import Reading
from conductor_supervisor.roster import Roster, Runner
from conductor_supervisor.settings import Settings
from conductor_supervisor.staff import Staff
from conductor_supervisor.watch import SILENCE, UNUSED_SILENCE, Watch
from conductor_supervisor.work import Work


class Recording:
    """A staff that only notes what it is told to do."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def climb(self, _runner: Runner, _now: float) -> None:
        """Nothing is under way."""

    def look_after_template(self) -> None:
        """There is none."""

    def see_off(self, _runner: Runner, _now: float) -> None:
        """Nobody was told to end."""

    def kill(self, _runner: Runner) -> None:
        """Note it."""
        self.did.append("killed")

    def ask_for_stacks(self, _runner: Runner) -> None:
        """Note it."""
        self.did.append("asked for its stacks")


@pytest.fixture
def silent() -> Runner:
    """A runner of process 0, which no test touches."""
    silent = runner()
    silent.child.recorder = SimpleNamespace(read=lambda: Reading(phase="idle"))  # type: ignore[assignment]
    return silent


def look(at: Runner, staff: Recording, looks: int = 1) -> None:
    """Let the watch look so many times, in a supervisor that was never stopped itself."""
    roster = Roster({})
    roster.runners[at.number] = at
    clock = SimpleNamespace(now=lambda: 0)
    told = SimpleNamespace(roster=roster, clock=clock, recall=lambda _: None, push_window=lambda *_: None)
    work = cast(Work, told)
    watch = Watch(work, cast(Staff, staff), Settings())
    for _ in range(looks):
        watch.look()


def test_a_long_silence_at_work_is_told_once_with_the_stacks(
    silent: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing else happens where the task has no ``hang_after``."""
    one, staff = held("a"), Recording()
    silent.hand(one, 0.02)
    reading = Reading(phase="step", execution="a", claim=1, step="resize")
    silent.child.recorder = SimpleNamespace(read=lambda: reading)  # type: ignore[assignment]
    silent.heard = time.monotonic() - SILENCE - 5
    with caplog.at_level(logging.WARNING):
        look(silent, staff, looks=3)
    assert staff.did == ["asked for its stacks"]
    (line,) = caplog.messages
    assert line.startswith("runner 1 gave no sign of life for 1m5s while it runs execution a of job")
    silent.heard = time.monotonic()
    look(silent, staff)
    silent.heard = time.monotonic() - SILENCE - 5
    look(silent, staff)
    assert len(staff.did) == 2


@pytest.mark.parametrize("in_hand", [False, True], ids=["idle", "with what it has not begun"])
def test_a_silent_runner_that_runs_nothing_is_replaced(silent: Runner, in_hand: bool) -> None:
    """Nobody can be to blame, and nothing is lost: what it holds goes to others."""
    staff = Recording()
    if in_hand:
        silent.hand(held("a"), 0.02)
    silent.heard = time.monotonic() - UNUSED_SILENCE + 5
    look(silent, staff)
    assert staff.did == []
    silent.heard = time.monotonic() - UNUSED_SILENCE - 1
    look(silent, staff)
    assert staff.did == ["killed"]
