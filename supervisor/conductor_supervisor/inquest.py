"""After a runner's death: who was running in it, whose fault it was, and what becomes of all that it held.

The blame is found by pure rules, from the flight recorder and from what we have ordered. What the dead runner
still reported is acted on, and what it had not begun goes to others. Owned by the loop thread.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from typing import get_args

from conductor_protocol.messages import Report
from conductor_protocol.operations import CrashReport, Stream
from conductor_protocol.units import counted
from conductor_protocol.uptime import has_passed
from conductor_supervisor import endings
from conductor_supervisor.processes.oom import OutOfMemoryKills
from conductor_supervisor.processes.output import split_stacks
from conductor_supervisor.processes.spawn import Exit
from conductor_supervisor.roster import Held, Runner, StopOrder
from conductor_supervisor.rules.blame import Blame, Kill, blame, exit_in_words, sentence, signal_name
from conductor_supervisor.rules.suspicion import Suspicion, seen_in, sentence_on_one_of, suspicion
from conductor_supervisor.transcripts import Transcripts
from conductor_supervisor.work import Work

DEAF_AFTER = 1 / 6
"""Of the lease: how long our word to a runner may be on its way."""

LEASE_OVER = "the lease of its supervisor was not renewed"
"""The cause of death of what a supervisor without a lease has run."""

log = logging.getLogger(__name__)


class Inquest:
    """Settles what dead runners have left."""

    def __init__(
        self, work: Work, transcripts: Transcripts, reported: Callable[[Runner, Report], None]
    ) -> None:
        """``reported`` acts on a report that a dead runner left in its outbox."""
        self._work = work
        self._transcripts = transcripts
        self._reported = reported
        self._out_of_memory = OutOfMemoryKills()

    def settle(self, runner: Runner, ended: Exit) -> bool:
        """Give every execution in a dead runner's hands what is due to it; tell if it was running one."""
        self._note_dead_mans_timer(runner, ended)
        return self._settle_shared(runner, ended) if runner.shared else self._settle_one(runner, ended)

    def _note_dead_mans_timer(self, runner: Runner, ended: Exit) -> None:
        """See if it has died because we have not told it to live on: that is nobody's fault in it."""
        timer = ended.returncode == -signal.SIGKILL and has_passed(runner.heard_until)
        if timer and (has_passed(runner.live_until) or not self._was_deaf(runner)):
            runner.lost = True
            runner.stop_order = runner.stop_order or order_to_all(runner, LEASE_OVER, "lease")

    def _was_deaf(self, runner: Runner) -> bool:
        """Tell whether a runner has not heard for long what we told it; else our word was on its way."""
        since = runner.unheard_since
        return since is not None and has_passed(since + self._work.lease.seconds * DEAF_AFTER)

    def _settle_one(self, runner: Runner, ended: Exit) -> bool:
        in_hand = {(held.id, held.claim): held for held in runner.held.values()}
        found, kill = self._blame(runner, list(in_hand))
        for report in found.reported:
            self._reported(runner, report)
        if found.running is not None:
            held = in_hand[found.running]
            cause = self._sentence(found, ended, kill, runner)
            crash = self._crash_report(found, cause, ended, runner, found.running)
            runner.take_back(*found.running)
            self._end(held, runner.stop_order if kill is not None else None, crash)
        for held in list(runner.held.values()):
            runner.take_back(held.id, held.claim)
            held.may_have_begun = True  # for all that a damaged page can tell
            self._work.give_back(held)
        return found.running is not None

    def _settle_shared(self, runner: Runner, ended: Exit) -> bool:
        in_hand = {(held.id, held.claim): held for held in runner.held.values()}
        order, recorder = runner.stop_order, runner.child.recorder
        readings, now = recorder.read_places(), time.monotonic()
        found = suspicion(
            readings=readings,
            in_hand=list(in_hand),
            outbox=recorder.outbox(),
            kill=_kill(order, order.held) if order is not None else None,
            named=(order.held.id, order.held.claim) if order is not None and order.held is not None else None,
        )
        for report in found.reported:
            self._reported(runner, report)
        _log_death(runner, ended, found)
        for key in found.inside:
            held = in_hand[key]
            kill = _kill(order, held) if order is not None else None
            seen = seen_in(readings, key, now)
            runner.take_back(*key)
            if key in found.suspects:
                cause = sentence_on_one_of(len(found.inside), seen, ended.returncode, kill)
                crash = self._crash_report(seen, cause, ended, runner, key)
                self._work.end(held, endings.suspected(held, crash, self._work.clock.now()))
            else:
                cause = self._sentence(seen, ended, kill, runner)
                self._end(held, order, self._crash_report(seen, cause, ended, runner, key))
        for held in list(runner.held.values()):
            runner.take_back(held.id, held.claim)
            held.may_have_begun = True  # for all that a damaged page can tell
            self._work.give_back(held)
        return bool(found.inside)

    def _blame(self, runner: Runner, in_hand: list[tuple[str, int]]) -> tuple[Blame, Kill | None]:
        """Find who was running; a stop for one that has ended since is not held against the next."""
        order = runner.stop_order
        kill = _kill(order, order.held) if order is not None else None
        reading, outbox = runner.child.recorder.read(), runner.child.recorder.outbox()
        now = time.monotonic()
        found = blame(reading=reading, in_hand=in_hand, outbox=outbox, now=now, kill=kill, ended=runner.ended)
        whom = order.held if order is not None else None
        if order is not None and whom is not None and found.running not in (None, (whom.id, whom.claim)):
            kill = _kill(order, None)
            found = blame(
                reading=reading, in_hand=in_hand, outbox=outbox, now=now, kill=kill, ended=runner.ended
            )
        return found, kill

    def _sentence(self, found: Blame, ended: Exit, kill: Kill | None, runner: Runner) -> str:
        killed = ended.returncode == -signal.SIGKILL
        no_memory = killed and self._out_of_memory.happened()
        deaf = killed and has_passed(runner.heard_until) and self._was_deaf(runner)
        return sentence(found, ended.returncode, kill, no_memory=no_memory, deaf=deaf)

    def _crash_report(
        self, found: Blame, cause: str, ended: Exit, runner: Runner, held: tuple[str, int]
    ) -> CrashReport:
        stdout, stderr = (self._transcripts.tail(*held, stream) for stream in get_args(Stream))
        stderr, stacks = split_stacks(stderr)
        if not stacks:  # where several ran, they are nobody's
            _, stacks = split_stacks(runner.child.stderr.tail())
        signal_said = signal_name(ended.returncode)
        return CrashReport(
            cause=cause,
            signal=signal_said,
            exit_code=None if signal_said else ended.returncode,
            step=found.step,
            step_seconds=found.step_seconds,
            attempt_seconds=found.attempt_seconds,
            peak_memory=ended.peak_memory,
            cpu_seconds=ended.cpu_seconds,
            stdout=stdout,
            stderr=stderr,
            stacks=stacks,
        )

    def _end(self, held: Held, order: StopOrder | None, crash: CrashReport) -> None:
        now = self._work.clock.now()
        if order is None:
            order = StopOrder(held, "crashed", crash.cause)
        elif order.held is not None and order.held is not held:
            order = StopOrder(held, "stopped", order.cause, order.reason)
        if order.outcome == "crashed":
            held.task.took(crash.attempt_seconds or 0.0)
        self._work.end(held, endings.by_order(held, order, crash, now))


def order_to_all(runner: Runner, cause: str, reason: str) -> StopOrder | None:
    """Return why a runner ends that nothing in it is to blame for; None if it has nothing in hand."""
    first = runner.first()
    if first is None:
        return None
    return StopOrder(None if runner.shared else first, "stopped", cause, reason)


def _kill(order: StopOrder, held: Held | None) -> Kill:
    """Return what a stop means for one of the executions that were inside."""
    if order.held is held or order.held is None:
        return Kill(order.cause, charged=order.outcome == "crashed")
    return Kill(f"for another execution's sake ({order.cause})", charged=False)


def _log_death(runner: Runner, ended: Exit, found: Suspicion) -> None:
    """One line, however many were inside."""
    if not found.inside:
        return
    what = f"{exit_in_words(ended.returncode)} with {counted(len(found.inside), 'execution')} in it"
    if runner.stop_order is not None:
        what += f", stopped: {runner.stop_order.cause}"
    if found.suspects:
        what += "; as any of them may have done it, each runs alone from now on"
    elif found.culprit is not None:
        what += f"; it was execution {found.culprit[0]}"
    log.warning("shared runner %d %s", runner.slot.number, what)
