"""What the supervisor does with each message of a runner: one short method a message.

Asks are answered at once from memory, also while the database is busy. Whatever must be durable goes to the
journal, and its reply follows the commit. Owned by the loop thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

from msgspec import Struct

from conductor_protocol import messages as m
from conductor_protocol.codec import MAX_FRAME, pack_json, unpack_operation
from conductor_protocol.errors import ProtocolError
from conductor_protocol.operations import (
    Answer,
    CancelExecution,
    CrashReport,
    Operation,
    ProgressView,
    Refused,
)
from conductor_protocol.units import MICROSECONDS
from conductor_supervisor import endings
from conductor_supervisor.intake import Intake
from conductor_supervisor.roster import Held, Runner, StopOrder
from conductor_supervisor.rules.admission import RECALL_AFTER
from conductor_supervisor.rules.blame import place, seen
from conductor_supervisor.rules.verdict import verdict
from conductor_supervisor.settings import Settings
from conductor_supervisor.store.perform import is_write, too_much
from conductor_supervisor.store.steps import NewStep
from conductor_supervisor.work import Work
from conductor_supervisor.writes import LoadPage, Perform, RecordStep

LARGEST_ANSWER = MAX_FRAME - 1024
"""Bytes of an answer to a handler's operation: with its envelope it must fit into a frame."""

log = logging.getLogger(__name__)

M = TypeVar("M", bound=m.FromRunner)


class Dispatcher:
    """Acts on runners' messages."""

    def __init__(
        self,
        work: Work,
        intake: Intake,
        settings: Settings,
        joined: Callable[[Runner], None],
        worn: Callable[[Runner, str], None],
    ) -> None:
        """``joined`` hears of a runner that has said hello on both channels, ``worn`` of one that is worn."""
        self._work = work
        self._intake = intake
        self._settings = settings
        self._joined = joined
        self._worn_out = worn
        self._methods: dict[type[Struct], Callable[[Runner, m.FromRunner], None]] = {}
        self._on(m.Hello, self._hello)
        self._on(m.Ask, self._ask)
        self._on(m.StepDone, self._step_done)
        self._on(m.LoadSteps, self._load_steps)
        self._on(m.Operate, self._operate)
        self._on(m.Flush, self._flush)
        self._on(m.Finished, self.finished)
        self._on(m.Failed, self.failed)
        self._on(m.Released, self.released)
        self._on(m.Interrupted, self.interrupted)
        self._on(m.Began, self._began)
        self._on(m.Progress, self._progress)
        self._on(m.Worn, self._worn)
        self._on(m.Heartbeat, self._heartbeat)
        self._on(m.Returned, self._returned)
        self._on(m.Goodbye, self._goodbye)

    def _on(self, kind: type[M], method: Callable[[Runner, M], None]) -> None:
        self._methods[kind] = cast(Callable[[Runner, m.FromRunner], None], method)

    def receive(self, number: int, channel: m.Channel, message: m.FromRunner) -> None:
        """Act on one message; one of a runner that is gone changes nothing."""
        runner = self._work.roster.runners.get(number)
        if runner is None:
            return
        runner.heard = time.monotonic()
        runner.heard_until, runner.unheard_since = runner.live_until, None
        if isinstance(message, m.Hello):
            runner.channels.add(channel)
        self._methods[type(message)](runner, message)

    def report(self, runner: Runner, report: m.Report) -> None:
        """Act on a report that was read from a runner's outbox."""
        self._methods[type(report)](runner, report)

    def _reply(self, runner: Runner, message: m.DataToRunner) -> None:
        self._work.router.send(runner.number, "data", message)

    def _word(self, runner: Runner, execution: str, claim: int) -> m.Word:
        """Return the verdict on an execution that asks now."""
        held = runner.held.get(execution)
        if held is None or held.claim != claim:
            return "abandon"
        return verdict(
            ours=True,
            cancelled=held.cancelled is not None,
            overdue=held.overdue is not None,
            shutting_down=self._work.draining,
            window_open=held.task.windows.is_open(self._work.clock.now()),
        )

    # Both channels

    def _hello(self, runner: Runner, hello: m.Hello) -> None:
        settings = self._settings
        welcome = m.Welcome(
            self._heartbeat_for_runners(),
            settings.max_result,
            settings.end_grace,
            settings.recycle_executions,
            settings.recycle_memory,
            self._work.lease.live_until,
        )
        runner.live_until = welcome.live_until
        self._work.router.send(runner.number, hello.channel, welcome)
        if runner.channels == {"data", "control"}:
            self._joined(runner)

    def _heartbeat_for_runners(self) -> float:
        """Return how often a runner is to be heard: often enough for the shortest ``hang_after``."""
        limits = [task.spec.hang_after for task in self._work.tasks.values()]
        return min([self._settings.heartbeat, *(limit / 4 for limit in limits if limit is not None)])

    # Requests

    def _ask(self, runner: Runner, ask: m.Ask) -> None:
        word = self._word(runner, ask.execution, ask.claim)
        self._reply(runner, m.Verdict(ask.seq, word))
        self._work.router.flush()  # the rest of this turn may take milliseconds
        if word == "go on" and ask.step is not None:
            held = runner.held[ask.execution]
            held.step = ask.step
            held.step_deadline = None if ask.timeout is None else time.monotonic() + ask.timeout

    def _step_done(self, runner: Runner, done: m.StepDone) -> None:
        held = runner.held.get(done.execution)
        if held is None or held.claim != done.claim:
            self._reply(runner, m.StepAck(done.seq, "abandon"))
            return
        held.step = held.step_deadline = None
        ended = self._work.clock.now()
        step = NewStep(
            execution=done.execution,
            claim=done.claim,
            name=done.name,
            result=done.result,
            started=ended - int(done.seconds * MICROSECONDS),
            ended=ended,
            attempt=done.attempt,
        )
        self._work.journal.submit(
            RecordStep(
                step,
                partial(self._step_recorded, runner, done),
                lambda message: self._reply(runner, m.StepRefused(done.seq, message)),
            )
        )

    def _step_recorded(self, runner: Runner, done: m.StepDone, late: bool) -> None:
        if late and runner.take_back(done.execution, done.claim) is not None:
            runner.ended = (done.execution, done.claim)
        word = self._word(runner, done.execution, done.claim)
        self._reply(runner, m.StepAck(done.seq, word))

    def _load_steps(self, runner: Runner, load: m.LoadSteps) -> None:
        def reply(steps: list[m.RecordedStep]) -> None:
            word = self._word(runner, load.execution, load.claim)
            self._reply(runner, m.StepPage(load.seq, steps, word))

        def refuse(message: str) -> None:
            # Without its recorded steps the attempt must not go on: it could repeat what has been done.
            log.error("execution %s: its steps could not be read: %s", load.execution, message)
            held = runner.take_back(load.execution, load.claim)
            if held is not None:
                self._work.end(held, endings.released(held, "steps", self._work.clock.now()))
            self._reply(runner, m.StepPage(load.seq, [], "abandon"))

        self._work.journal.submit(LoadPage(load.execution, load.after, reply, refuse))

    def _operate(self, runner: Runner, operate: m.Operate) -> None:
        def answer(answer: Answer) -> None:
            packed = pack_json(answer)
            if len(packed) > LARGEST_ANSWER:
                packed = pack_json(too_much(len(packed), LARGEST_ANSWER))
            self._reply(runner, m.Answered(operate.seq, packed))

        try:
            operation = unpack_operation(operate.operation)
        except ProtocolError as error:
            answer(Refused(str(error)))
            return

        def performed(result: Answer) -> None:
            self._performed(operation)
            answer(result)

        self._work.journal.submit(
            Perform(
                operation,
                performed,
                lambda message: answer(Refused(message)),
                self._settings.max_payload,
                LARGEST_ANSWER,
            )
        )

    def _performed(self, operation: Operation) -> None:
        """Notice what an operation made through us has changed, as a look would after somebody else's."""
        if isinstance(operation, CancelExecution) or is_write(operation):
            self._intake.look()

    def _flush(self, runner: Runner, flush: m.Flush) -> None:
        self._reply(runner, m.Flushed(flush.seq))

    # Reports

    def finished(self, runner: Runner, report: m.Finished) -> None:
        """The handler returned."""
        held = self._taken_back(runner, report)
        if held is not None:
            held.task.took(report.seconds)
            self._work.end(held, endings.completed(held, report, self._work.clock.now()))

    def failed(self, runner: Runner, report: m.Failed) -> None:
        """The handler raised."""
        held = self._taken_back(runner, report)
        if held is not None:
            held.task.took(report.seconds)
            self._work.end(held, endings.failed(held, report, self._work.clock.now()))

    def released(self, runner: Runner, report: m.Released) -> None:
        """The handler unwound because it was told to."""
        held = self._taken_back(runner, report)
        if held is None:
            return
        now = self._work.clock.now()
        if not report.begun:
            self._work.end(held, endings.unbegun(held, now))
        elif report.word == "cancelled":
            held.cancelled = held.cancelled or ""
            self._work.end(held, endings.cancelled(held, now))
        elif report.word == "timeout":
            held.task.took(report.seconds)
            self._work.end(held, endings.timed_out(held, report, now))
        else:
            self._work.end(held, endings.released(held, report.word, now))

    def interrupted(self, runner: Runner, report: m.Interrupted) -> None:
        """The handler ended where it was: what becomes of it was decided when that was ordered."""
        held = self._taken_back(runner, report)
        if held is None:
            return
        if held.interruption is None:
            order = StopOrder(held, "crashed", "it broke the protocol: it was interrupted by nobody")
            found = seen((held.id, held.claim), None, 0.0)
        else:
            order, found = held.interruption.order, held.interruption.seen
        crash = CrashReport(
            cause=f"was interrupted: {order.cause}; {place(found)}",
            step=found.step,
            step_seconds=found.step_seconds,
            attempt_seconds=report.seconds,
            stacks=report.traceback,
        )
        held.task.took(report.seconds)
        self._work.end(held, endings.by_order(held, order, crash, self._work.clock.now()))

    def _taken_back(self, runner: Runner, report: m.Report) -> Held | None:
        held = runner.take_back(report.execution, report.claim)
        if held is None and (report.execution, report.claim) in runner.read_early:
            runner.read_early.remove((report.execution, report.claim))
        elif held is None:
            log.warning(
                "runner %d reported on %s, which is not in its hands", runner.slot.number, report.execution
            )
        else:
            runner.ended = (held.id, held.claim)
        return held

    def _began(self, runner: Runner, began: m.Began) -> None:
        held = runner.held.get(began.execution)
        if held is not None and held.claim == began.claim:
            self._work.began(held)

    def _progress(self, runner: Runner, progress: m.Progress) -> None:
        held = runner.held.get(progress.execution)
        if held is not None and held.claim == progress.claim:
            held.progress = ProgressView(done=progress.done, total=progress.total, message=progress.message)
            held.progress_kept = False

    def _worn(self, runner: Runner, worn: m.Worn) -> None:
        self._worn_out(runner, worn.reason)

    # Control

    def _heartbeat(self, runner: Runner, heartbeat: m.Heartbeat) -> None:
        """Being heard is all that it is for: ``receive`` has noted it."""

    def _returned(self, runner: Runner, returned: m.Returned) -> None:
        runner.recalled = False
        if not returned.executions:
            runner.recall_from = time.monotonic() + RECALL_AFTER
        for execution, claim in returned.executions:
            held = runner.take_back(execution, claim)
            if held is not None:
                self._work.give_back(held)
        self._work.place()

    def _goodbye(self, runner: Runner, _goodbye: m.Goodbye) -> None:
        runner.phase = "stopping"
