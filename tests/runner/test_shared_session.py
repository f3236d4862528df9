"""What a shared runner does: many executions at once, and none disturbs another."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_supervisor import FakeSupervisor

from conductor_protocol import messages as m

AT_ONCE = 8
APP = Path(__file__).with_name("shared_app.py")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[FakeSupervisor]:
    """A shared runner, let in and ready for work."""
    supervisor = FakeSupervisor(tmp_path, f"{APP}:app", isolation="shared", at_once=AT_ONCE)
    yield supervisor.welcome()
    supervisor.close()


def lines(supervisor: FakeSupervisor) -> list[str]:
    """Return what handlers have left in their file."""
    path = supervisor.folder / "touched"
    return path.read_text().splitlines() if path.exists() else []


def begun(supervisor: FakeSupervisor, assignment: m.Assignment) -> bool:
    """Tell whether the flight recorder knows of an execution."""
    readings = supervisor.recorder.read_places()
    return readings is not None and assignment.execution in {r.execution for r in readings}


def test_executions_run_at_once_each_with_a_context_of_its_own(supervisor: FakeSupervisor) -> None:
    """They come one by one or together; each waits until all are there; context variables do not mix."""
    assignments = [supervisor.assignment("meets", b"8") for _ in range(AT_ONCE)]
    supervisor.say(m.Assign(assignments[:5]))
    for assignment in assignments[5:]:
        supervisor.say(m.Assign([assignment]))
    finished = [supervisor.hear(m.Finished) for _ in assignments]
    assert {f.execution: json.loads(f.result) for f in finished} == {
        a.execution: a.execution for a in assignments
    }


def test_the_lifespan_is_set_up_once_and_taken_down_at_the_end(supervisor: FakeSupervisor) -> None:
    """However many executions share it; what is in hand at the stop is done first."""
    supervisor.say(m.Assign([supervisor.assignment("meets", b"2") for _ in range(2)]), m.Stop())
    assert supervisor.hear(m.Finished).claim != supervisor.hear(m.Finished).claim
    supervisor.hear(m.Goodbye, "control")
    assert supervisor.wait() == 0
    assert lines(supervisor) == ["up", "down"]


def test_questions_of_several_are_answered_in_any_order(supervisor: FakeSupervisor) -> None:
    """Each handler gets its own answer."""
    one, other = supervisor.assign("steps", b"1"), supervisor.assign("steps", b"1")
    asks = {ask.execution: ask for ask in (supervisor.hear(m.Ask), supervisor.hear(m.Ask))}
    supervisor.say(m.Verdict(asks[other.execution].seq, "go on"))
    done = supervisor.hear(m.StepDone)
    assert done.execution == other.execution
    supervisor.say(m.StepAck(done.seq, "go on"))
    assert supervisor.hear(m.Finished).execution == other.execution
    supervisor.say(m.Verdict(asks[one.execution].seq, "shutdown"))
    released = supervisor.hear(m.Released)
    assert (released.execution, released.word) == (one.execution, "shutdown")


def test_a_step_that_is_never_awaited_fails_the_attempt_of_its_handler_alone(
    supervisor: FakeSupervisor,
) -> None:
    """Nothing was done, so it has not finished."""
    other = supervisor.assign("waits")
    supervisor.wait_for(lambda: begun(supervisor, other))
    supervisor.assign("forgets-to-await")
    failure = supervisor.hear(m.Failed).failure
    assert failure.message == 'step "charge the card" was never awaited; write: await ctx.step(...)'
    assert begun(supervisor, other)


def test_the_recorder_tells_of_each_what_it_does(supervisor: FakeSupervisor) -> None:
    """One waits in a step, one between steps; one that has ended is not there any more."""
    between, inside = supervisor.assign("waits"), supervisor.assign("waits-in-a-step")
    supervisor.answer_ask()
    over = supervisor.assign("echo")
    supervisor.hear(m.Finished)
    supervisor.wait_for(lambda: begun(supervisor, inside) and not begun(supervisor, over))
    readings = supervisor.recorder.read_places()
    assert readings is not None
    assert {(r.execution, r.claim, r.phase, r.step) for r in readings} == {
        (between.execution, between.claim, "handler", None),
        (inside.execution, inside.claim, "step", "endless"),
    }


def test_a_place_is_used_again_when_its_execution_has_ended(supervisor: FakeSupervisor) -> None:
    """More executions than places in the recorder, over time."""
    for number in range(3 * AT_ONCE):
        supervisor.assign("echo", str(number).encode())
    assert sorted(json.loads(supervisor.hear(m.Finished).result) for _ in range(3 * AT_ONCE)) == list(
        range(3 * AT_ONCE)
    )


def test_an_interrupt_ends_one_deaf_handler_and_no_other(supervisor: FakeSupervisor) -> None:
    """It unwinds where it awaits, and the report says where that was."""
    deaf, other = supervisor.assign("waits"), supervisor.assign("waits")
    supervisor.wait_for(lambda: lines(supervisor).count("waiting") == 2)
    supervisor.say(m.Interrupt(deaf.execution, deaf.claim), channel="control")
    interrupted = supervisor.hear(m.Interrupted)
    assert (interrupted.execution, interrupted.claim) == (deaf.execution, deaf.claim)
    assert "await asyncio.Event().wait()" in interrupted.traceback
    supervisor.wait_for(lambda: not begun(supervisor, deaf))
    assert begun(supervisor, other)
    assert lines(supervisor).count("unwound") == 1


def test_a_handler_that_returns_when_it_is_interrupted_has_returned(supervisor: FakeSupervisor) -> None:
    """Its result counts, as that of one which was just ending."""
    assignment = supervisor.assign("ignores")
    supervisor.wait_for(lambda: begun(supervisor, assignment))
    supervisor.say(m.Interrupt(assignment.execution, assignment.claim), channel="control")
    assert json.loads(supervisor.hear(m.Finished).result) == "all the same"


def test_an_interrupt_of_what_has_ended_changes_nothing(supervisor: FakeSupervisor) -> None:
    """Nor does one of another claim."""
    over = supervisor.assign("echo")
    supervisor.hear(m.Finished)
    supervisor.say(m.Interrupt(over.execution, over.claim), channel="control")
    waiting = supervisor.assign("waits")
    supervisor.wait_for(lambda: begun(supervisor, waiting))
    supervisor.say(m.Interrupt(waiting.execution, waiting.claim + 1), channel="control")
    supervisor.say(m.Cancel(waiting.execution, waiting.claim), channel="control")
    watching = supervisor.assign("watches")
    supervisor.wait_for(lambda: begun(supervisor, watching))
    supervisor.say(m.Cancel(watching.execution, watching.claim), channel="control")
    assert supervisor.answer_ask("cancelled").execution == watching.execution
    supervisor.hear(m.Released)
    assert begun(supervisor, waiting)


def test_a_push_for_one_is_seen_by_that_one_alone(supervisor: FakeSupervisor) -> None:
    """``ctx.should_stop`` of the others stays false, until a shutdown tells all."""
    one, other = supervisor.assign("watches"), supervisor.assign("watches")
    supervisor.wait_for(lambda: begun(supervisor, one) and begun(supervisor, other))
    supervisor.say(m.WindowClosed(one.execution, one.claim), channel="control")
    assert supervisor.answer_ask("window").execution == one.execution
    assert supervisor.hear(m.Released).execution == one.execution
    supervisor.say(m.ShutdownIntent(), channel="control")
    assert supervisor.answer_ask("shutdown").execution == other.execution


def test_what_comes_after_a_shutdown_began_is_not_begun(supervisor: FakeSupervisor) -> None:
    """It goes back without having been touched."""
    other = supervisor.assign("watches")
    supervisor.wait_for(lambda: begun(supervisor, other))
    supervisor.say(m.ShutdownIntent(), channel="control")
    supervisor.answer_ask("shutdown")
    supervisor.hear(m.Released)
    late = supervisor.assign("echo")
    released = supervisor.hear(m.Released)
    assert (released.execution, released.begun) == (late.execution, False)


def test_tasks_that_a_handler_left_behind_end_with_it_and_not_with_another(
    supervisor: FakeSupervisor,
) -> None:
    """Whose they are is known by where they were made."""
    other = supervisor.assign("waits")
    supervisor.wait_for(lambda: begun(supervisor, other))
    supervisor.assign("leaves-a-task-behind")
    supervisor.hear(m.Finished)
    assert "ended with its handler" in lines(supervisor)
    assert "unwound" not in lines(supervisor)
    assert begun(supervisor, other)


@pytest.mark.parametrize("in_a_task", [b"false", b"true"])
def test_an_exit_of_one_handler_is_its_failure_and_ends_nobody_else(
    supervisor: FakeSupervisor, in_a_task: bytes
) -> None:
    """Although asyncio throws it out of the whole loop."""
    other = supervisor.assign("waits")
    supervisor.wait_for(lambda: begun(supervisor, other))
    supervisor.assign("exits", in_a_task)
    assert supervisor.hear(m.Failed).failure.type == "SystemExit"
    assert begun(supervisor, other)
    supervisor.assign("echo", b"1")
    assert supervisor.hear(m.Finished).result == b"1"


def test_reports_stay_in_the_outbox_until_a_later_answer(supervisor: FakeSupervisor) -> None:
    """And a full outbox holds up neither the loop nor what is in it: a flush is awaited."""
    waiting = supervisor.assign("steps", b"1")
    ask = supervisor.hear(m.Ask)
    large = json.dumps("x" * 30_000).encode()
    for _ in range(2):
        supervisor.assign("echo", large)
        supervisor.hear(m.Finished)
    assert len(supervisor.reports()) == 2
    full = supervisor.assign("echo", large)
    assert supervisor.hear(m.Finished).execution == full.execution
    flush = supervisor.hear(m.Flush)
    supervisor.say(m.Verdict(ask.seq, "go on"))  # asked before them: tells nothing of the reports
    done = supervisor.hear(m.StepDone)
    assert done.execution == waiting.execution
    assert len(supervisor.reports()) == 2
    assert begun(supervisor, full)
    supervisor.say(m.Flushed(flush.seq))
    supervisor.wait_for(lambda: not begun(supervisor, full))
    assert supervisor.reports() == []


def test_the_runner_dies_of_sigterm(supervisor: FakeSupervisor) -> None:
    """As any runner; its recorder tells who was inside."""
    assignments = [supervisor.assign("waits") for _ in range(3)]
    supervisor.wait_for(lambda: all(begun(supervisor, one) for one in assignments))
    supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.wait() == -signal.SIGTERM
    assert all(begun(supervisor, one) for one in assignments)
