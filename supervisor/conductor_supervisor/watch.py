"""The limits of what runs: time, silence, memory, and the end of a window. Owned by the loop thread.

Whatever must stop is told so first where that makes sense, and then its runner is stopped from outside, for
nothing else ends C code that holds the interpreter.
"""

from __future__ import annotations

import logging
import math
import time

from conductor_protocol.units import MICROSECONDS, Instant, in_words, size_in_words
from conductor_supervisor.processes import memory
from conductor_supervisor.roster import SILENT, Held, Overdue, Runner, StopOrder
from conductor_supervisor.settings import Settings
from conductor_supervisor.staff import Staff
from conductor_supervisor.work import Work

MEMORY_INTERVAL = 0.15
"""Seconds between looks at the memory of a runner whose task has a limit."""

UNUSED_SILENCE = 10.0
"""Seconds without a sign of life after which a runner that runs nothing is replaced."""

SILENCE = 60.0
"""Seconds without a sign of life after which a runner at work is named in the log, with its stacks."""

STALL = 1.0
"""Seconds between two looks above which we were stopped ourselves: nobody's silence then counts."""

log = logging.getLogger(__name__)


class Watch:
    """Looks after all runners, some times a second."""

    def __init__(self, work: Work, staff: Staff, settings: Settings) -> None:
        self._work = work
        self._staff = staff
        self._settings = settings
        self._looked = time.monotonic()

    def look(self) -> None:
        """Enforce every limit, and go on with stops under way."""
        now = time.monotonic()
        self._forgive_own_absence(now)
        self._staff.look_after_template()
        for runner in self._work.roster.runners.values():
            self._look_at(runner, now)

    def recall(self) -> float:
        """Recall what has waited too long behind another in a runner's hands; return when to look again.

        Monotonic; infinite if nothing waits.
        """
        now, again = time.monotonic(), math.inf
        for runner, at in self._work.roster.recalls():
            if at <= now:
                self._work.recall(runner)
            else:
                again = min(again, at)
        return again

    def _forgive_own_absence(self, now: float) -> None:
        """While we were stopped nobody was heard: what lies in the sockets was sent meanwhile."""
        if now - self._looked > STALL:
            for runner in self._work.roster.runners.values():
                runner.heard = max(runner.heard, now - SILENT / 2)
        self._looked = now

    def _look_at(self, runner: Runner, now: float) -> None:
        self._staff.climb(runner, now)
        self._staff.see_off(runner, now)
        if runner.stop_order is not None:
            return
        if runner.recalled:  # and does not answer
            self._staff.read_outbox(runner)
        first = runner.first()
        silent = now - runner.heard
        if runner.phase == "starting":
            if silent > self._settings.import_timeout:
                self._staff.kill(runner)
        elif silent > UNUSED_SILENCE and not _has_begun(runner):
            log.warning("runner %d %s and runs nothing: it is killed", runner.slot.number, _silence(runner))
            self._staff.kill(runner)
        elif first is not None:
            self._look_at_work(runner, first, now)

    def _look_at_work(self, runner: Runner, first: Held, now: float) -> None:
        self._notice_silence(runner, first, now - runner.heard)
        if (silent := self._order_for_silence(runner, now)) is not None:
            self._staff.stop(runner, silent)
        elif (too_much := self._order_for_memory(runner, now)) is not None:
            self._staff.stop(runner, too_much, at_once=True)
        elif runner.shared:
            self._look_at_each(runner, now)
        elif (order := self._order_for(runner, first, now)) is not None:
            self._staff.stop(runner, order)
        else:
            self._see_to_those_in_hand(runner, first)

    def _look_at_each(self, runner: Runner, now: float) -> None:
        """Enforce the limits of each execution of a shared runner, if it can be without harm to others."""
        moment = self._work.clock.now()
        for held in list(runner.held.values()):
            if held.interruption is not None:
                if now - held.interruption.at > self._settings.stop_grace:
                    self._staff.stop(runner, held.interruption.order)
                    return
            elif (order := self._order_for(runner, held, now)) is not None:
                self._work.interrupt(runner, held, order)
            else:
                self._work.push_window(runner, held, held.task.windows.is_open(moment))

    def _see_to_those_in_hand(self, runner: Runner, first: Held) -> None:
        """Tell the first how its window is; recall the others if some must not begin."""
        moment = self._work.clock.now()
        self._work.push_window(runner, first, first.task.windows.is_open(moment))
        if not all(self._may_begin(held, moment) for held in runner.behind()):
            self._work.recall(runner)

    def _may_begin(self, held: Held, moment: Instant) -> bool:
        return held.cancelled is None and self._work.may_begin(held.task, moment)

    def _order_for(self, runner: Runner, held: Held, now: float) -> StopOrder | None:
        """Return why an execution must be ended from outside, if it must."""
        return (
            self._order_for_time(runner, held, now)
            or self._order_for_cancellation(held, now)
            or self._order_for_window(held)
        )

    # Time

    def _order_for_time(self, runner: Runner, held: Held, now: float) -> StopOrder | None:
        """Tell a handler that is over its time to stop; return an order if it has not within the grace."""
        if held.overdue is None:
            cause = self._time_exceeded(runner, held, now)
            if cause is not None:
                log.debug("execution %s is told to stop: %s", held.id, cause)
                held.overdue = Overdue(cause, now)
                self._work.push_stop(runner, held)
                self._staff.ask_for_stacks(runner)
        elif now - held.overdue.since > self._settings.timeout_grace:
            return StopOrder(held, "crashed", held.overdue.cause, stacks_asked=True)
        return None

    def _time_exceeded(self, runner: Runner, held: Held, now: float) -> str | None:
        timeout = held.task.spec.timeout
        if timeout is not None and held.began is not None and now - held.began > timeout:
            return f"over its timeout of {in_words(timeout)}"
        if held.step_deadline is not None and now > held.step_deadline and _is_in_step(runner, held):
            return f'step "{held.step}" took longer than its timeout'
        return None

    def _order_for_cancellation(self, held: Held, now: float) -> StopOrder | None:
        grace = self._settings.cancel_grace
        if held.cancel_pushed is None or now - max(held.cancel_pushed, held.began or 0.0) <= grace:
            return None
        return StopOrder(held, "cancelled", f"it was cancelled and had not stopped within {in_words(grace)}")

    def _order_for_window(self, held: Held) -> StopOrder | None:
        windows = held.task.windows
        moment = self._work.clock.now()
        closed, grace = windows.closed_since(moment), windows.grace(moment)
        if closed is None or grace is None or moment - closed < grace * MICROSECONDS:
            return None
        cause = f"its window closed and it had not asked within {in_words(grace)}"
        return StopOrder(held, "stopped", cause, reason="window")

    # Silence

    def _order_for_silence(self, runner: Runner, now: float) -> StopOrder | None:
        """Return an order if one of those that it runs may be silent no longer."""
        limits = [
            limit
            for held in runner.running()
            if (limit := held.task.spec.hang_after) is not None
            and now - max(runner.heard, held.began or 0.0) > limit
        ]
        if not limits:
            return None
        return StopOrder(runner.answerable(), "crashed", f"it {_silence(runner, min(limits))}")

    def _notice_silence(self, runner: Runner, held: Held, silent: float) -> None:
        """Name a runner that is not heard any more once, and have its stacks printed."""
        if silent <= SILENCE:
            runner.silence_told = False
        elif not runner.silence_told:
            runner.silence_told = True
            log.warning(
                "runner %d %s while it runs execution %s of %s; its stacks follow if it can write them; "
                "to have such a runner killed, set hang_after for the task",
                runner.slot.number,
                _silence(runner),
                held.id,
                held.task.spec.name,
            )
            self._staff.ask_for_stacks(runner)

    # Memory

    def _order_for_memory(self, runner: Runner, now: float) -> StopOrder | None:
        """Return an order if the runner has more than one of those that it runs may have."""
        limits = [limit for held in runner.running() if (limit := held.task.spec.memory) is not None]
        if not limits or now - runner.memory_seen < MEMORY_INTERVAL:
            return None
        runner.memory_seen = now
        used, limit = memory.resident_with_children(runner.child.pid), min(limits)
        if used <= limit or not _has_begun(runner):
            return None
        cause = f"over its memory of {size_in_words(limit)}, with {size_in_words(used)} resident"
        return StopOrder(runner.answerable(), "crashed", cause)


def _has_begun(runner: Runner) -> bool:
    """Ask the flight recorder whether the first handler in hand has been called; what is damaged may run."""
    first = runner.first()
    if first is None or runner.shared:  # a shared one begins all that it gets
        return first is not None
    return runner.reading(first) is not None or runner.child.recorder.read() is None


def _is_in_step(runner: Runner, held: Held) -> bool:
    """Ask the flight recorder: a step that raised is over, though nobody has told us."""
    reading = runner.reading(held)
    in_step = reading is None or reading.step == held.step
    if not in_step:
        held.step_deadline = None
    return in_step


def _silence(runner: Runner, seconds: float | None = None) -> str:
    silent = time.monotonic() - runner.heard if seconds is None else seconds
    stopped = " (something has stopped it with SIGSTOP)" if memory.is_stopped(runner.child.pid) else ""
    return f"gave no sign of life for {in_words(silent)}{stopped}"
