"""A runner's life: birth, work given back, death, and what the flight recorder tells after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from fake_supervisor import SECRET, FakeSupervisor

from conductor_protocol import messages as m
from conftest import StartRunner

# Birth


def test_both_channels_say_hello_with_the_secret(start: StartRunner) -> None:
    """``welcome`` checks version, secret and process; the secret is in neither arguments nor environment."""
    supervisor = start().welcome()
    process = psutil.Process(supervisor.process.pid)
    assert SECRET.decode() not in str(process.environ())
    assert process.cmdline()[1:] == ["-m", "conductor.child", "run"]


def test_no_hello_comes_before_the_app_is_imported(start: StartRunner) -> None:
    """An app that cannot be imported ends its runner, with the error on stderr."""
    supervisor = start("no_such_app")
    assert supervisor.wait() == 2
    assert b'has no attribute "no_such_app"; write' in supervisor.stderr()
    assert not supervisor.socket.poll(0)


def test_a_lifespan_that_raises_ends_the_runner_before_its_hello(start: StartRunner) -> None:
    """So the supervisor knows that it never was ready."""
    supervisor = start("broken_lifespan")
    assert supervisor.wait() == 1
    assert b"RuntimeError: no database today" in supervisor.stderr()
    assert not supervisor.socket.poll(0)


@pytest.mark.parametrize("attribute", ["broken_lifespan", "broken_async_lifespan", "broken_teardown"])
def test_what_a_lifespan_raises_is_told_by_the_users_frames_alone(start: StartRunner, attribute: str) -> None:
    """Not by ours, nor by those of Python's modules between."""
    supervisor = start(attribute)
    if attribute == "broken_teardown":
        supervisor.welcome().say(m.Stop())
    assert supervisor.wait() == 1
    header, place, _, *_, raised = supervisor.stderr().decode().splitlines()
    assert header == "Traceback (most recent call last):"
    assert "sample_app.py" in place
    assert raised.startswith("RuntimeError: no ")


@pytest.mark.parametrize("attribute", ["yields_twice", "yields_twice_async", "yields_never"])
def test_a_lifespan_that_does_not_yield_once_is_told_what_is_expected(
    start: StartRunner, attribute: str
) -> None:
    """With the place of its function, and no traceback."""
    supervisor = start(attribute)
    if attribute != "yields_never":
        supervisor.welcome().say(m.Stop())
    assert supervisor.wait() == 1
    (said,) = supervisor.stderr().decode().splitlines()
    assert said.startswith("@app.lifespan: expected a function that yields once, got ")
    assert "sample_app.py" in said


def test_the_heartbeat_goes_on_while_a_handler_computes(start: StartRunner) -> None:
    """The control thread keeps it, as often as the welcome says."""
    supervisor = start().welcome()
    supervisor.assign("hang")
    supervisor.wait_for((supervisor.folder / "touched").exists)
    for _ in range(3):
        supervisor.hear(m.Heartbeat, "control")


# Work in hand


def test_work_is_done_in_order(supervisor: FakeSupervisor) -> None:
    """One after another, reported one after another."""
    work = [supervisor.assignment("echo") for _ in range(50)]
    supervisor.say(m.Assign(work))
    assert [supervisor.hear(m.Finished).execution for _ in work] == [one.execution for one in work]


def test_a_recall_gives_back_what_has_not_begun(start: StartRunner) -> None:
    """Also what still lies unread in the socket, and never what runs."""
    supervisor = start().welcome()
    running, *rest = (supervisor.assignment("waits-for-stop") for _ in range(4))
    supervisor.say(m.Assign([running, rest[0]]))
    supervisor.wait_for((supervisor.folder / "touched").exists)
    supervisor.say(m.Assign(rest[1:]))
    given_back: list[tuple[str, int]] = []
    while len(given_back) < len(rest):
        supervisor.say(m.Recall(), channel="control")
        given_back += supervisor.hear(m.Returned, "control").executions
    assert given_back == [(one.execution, one.claim) for one in rest]
    supervisor.say(m.Cancel(running.execution, running.claim), channel="control")
    assert supervisor.hear(m.Finished).execution == running.execution


def test_a_recall_reads_the_socket_though_a_handler_that_has_asked_blocks_its_event_loop(
    start: StartRunner,
) -> None:
    """What is behind it goes elsewhere, and the answer, which was read with it, is not lost."""
    supervisor = start().welcome()
    running, behind, unread = (
        supervisor.assignment(task) for task in ("blocks-while-it-asks", "echo", "echo")
    )
    supervisor.say(m.Assign([running, behind]))
    supervisor.wait_for((supervisor.folder / "touched").exists)
    supervisor.answer_ask()
    supervisor.say(m.Assign([unread]))
    given_back: list[tuple[str, int]] = []
    while len(given_back) < 2:
        supervisor.say(m.Recall(), channel="control")
        given_back += supervisor.hear(m.Returned, "control").executions
    assert given_back == [(one.execution, one.claim) for one in (behind, unread)]
    (supervisor.folder / "go").touch()
    supervisor.acknowledge()
    assert supervisor.hear(m.Finished).execution == running.execution


def test_a_recall_with_nothing_in_hand_gives_back_nothing(supervisor: FakeSupervisor) -> None:
    """And the runner still takes work afterwards."""
    supervisor.say(m.Recall(), channel="control")
    assert supervisor.hear(m.Returned, "control").executions == []
    supervisor.assign("echo")
    supervisor.hear(m.Finished)


def test_a_report_waits_for_a_short_execution_that_follows(start: StartRunner) -> None:
    """They travel together. If the next turns out long, a recall lets it leave."""
    supervisor = start().welcome()
    done, long = (supervisor.assignment(task, short=True) for task in ("echo", "waits-for-stop"))
    supervisor.say(m.Assign([done, long]))
    supervisor.wait_for((supervisor.folder / "touched").exists)
    assert not supervisor.says_anything()
    assert [report.execution for report in supervisor.reports()] == [done.execution]
    supervisor.say(m.Recall(), channel="control")
    supervisor.hear(m.Returned, "control")
    assert supervisor.hear(m.Finished).execution == done.execution
    supervisor.say(m.Cancel(long.execution, long.claim), channel="control")
    assert supervisor.hear(m.Finished).execution == long.execution


def test_a_report_does_not_wait_for_an_execution_that_may_be_long(start: StartRunner) -> None:
    """So nobody who awaits a result does."""
    supervisor = start().welcome()
    done, long = supervisor.assignment("echo"), supervisor.assignment("waits-for-stop")
    supervisor.say(m.Assign([done, long]))
    assert supervisor.hear(m.Finished).execution == done.execution
    supervisor.wait_for((supervisor.folder / "touched").exists)
    supervisor.say(m.Cancel(long.execution, long.claim), channel="control")
    assert supervisor.hear(m.Finished).execution == long.execution


def test_a_report_that_waits_leaves_before_the_next_question(start: StartRunner) -> None:
    """Who has its answer knows that all reports before it have arrived."""
    supervisor = start().welcome()
    done, asks = supervisor.assignment("echo"), supervisor.assignment("checkpoints", b"1", short=True)
    supervisor.say(m.Assign([done, asks]))
    assert supervisor.hear(m.Finished).execution == done.execution
    supervisor.answer_ask()
    assert supervisor.hear(m.Finished).execution == asks.execution


def test_stop_ends_a_runner_after_what_is_in_hand(start: StartRunner) -> None:
    """It says goodbye and exits with 0."""
    supervisor = start().welcome()
    supervisor.say(m.Assign([supervisor.assignment("echo") for _ in range(3)]), m.Stop())
    for _ in range(3):
        supervisor.hear(m.Finished)
    supervisor.hear(m.Goodbye, "control")
    assert supervisor.wait() == 0


# Lifespan


@pytest.mark.parametrize(
    ("attribute", "task", "expected"),
    [("lasting", "uses-state", {"pool": "open"}), ("lasting_async", "uses-async-state", "fed")],
)
def test_what_the_lifespan_yields_is_the_state(
    start: StartRunner, attribute: str, task: str, expected: object
) -> None:
    """It is set up once for the runner, and torn down when the runner stops."""
    supervisor = start(attribute).welcome()
    for _ in range(2):
        supervisor.assign(task)
        assert json.loads(supervisor.hear(m.Finished).result) == expected
    assert supervisor.stop() == 0
    assert (supervisor.folder / "touched").read_text().split("\n")[-2] == "torn down"


# Signals and output


def test_ctrl_c_does_not_concern_a_runner(start: StartRunner) -> None:
    """The supervisor gets it too, and decides."""
    supervisor = start().welcome()
    supervisor.process.send_signal(signal.SIGINT)
    supervisor.assign("echo")
    supervisor.hear(m.Finished)


def test_sigterm_ends_a_runner(start: StartRunner) -> None:
    """As it ends any process."""
    supervisor = start().welcome()
    supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.wait() == -signal.SIGTERM


def test_output_is_flushed_when_an_execution_ends(start: StartRunner) -> None:
    """Also without a newline. Log lines carry their stamp."""
    supervisor = start().welcome()
    assignment = supervisor.assign("prints", b'"no newline"')
    supervisor.hear(m.Finished)
    assert os.read(supervisor.process.stdout.fileno(), 1000).decode() == "no newline"  # type: ignore[union-attr]
    logged = os.read(supervisor.process.stderr.fileno(), 1000).decode()  # type: ignore[union-attr]
    assert logged == f"INFO [prints {assignment.execution} attempt 1] logged\n"


# Deaths and the recorder


def test_a_death_in_a_step_is_read_from_the_recorder(start: StartRunner) -> None:
    """Execution, claim and step; and faulthandler's stacks are on stderr."""
    supervisor = start().welcome()
    assignment = supervisor.assign("segfault")
    supervisor.allow_step()

    def is_dead() -> bool:
        """A slow machine makes it ask before the step in which it dies."""
        if supervisor.socket.poll(0):
            supervisor.answer_ask()
        return supervisor.process.poll() is not None

    supervisor.wait_for(is_dead)
    assert supervisor.wait() == -signal.SIGSEGV
    reading = supervisor.reading()
    assert (reading.execution, reading.claim) == (assignment.execution, assignment.claim)
    assert (reading.phase, reading.step) == ("step", "read address zero")
    assert reading.started <= reading.step_started
    assert b"Fatal Python error: Segmentation fault" in supervisor.stderr()


def test_a_death_between_steps_blames_the_execution_that_ran(start: StartRunner) -> None:
    """Of several in hand; the reports of those before it are in the outbox, those after it had not begun."""
    supervisor = start().welcome()
    done, dies, waits = (supervisor.assignment(task) for task in ("echo", "vanish", "echo"))
    supervisor.say(m.Assign([done, dies, waits]))
    assert supervisor.wait() == 5
    reading = supervisor.reading()
    assert (reading.phase, reading.execution, reading.step) == ("handler", dies.execution, None)
    assert [report.execution for report in supervisor.reports()] == [done.execution]


def test_the_recorder_says_idle_between_executions(start: StartRunner) -> None:
    """Nobody is to blame for what happens then."""
    supervisor = start().welcome()
    supervisor.assign("echo")
    supervisor.hear(m.Finished)
    supervisor.wait_for(lambda: supervisor.reading().phase == "idle")


def test_the_recorder_says_which_of_several_steps_began_last(start: StartRunner) -> None:
    """Steps in ``gather`` share the record; when the last has ended, the handler is on it again."""
    supervisor = start().welcome()
    supervisor.assign("gathered", b"2")
    for _ in range(2):
        ask = supervisor.hear(m.Ask)
        supervisor.say(m.Verdict(ask.seq, "go on"))
    first, second = supervisor.hear(m.StepDone), supervisor.hear(m.StepDone)
    assert supervisor.reading().step == second.name
    supervisor.say(m.StepAck(second.seq, "go on"))
    supervisor.wait_for(lambda: supervisor.reading().step == first.name)
    supervisor.say(m.StepAck(first.seq, "go on"))
    supervisor.hear(m.Finished)


def test_reports_are_kept_until_a_later_request_is_answered(start: StartRunner) -> None:
    """The answer proves that they have arrived: both travel on one channel, in order."""
    supervisor = start().welcome()
    first = supervisor.assign("echo")
    supervisor.hear(m.Finished)
    assert [report.execution for report in supervisor.reports()] == [first.execution]
    supervisor.assign("checkpoints", b"2")
    supervisor.answer_ask()
    ask = supervisor.hear(m.Ask)
    assert supervisor.reports() == []
    supervisor.say(m.Verdict(ask.seq, "go on"))
    supervisor.hear(m.Finished)


def test_a_full_outbox_is_emptied_by_a_flush(start: StartRunner) -> None:
    """A report that does not fit is sent, and its arrival awaited before the next execution begins."""
    supervisor = start().welcome()
    large = supervisor.assignment("large", b"100000")
    supervisor.say(m.Assign([large, supervisor.assignment("echo")]))
    assert len(supervisor.hear(m.Finished).result) == 100_002
    flush = supervisor.hear(m.Flush)
    assert supervisor.reading().execution == large.execution
    supervisor.say(m.Flushed(flush.seq))
    supervisor.hear(m.Finished)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many are in a group so simply")
def test_the_end_of_the_lifeline_kills_the_whole_group(start: StartRunner) -> None:
    """The supervisor is gone: nobody waits for the runner, nor for what its handlers have started."""
    supervisor = start().welcome()
    supervisor.assign("starts-a-process")
    child = psutil.Process(json.loads(supervisor.hear(m.Finished).result))
    supervisor.assign("hang")
    supervisor.wait_for((supervisor.folder / "touched").exists)
    supervisor.close_lifeline()
    assert supervisor.wait() == -signal.SIGKILL
    supervisor.wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_runner_whose_supervisor_never_answers_ends_with_it(start: StartRunner) -> None:
    """It waits for the welcome, but not longer than the supervisor lives."""
    supervisor = start()
    supervisor.hear(m.Hello, "control")
    supervisor.close_lifeline()
    assert supervisor.wait() == -signal.SIGKILL


def test_started_by_hand_it_says_what_to_write(tmp_path: Path) -> None:
    """It is no command for people."""
    ended = subprocess.run(
        [sys.executable, "-m", "conductor.child"], capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == 2
    assert "conductor-supervisor start" in ended.stderr
