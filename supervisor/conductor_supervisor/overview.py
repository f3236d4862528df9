"""What runs where, for ``status``: from the roster and the flight recorders; no runner is asked."""

from __future__ import annotations

import time

from conductor_supervisor.control import Beside, RunnerStatus
from conductor_supervisor.processes.usage import Meter, Usage
from conductor_supervisor.roster import Held, Roster, Runner, Slot


def overview(roster: Roster, meter: Meter) -> list[RunnerStatus]:
    """Tell of every slot what its runner does, and of runners that finish while another has their slot."""
    used = meter.with_descendants(runner.child.pid for runner in roster.runners.values())
    return [
        *(
            _vacant(slot)
            if slot.runner is None
            else _taken(slot, slot.runner, used.get(slot.runner.child.pid))
            for slot in roster.slots
        ),
        *(_taken(runner.slot, runner, used.get(runner.child.pid)) for runner in roster.retiring()),
    ]


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


def _taken(slot: Slot, runner: Runner, used: Usage | None) -> RunnerStatus:
    running = [_running(runner, held) for held in runner.running()]
    first = running[0] if running else None
    return RunnerStatus(
        number=slot.number,
        pid=runner.child.pid,
        queue=slot.pool.queue,
        isolation=slot.pool.isolation,
        state=_state(runner),
        note=runner.stop_order.cause if runner.stop_order is not None else slot.note,
        execution=first.execution if first is not None else None,
        task=first.task if first is not None else None,
        step=first.step if first is not None else None,
        seconds=first.seconds if first is not None else None,
        step_seconds=first.step_seconds if first is not None else None,
        in_hand=len(runner.held),
        beside=running[1:],
        memory=used.memory if used is not None else None,
        cpu_seconds=used.cpu_seconds if used is not None else None,
        done=first.done if first is not None else None,
        total=first.total if first is not None else None,
        message=first.message if first is not None else "",
        restarts=slot.restarts,
    )


def _running(runner: Runner, held: Held) -> Beside:
    """Tell of one execution what the flight recorder knows, and what its handler has said."""
    reading, progress, now = runner.reading(held), held.progress, time.monotonic()
    step = reading.step if reading is not None else None
    return Beside(
        execution=held.id,
        task=held.task.spec.name,
        step=step,
        seconds=now - reading.started if reading is not None else None,
        step_seconds=now - reading.step_started if step is not None and reading is not None else None,
        done=progress.done if progress is not None else None,
        total=progress.total if progress is not None else None,
        message=progress.message if progress is not None else "",
    )


def _state(runner: Runner) -> str:
    if runner.phase != "ready":
        return runner.phase
    if not runner.held:
        return "stopping" if runner.stop_said else "idle"
    return "busy"
