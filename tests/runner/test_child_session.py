"""What a runner does with executions, one after another: reports, steps, releases."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fake_supervisor import FakeSupervisor
from msgspec import Raw

from conductor_protocol import messages as m
from conductor_protocol.codec import pack_json, unpack_operation
from conductor_protocol.operations import GetOutcome, Invoked, InvokeMany, Outcome
from conftest import StartRunner

MOMENT = 1_700_000_000_000_000

BOTH = pytest.mark.parametrize("suffix", ["", "-async"])
"""The fact holds for sync and async handlers."""


def result_of(supervisor: FakeSupervisor) -> object:
    """Hear that the handler returned, and return its result."""
    return json.loads(supervisor.hear(m.Finished).result)


# Endings


@BOTH
def test_a_handler_that_returns_is_reported_with_its_result(supervisor: FakeSupervisor, suffix: str) -> None:
    """The result is JSON; event and context say what the assignment said."""
    assignment = supervisor.assign(f"echo{suffix}", b'{"a": 1}', attempt=2)
    finished = supervisor.hear(m.Finished)
    assert (finished.execution, finished.claim) == (assignment.execution, assignment.claim)
    assert json.loads(finished.result)[0] == {"a": 1}
    assert json.loads(finished.result)[-2:] == [2, f"echo{suffix}"]


def test_the_event_of_a_schedule_tells_its_firing(supervisor: FakeSupervisor) -> None:
    """``event.name`` is the schedule's, ``event.scheduled_for`` an aware moment."""
    supervisor.assign("echo", event="nightly", scheduled_for=MOMENT)
    assert result_of(supervisor)[1:3] == ["nightly", "2023-11-14T22:13:20Z"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("how", "kind", "message", "retryable"),
    [
        ("value", "ValueError", "no good", True),
        ("unicode", "UnicodeError", "no text", False),
        ("type", "TypeError", "not retried", False),
        ("fail", "conductor.errors.Fail", "for good", False),
        ("later", "conductor.errors.RetryAfter", "try again after 30s", True),
        ("exit", "SystemExit", "3", False),
        ("interrupt", "KeyboardInterrupt", "", False),
        ("mute", "sample_app.Mute", "(its text cannot be told: __str__ raised ValueError)", False),
        ("surrogate", "ValueError", "\\ud800 and \\x00", True),
    ],
)
def test_a_handler_that_raises_is_reported_with_its_exception(
    supervisor: FakeSupervisor, how: str, kind: str, message: str, retryable: bool
) -> None:
    """The runner goes on, whatever was raised; ``on`` and ``never_on`` decide whether a retry makes sense."""
    supervisor.assign("fail", json.dumps(how).encode())
    failed = supervisor.hear(m.Failed)
    assert (failed.failure.type, failed.failure.message, failed.retryable) == (kind, message, retryable)
    assert failed.retry_after == (30 if how == "later" else None)
    supervisor.assign("echo")
    supervisor.hear(m.Finished)


def test_a_traceback_shows_the_users_code_only(supervisor: FakeSupervisor) -> None:
    """Conductor's own frames are left out, also of causes."""
    supervisor.assign("fail", b'"cause"')
    traceback = supervisor.hear(m.Failed).failure.traceback
    assert 'raise ValueError("outer") from error' in traceback
    assert "KeyError: 'missing'" in traceback
    assert "session.py" not in traceback


def test_a_payload_that_does_not_fit_fails_for_good(supervisor: FakeSupervisor) -> None:
    """No further attempt would make it fit."""
    supervisor.assign("typed", b'{"x": "one"}')
    failed = supervisor.hear(m.Failed)
    assert not failed.retryable
    assert failed.failure.type == "conductor.errors.PayloadMismatch"
    assert "Expected `int`, got `str` - at `$.x`" in failed.failure.message


def test_an_unknown_task_may_be_retried(supervisor: FakeSupervisor) -> None:
    """Other code may know it."""
    supervisor.assign("of-tomorrow")
    failed = supervisor.hear(m.Failed)
    assert failed.retryable
    assert "of-tomorrow" in failed.failure.message


def test_a_result_without_a_form_in_json_fails_the_attempt(supervisor: FakeSupervisor) -> None:
    """The message names the type and what to return instead."""
    supervisor.assign("unstorable")
    message = supervisor.hear(m.Failed).failure.message
    assert "the result of task unstorable, of type object, cannot be stored as JSON" in message
    assert "dataclasses" in message


@pytest.mark.parametrize(
    ("task", "what"), [("large", "the result of task large"), ("large-step", 'the result of step "large"')]
)
def test_a_result_that_is_too_large_says_what_to_do(start: StartRunner, task: str, what: str) -> None:
    """Size, limit, and the two ways out."""
    supervisor = start(max_result=1000).welcome()
    supervisor.assign(task, b"2000")
    if task == "large-step":
        supervisor.answer_ask()
    message = supervisor.hear(m.Failed).failure.message
    assert f"{what} has 2,002 bytes as JSON; at most 1,000" in message
    assert "return a reference" in message
    assert "max_result" in message


def test_a_sync_handler_that_returns_a_coroutine_is_told_so(supervisor: FakeSupervisor) -> None:
    """Nobody would await it."""
    supervisor.assign("not-async")
    assert "async def" in supervisor.hear(m.Failed).failure.message


# Steps


@BOTH
def test_a_step_asks_runs_and_waits_for_its_acknowledgement(supervisor: FakeSupervisor, suffix: str) -> None:
    """Ask, StepDone, StepAck; nothing is sent before the answer to what came before."""
    supervisor.assign(f"two-steps{suffix}", attempt=3)
    assert supervisor.answer_ask().step == "one"
    done = supervisor.acknowledge()
    assert (done.name, done.result, done.attempt) == ("one", b"1", 3)
    assert supervisor.allow_step().name == "two"
    assert result_of(supervisor) == [1, 2]


@BOTH
def test_a_recorded_step_does_not_run(supervisor: FakeSupervisor, suffix: str) -> None:
    """Its recorded result is returned, without a message."""
    supervisor.assign(f"two-steps{suffix}", steps=[("one", b"7")])
    assert supervisor.answer_ask().step == "two"
    supervisor.acknowledge()
    assert result_of(supervisor) == [7, 2]


def test_a_result_is_the_same_in_the_first_run_and_in_a_replay(supervisor: FakeSupervisor) -> None:
    """It always takes the way through JSON: typed where annotated, plain where not."""
    supervisor.assign("typed-steps")
    steps = [(done.name, done.result) for done in (supervisor.allow_step() for _ in range(3))]
    first = result_of(supervisor)
    supervisor.assign("typed-steps", steps=steps)
    assert result_of(supervisor) == first
    assert first[1:] == ["(1, 2)", "[1, 2]"]  # type: ignore[index]


def test_a_recorded_result_that_no_longer_fits_is_a_loud_error(supervisor: FakeSupervisor) -> None:
    """It names the step and the path."""
    supervisor.assign("typed-steps", steps=[("moment", b'"2024-01-01T00:00:00Z"'), ("pair", b'[1, "x"]')])
    failure = supervisor.hear(m.Failed).failure
    assert failure.type == "conductor.errors.ResultMismatch"
    assert 'step "pair"' in failure.message
    assert "$[1]" in failure.message


@BOTH
def test_a_result_that_does_not_fit_its_annotation_is_not_recorded(
    supervisor: FakeSupervisor, suffix: str
) -> None:
    """It could never be read again: the attempt fails, and the next one runs the step."""
    supervisor.assign(f"misfit-step{suffix}")
    supervisor.answer_ask()
    failure = supervisor.hear(m.Failed).failure
    assert failure.type == "conductor.errors.ResultMismatch"
    assert 'the result of step "count" does not fit the return annotation of half, ' in failure.message
    assert "Expected `int`, got `float`. Return what the annotation says" in failure.message


def test_a_tasks_result_that_does_not_fit_its_annotation_fails_the_attempt(
    supervisor: FakeSupervisor,
) -> None:
    """No client could read it."""
    supervisor.assign("misfit")
    failure = supervisor.hear(m.Failed).failure
    assert failure.type == "conductor.errors.ResultMismatch"
    assert "the result of task misfit does not fit its return annotation" in failure.message


@BOTH
def test_a_step_whose_result_could_be_one_of_two_kinds_does_not_begin(
    supervisor: FakeSupervisor, suffix: str
) -> None:
    """Its function is not called, and nothing is asked."""
    supervisor.assign(f"ambiguous-step{suffix}")
    failure = supervisor.hear(m.Failed).failure
    assert failure.type == "conductor_protocol.errors.UsageError"
    assert 'step "either" cannot call either: the annotation datetime.datetime | str' in failure.message


def test_a_second_step_of_one_name_is_an_error(supervisor: FakeSupervisor) -> None:
    """It is never a silent old result."""
    supervisor.assign("same-name")
    supervisor.allow_step()
    assert supervisor.hear(m.Failed).failure.type == "conductor.errors.DuplicateStep"


def test_a_step_that_an_async_handler_never_awaits_fails_the_attempt(supervisor: FakeSupervisor) -> None:
    """Nothing was done, so it has not finished."""
    supervisor.assign("forgets-to-await")
    failure = supervisor.hear(m.Failed).failure
    assert failure.type == "conductor_protocol.errors.UsageError"
    assert failure.message == 'step "charge the card" was never awaited; write: await ctx.step(...)'


@pytest.mark.parametrize("name", ["s", "x" * 500, "名前 \U0001f600 'quoted'\n"])
def test_a_step_name_may_be_any_text(supervisor: FakeSupervisor, name: str) -> None:
    """From 1 to 500 characters."""
    supervisor.assign("named", json.dumps(name).encode())
    assert supervisor.allow_step().name == name
    supervisor.hear(m.Finished)


@pytest.mark.parametrize("name", ["", "x" * 501, "a\0"])
def test_a_step_name_that_is_none_is_refused(supervisor: FakeSupervisor, name: str) -> None:
    """Before anything is asked."""
    supervisor.assign("named", json.dumps(name).encode())
    assert supervisor.hear(m.Failed).failure.type == "conductor_protocol.errors.UsageError"


def test_a_step_name_that_is_no_text_is_refused(supervisor: FakeSupervisor) -> None:
    """Before anything is asked or called: no database and no message could hold it."""
    supervisor.assign("named-by-half-a-pair")
    failure = supervisor.hear(m.Failed).failure
    assert failure.type == "conductor_protocol.errors.UsageError"
    assert "a name that can be written as UTF-8, got 'half a pair \\ud800'" in failure.message


def test_a_refused_step_fails_the_attempt(supervisor: FakeSupervisor) -> None:
    """With the supervisor's reason."""
    supervisor.assign("two-steps")
    supervisor.answer_ask()
    done = supervisor.hear(m.StepDone)
    supervisor.say(m.StepRefused(done.seq, "the name is cursed"))
    failure = supervisor.hear(m.Failed).failure
    assert (failure.type, failure.message) == (
        "conductor.errors.StepRefused",
        'step "one" cannot be recorded: the name is cursed',
    )


def serve_pages(
    supervisor: FakeSupervisor, recorded: list[tuple[str, bytes]], page: int
) -> tuple[m.Finished, int, int]:
    """Answer as a supervisor would until the handler returns; count the pages, and the steps in them."""
    names = [name for name, _ in recorded]
    pages = sent = 0
    while not isinstance(message := supervisor.next_message(), m.Finished):
        if isinstance(message, m.Ask):
            assert message.step is None, "a recorded step must not run"
            supervisor.say(m.Verdict(message.seq, "go on"))
            continue
        assert isinstance(message, m.LoadSteps), message
        first = 0 if message.after is None else names.index(message.after) + 1
        steps = [m.RecordedStep(*step) for step in recorded[first : first + page]]
        supervisor.say(m.StepPage(message.seq, steps, "go on"))
        pages += 1
        sent += len(steps)
    return message, pages, sent


@pytest.mark.parametrize("task", ["count-to", "count-down-from", "gathered", "threaded"])
def test_ten_thousand_recorded_steps_are_loaded_once(supervisor: FakeSupervisor, task: str) -> None:
    """In recorded order, in reverse, all at once, from threads: each page is asked for once, in order."""
    recorded = [(f"step-{number}", str(number).encode()) for number in range(10_000)]
    supervisor.assign(task, b"10000", steps=recorded[:100], recorded=10_000)
    finished, pages, sent = serve_pages(supervisor, recorded, 500)
    assert (pages, sent) == (20, 9_900)
    assert json.loads(finished.result) == sum(range(10_000))


def test_in_recorded_order_pages_are_loaded_as_they_are_reached(supervisor: FakeSupervisor) -> None:
    """So that not every result is in memory at once."""
    recorded = [(f"step-{number}", str(number).encode()) for number in range(1_000)]
    supervisor.assign("count-to", b"250", recorded=1_000)
    _, pages, _ = serve_pages(supervisor, recorded, 100)
    assert pages == 3


def test_what_the_attempt_records_itself_is_not_taken_for_an_earlier_step(supervisor: FakeSupervisor) -> None:
    """A page may end with it: the count of recorded steps tells where the earlier ones end."""
    supervisor.assign("count-to", b"2", recorded=1)
    load = supervisor.hear(m.LoadSteps)
    page = [m.RecordedStep("old", b"7"), m.RecordedStep("step-1", b"70")]
    supervisor.say(m.StepPage(load.seq, page, "go on"))
    assert [supervisor.allow_step().name for _ in range(2)] == ["step-0", "step-1"]
    assert result_of(supervisor) == 1


def test_no_page_is_asked_for_once_all_are_loaded(supervisor: FakeSupervisor) -> None:
    """The assignment says how many recorded steps there are."""
    supervisor.assign("count-to", b"3", steps=[("step-0", b"0")], recorded=2)
    load = supervisor.hear(m.LoadSteps)
    assert load.after == "step-0"
    supervisor.say(m.StepPage(load.seq, [m.RecordedStep("step-1", b"1")], "go on"))
    assert supervisor.allow_step().name == "step-2"
    assert result_of(supervisor) == 3


def test_a_step_that_no_page_has_runs(supervisor: FakeSupervisor) -> None:
    """All recorded ones are loaded then, and nothing is asked for again; the code has changed."""
    supervisor.assign("count-to", b"2", steps=[("old", b"0")], recorded=2)
    load = supervisor.hear(m.LoadSteps)
    supervisor.say(m.StepPage(load.seq, [m.RecordedStep("older", b"0")], "go on"))
    for _ in range(2):
        supervisor.allow_step()
    assert result_of(supervisor) == 1


def test_steps_that_wait_for_one_page_are_released_together(supervisor: FakeSupervisor) -> None:
    """Those behind the first do not ask for a page of their own."""
    supervisor.assign("gathered", b"50", recorded=100)
    load = supervisor.hear(m.LoadSteps)
    supervisor.say(m.StepPage(load.seq, [], "window"))
    assert supervisor.hear(m.Released).word == "window"


def test_a_page_that_says_release_releases(supervisor: FakeSupervisor) -> None:
    """The word that comes with a page counts like any other."""
    supervisor.assign("count-to", b"2", recorded=2)
    load = supervisor.hear(m.LoadSteps)
    supervisor.say(m.StepPage(load.seq, [], "window"))
    assert supervisor.hear(m.Released).word == "window"


def test_a_coroutine_from_a_step_of_a_sync_handler_is_an_error(supervisor: FakeSupervisor) -> None:
    """The message says how to write it."""
    supervisor.assign("unawaited-step")
    supervisor.answer_ask()
    assert "await ctx.step" in supervisor.hear(m.Failed).failure.message


def test_a_step_with_retry_is_tried_again_within_the_attempt(supervisor: FakeSupervisor) -> None:
    """It asks before each try, with the step's timeout."""
    supervisor.assign("flaky", b"2")
    for _ in range(3):
        ask = supervisor.answer_ask()
        assert (ask.step, ask.timeout) == ("flaky", 5)
    supervisor.acknowledge()
    assert result_of(supervisor) == 42


def test_a_step_that_has_used_up_its_tries_fails_the_attempt(supervisor: FakeSupervisor) -> None:
    """With the last exception."""
    supervisor.assign("flaky", b"3")
    for _ in range(3):
        supervisor.answer_ask()
    assert supervisor.hear(m.Failed).failure.message == "failure 2"


@pytest.mark.parametrize("task", ["flaky-slowly", "flaky-async"])
def test_a_wait_between_tries_ends_at_once_when_a_stop_is_wanted(
    supervisor: FakeSupervisor, touched: Path, task: str
) -> None:
    """An hour's wait does not hold up a release: the next try asks, and is released."""
    assignment = supervisor.assign(task)
    supervisor.answer_ask()
    supervisor.wait_for(touched.exists)
    supervisor.say(m.WindowClosed(assignment.execution, assignment.claim), channel="control")
    supervisor.answer_ask("shutdown")
    assert supervisor.hear(m.Released).word == "shutdown"


# Checkpoints and releases


@BOTH
@pytest.mark.parametrize("word", ["shutdown", "window", "cancelled"])
def test_a_verdict_releases_the_handler(supervisor: FakeSupervisor, suffix: str, word: m.Word) -> None:
    """The report carries the word, and the runner goes on."""
    supervisor.assign(f"checkpoints{suffix}", b"3")
    supervisor.answer_ask()
    supervisor.answer_ask(word)
    assert supervisor.hear(m.Released).word == word
    supervisor.assign("echo")
    supervisor.hear(m.Finished)


@BOTH
def test_an_abandoned_execution_is_not_reported(supervisor: FakeSupervisor, suffix: str) -> None:
    """Somebody else runs it now."""
    supervisor.assign(f"checkpoints{suffix}", b"3")
    supervisor.answer_ask("abandon")
    assignment = supervisor.assign("echo")
    assert supervisor.hear(m.Finished).execution == assignment.execution


def test_a_release_unwinds_past_except_exception(supervisor: FakeSupervisor, touched: Path) -> None:
    """``finally`` runs, ``except Exception`` does not."""
    supervisor.assign("cleans-up")
    supervisor.answer_ask("shutdown")
    supervisor.hear(m.Released)
    assert touched.read_text().split("\n")[:-1] == ["cleaned up"]


def test_a_release_that_is_swallowed_is_raised_again(supervisor: FakeSupervisor, touched: Path) -> None:
    """At the next call, without asking; a handler that returns all the same has finished."""
    supervisor.assign("swallows")
    supervisor.answer_ask("shutdown")
    assert result_of(supervisor) == "returned all the same"
    assert touched.read_text().split() == ["Released", "Released"]


def test_a_word_that_comes_with_an_acknowledgement_is_heeded_at_the_next_call(
    supervisor: FakeSupervisor,
) -> None:
    """The step that was recorded returns its result; the next call raises without asking."""
    supervisor.assign("two-steps")
    supervisor.allow_step("shutdown")
    assert supervisor.hear(m.Released).word == "shutdown"


def test_a_release_in_a_task_group_is_a_release(supervisor: FakeSupervisor) -> None:
    """A group of exceptions hides nothing."""
    supervisor.assign("grouped")
    supervisor.answer_ask("window")
    assert supervisor.hear(m.Released).word == "window"


def test_a_step_in_progress_beside_a_release_is_recorded(supervisor: FakeSupervisor) -> None:
    """Otherwise it would have run in vain."""
    supervisor.assign("released-beside-a-step")
    assert supervisor.answer_ask().step == "slow"
    assert supervisor.answer_ask("shutdown").step is None
    assert supervisor.acknowledge("shutdown").name == "slow"
    assert supervisor.hear(m.Released).word == "shutdown"


@pytest.mark.parametrize("push", ["window", "cancel", "shutdown"])
def test_should_stop_is_true_once_a_stop_is_pushed(start: StartRunner, push: str) -> None:
    """While the handler computes, without asking."""
    supervisor = start().welcome()
    touched = supervisor.folder / "touched"
    assignment = supervisor.assign("waits-for-stop")
    supervisor.wait_for(touched.exists)
    pushed: dict[str, m.ToRunner] = {
        "shutdown": m.ShutdownIntent(),
        "window": m.WindowClosed(assignment.execution, assignment.claim),
        "cancel": m.Cancel(assignment.execution, assignment.claim),
    }
    supervisor.say(pushed[push], channel="control")
    assert result_of(supervisor) == "saw it"


def test_a_window_that_opens_again_takes_its_wish_back(start: StartRunner) -> None:
    """What else wants the handler to stop stays: here a cancellation that came meanwhile."""
    supervisor = start().welcome()
    touched = supervisor.folder / "touched"
    assignment = supervisor.assign("tells-of-stop")
    held = (assignment.execution, assignment.claim)
    told = ["False"]
    supervisor.wait_for(lambda: touched.exists() and touched.read_text().split() == told)
    for push, should_stop in (
        (m.WindowClosed(*held), "True"),
        (m.WindowOpened(*held), "False"),
        (m.WindowClosed(*held), "True"),
    ):
        supervisor.say(push, channel="control")
        told.append(should_stop)
        supervisor.wait_for(lambda: touched.read_text().split() == told)
    supervisor.say(m.Cancel(*held), m.WindowOpened(*held), channel="control")
    supervisor.answer_ask("cancelled")
    assert supervisor.hear(m.Released).word == "cancelled"
    assert touched.read_text().split() == told


def test_a_push_for_another_claim_does_not_stop(supervisor: FakeSupervisor) -> None:
    """Recorded steps go on replaying without asking."""
    first = supervisor.assignment("checkpoints", b"1")
    supervisor.say(m.Assign([first]))
    ask = supervisor.hear(m.Ask)
    supervisor.say(m.Cancel(first.execution, first.claim + 1), channel="control")
    supervisor.hear(m.Heartbeat, "control")
    supervisor.say(m.Verdict(ask.seq, "go on"))
    supervisor.hear(m.Finished)


# Concurrency within a handler


def test_steps_in_gather_are_matched_to_their_replies(supervisor: FakeSupervisor) -> None:
    """Even when the replies come in the reverse order."""
    supervisor.assign("gathered", b"20")
    asks = [supervisor.hear(m.Ask) for _ in range(20)]
    supervisor.say(*(m.Verdict(ask.seq, "go on") for ask in reversed(asks)))
    done = [supervisor.hear(m.StepDone) for _ in range(20)]
    supervisor.say(*(m.StepAck(one.seq, "go on") for one in reversed(done)))
    assert result_of(supervisor) == sum(range(20))


def test_threads_of_a_sync_handler_may_run_steps(supervisor: FakeSupervisor) -> None:
    """One asks at a time."""
    supervisor.assign("threaded", b"20")
    while not isinstance(message := supervisor.next_message(), m.Finished):
        if isinstance(message, m.Ask):
            supervisor.say(m.Verdict(message.seq, "go on"))
        else:
            assert isinstance(message, m.StepDone)
            supervisor.say(m.StepAck(message.seq, "go on"))
    assert json.loads(message.result) == sum(range(20))


def test_a_task_that_an_async_handler_leaves_behind_is_cancelled(
    supervisor: FakeSupervisor, touched: Path
) -> None:
    """Before the attempt is reported."""
    supervisor.assign("leaves-a-task-behind")
    supervisor.hear(m.Finished)
    assert touched.read_text() == "cancelled\n"


def test_a_thread_that_a_handler_leaves_behind_cannot_speak_in_its_name(
    supervisor: FakeSupervisor, touched: Path
) -> None:
    """Its context has ended."""
    supervisor.assign("leaves-a-thread-behind")
    supervisor.hear(m.Finished)
    supervisor.assign("lets-the-thread-go")
    supervisor.hear(m.Finished)
    assert touched.read_text() == "UsageError\n"


# Progress and clients


def test_progress_is_thinned_out_but_the_last_one_comes(supervisor: FakeSupervisor) -> None:
    """A tight loop costs next to nothing."""
    started = time.monotonic()
    supervisor.assign("progresses", b"10000")
    told = []
    while not isinstance(message := supervisor.next_message(), m.Finished):
        assert isinstance(message, m.Progress)
        told.append(message.done)
    assert told[0] == 1
    assert told[-1] == 10_000
    assert len(told) <= 3 + (time.monotonic() - started) * 10


def serve_clients(supervisor: FakeSupervisor) -> m.Finished:
    """Perform operations as a store would, until the handler returns."""
    invoked = 0
    while not isinstance(message := supervisor.next_message(), m.Finished):
        assert isinstance(message, m.Operate), message
        match unpack_operation(message.operation):
            case InvokeMany(executions=new):
                ids = [f"id-{invoked + number}" for number in range(len(new))]
                invoked += len(new)
                answer = pack_json(Invoked(ids, [True] * len(ids)))
            case GetOutcome(id=execution):
                answer = pack_json(Outcome("completed", Raw(json.dumps(execution).encode())))
        supervisor.say(m.Answered(message.seq, answer))
    return message


@BOTH
def test_clients_in_a_runner_go_through_the_supervisor(supervisor: FakeSupervisor, suffix: str) -> None:
    """Sync, async, and from threads; the runner opens no database."""
    supervisor.assign(f"invokes{suffix}")
    result = json.loads(serve_clients(supervisor).result)
    assert result == (["id-0", "id-1", "id-2"] if suffix else ["id-0", "id-1"])
