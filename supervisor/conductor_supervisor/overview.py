"""What runs where, for ``status``: from the roster and the flight recorders; no runner is asked."""

from __future__ import annotations

import time

from conductor_supervisor.control import RunnerStatus
from conductor_supervisor.roster import Held, Roster, Runner, Slot


def overview(roster: Roster) -> list[RunnerStatus]:
    """Tell of every slot what its runner does, and of runners that finish with older code."""
    slots = [_vacant(slot) if slot.runner is None else _taken(slot, slot.runner) for slot in roster.slots]
    return slots + [_taken(runner.slot, runner) for runner in roster.retiring()]


def _vacant(slot: Slot) -> RunnerStatus:
    return RunnerStatus(
        number=slot.number,
        pid=None,
        queue=slot.pool.queue,
        isolation=slot.pool.isolation,
        state="waiting",
        note=slot.note,
        restarts=slot.restarts,
    )


def _taken(slot: Slot, runner: Runner) -> RunnerStatus:
    held, reading = runner.first(), runner.child.recorder.read()
    running = reading is not None and held is not None and reading.execution == held.id
    step = reading.step if running and reading is not None else None
    now = time.monotonic()
    progress = held.progress if held is not None else None
    return RunnerStatus(
        number=slot.number,
        pid=runner.child.pid,
        queue=slot.pool.queue,
        isolation=slot.pool.isolation,
        state=_state(runner, held),
        note=runner.stop_order.cause if runner.stop_order is not None else slot.note,
        execution=held.id if held is not None else None,
        task=held.task.spec.name if held is not None else None,
        step=step,
        seconds=now - reading.started if running and reading is not None else None,
        step_seconds=now - reading.step_started if step is not None and reading is not None else None,
        in_hand=len(runner.held),
        memory=resident_memory(runner.child.pid),
        done=progress.done if progress is not None else None,
        total=progress.total if progress is not None else None,
        message=progress.message if progress is not None else "",
        restarts=slot.restarts,
    )


def _state(runner: Runner, held: Held | None) -> str:
    if runner.phase != "ready":
        return runner.phase
    return "idle" if held is None else "busy"


def resident_memory(pid: int) -> int | None:
    """Return a process's memory in bytes; None if it has ended."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
