"""Clients outside a runner: straight to the database, with no supervisor running."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from conductor import (
    Conductor,
    Context,
    Event,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionNotFound,
    Handle,
    Invocation,
    Limit,
    OperationRefused,
    PayloadMismatch,
    ResultMismatch,
    TooLarge,
    UsageError,
)
from conductor.client import Client
from conductor_protocol import operations as answers
from conductor_protocol.operations import (
    Answer,
    ExecutionView,
    Failure,
    GetOutcome,
    NotFound,
    Operation,
    Outcome,
    Refused,
    State,
)


@dataclass
class Point:
    x: int


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Conductor]:
    """An app with a database of its own, closed after the test."""
    with Conductor(f"sqlite:///{tmp_path}/conductor.db") as app:

        @app.task
        def move(event: Event[Point], ctx: Context) -> Point:
            return event.payload

        @app.task
        def keep(event: Event, ctx: Context) -> None: ...

        @app.task(concurrency=Limit(2, key="order.tenant"))
        def sell(event: Event, ctx: Context) -> None: ...

        @app.task(cron="* * * * *")
        def tick(event: Event, ctx: Context) -> None: ...

        yield app


# Invoking


def test_an_invocation_is_stored_with_its_options(app: Conductor) -> None:
    """Payload, priority, key, metadata and due time, as they were given."""
    handle = app.invoke(
        "move", Point(1), delay="1h", priority=7, dedupe_key="one", metadata={"tenant": "acme"}
    )
    view = app.get(handle.id)
    assert (view.task, view.state, view.payload) == ("move", "scheduled", {"x": 1})
    assert (view.priority, view.dedupe_key, view.metadata) == (7, "one", {"tenant": "acme"})
    assert view.due - view.created == timedelta(hours=1)


def test_run_at_names_a_moment(app: Conductor) -> None:
    """It needs a time zone."""
    moment = datetime(2100, 1, 1, tzinfo=UTC)
    assert app.get(app.tasks["move"].invoke(Point(1), run_at=moment).id).due == moment
    with pytest.raises(UsageError, match="run_at: expected a datetime with a time zone, got "):
        app.invoke("move", Point(1), run_at=datetime(2100, 1, 1))  # noqa: DTZ001
    with pytest.raises(UsageError, match="run_at: expected a datetime"):
        app.invoke("move", Point(1), run_at="tomorrow")  # type: ignore[arg-type]


def test_many_are_invoked_in_order(app: Conductor) -> None:
    """Plain payloads and invocations with options of their own."""
    handles = app.invoke_many("move", [{"x": 1}, Invocation(Point(2), priority=1)])
    assert [app.get(handle.id).payload for handle in handles] == [{"x": 1}, {"x": 2}]
    assert app.invoke_many("move", []) == []


def test_a_key_in_use_gives_the_same_execution_back(app: Conductor) -> None:
    """``created`` tells."""
    first, second = (app.invoke("move", Point(1), dedupe_key="k") for _ in range(2))
    assert (first.id, first.created, second.created) == (second.id, True, False)


def test_an_execution_is_counted_under_what_its_payload_says_or_the_caller(app: Conductor) -> None:
    """Before any supervisor has seen the declaration."""
    sold = app.invoke("sell", {"order": {"tenant": "acme"}})
    given = app.invoke("sell", {"order": {"tenant": [1]}}, concurrency_key="mine")
    assert [app.get(handle).concurrency_key for handle in (sold, given)] == ["acme", "mine"]


def test_nothing_is_written_if_one_payload_does_not_fit(app: Conductor) -> None:
    """All or none."""
    with pytest.raises(PayloadMismatch, match=r"\$\.x"):
        app.invoke_many("move", [{"x": 1}, {"x": "two"}])
    assert app.list() == []


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("mov",), {}, "no task 'mov'; did you mean 'move'?"),
        (("unlike",), {}, "it has: keep, move, sell, tick"),
        (("tick",), {}, "task tick is not invocable, because it has another trigger; .* invocable=True"),
        (("move", {"x": 1}), {"priority": 40_000}, "priority: expected a whole number from -32768 to 32767"),
        (("\ud800",), {}, r"invoke\(task\): expected a task or its name"),
        (("move", {"x": 1}), {"dedupe_key": ""}, "dedupe_key: expected 1 to 500 characters"),
        (("sell",), {"concurrency_key": ""}, "concurrency_key: expected 1 to 500 characters"),
        (("sell",), {"concurrency_key": 3}, "concurrency_key: expected 1 to 500 characters of text"),
        (
            ("sell", {"order": {"tenant": [1]}}),
            {},
            r"task sell expects: payload\.order\.tenant: expected text",
        ),
        (("move", {"x": 1}), {"metadata": "tenant"}, "metadata: expected a dict"),
        (("move", {"x": 1}), {"delay": "soon"}, "delay: expected a duration"),
        (("move", {"x": 1}), {"prioritty": 1}, "unknown option 'prioritty' of an invocation"),
    ],
)
def test_a_wrong_invocation_says_what_to_write(
    app: Conductor, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=message):
        app.invoke(*arguments, **options)


def test_one_payload_in_place_of_a_list_is_refused(app: Conductor) -> None:
    """A dict's keys would otherwise become payloads."""
    with pytest.raises(UsageError, match="expected a list of payloads, got 5"):
        app.invoke_many("move", 5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a list of payloads"):
        app.invoke_many("move", {"x": 1})


def test_an_app_without_tasks_invokes_by_any_name(tmp_path: Path) -> None:
    """It is a client of somebody else's tasks, and checks no payload."""
    with Conductor(f"sqlite:///{tmp_path}/conductor.db") as client:
        handle = client.invoke("of-another-app", {"any": "thing"})
        assert client.get(handle.id).task == "of-another-app"


# Looking and changing


def test_list_gives_the_newest_first_in_pages(app: Conductor) -> None:
    """``before`` is the last id of the page before."""
    ids = [app.invoke("move", Point(number)).id for number in range(3)]
    page = app.list(limit=2)
    assert [view.id for view in page] == ids[:0:-1]
    assert [view.id for view in app.list(before=page[-1].id)] == ids[:1]
    assert app.list(state="completed") == []
    assert len(app.list(task="move", state="ready")) == 3


def test_cancel_and_retry_say_whether_they_changed_anything(app: Conductor) -> None:
    """A waiting execution is cancelled at once, and may be retried."""
    handle = app.invoke("move", Point(1))
    assert app.cancel(handle.id, reason="not needed")
    assert handle.state() == "cancelled"
    assert not app.cancel(handle.id)
    assert app.retry(handle.id)
    assert handle.state() == "ready"
    assert not app.retry(handle.id)


@pytest.mark.parametrize("call", ["get", "cancel", "retry", "outcome"])
def test_an_unknown_id_is_an_error(app: Conductor, call: str) -> None:
    """Which names it."""
    with pytest.raises(ExecutionNotFound, match="'nobody'"):
        getattr(app, call)("nobody")


def test_every_call_has_an_async_twin(app: Conductor) -> None:
    """Which does the same."""

    async def calls() -> list[ExecutionView]:
        handle = await app.invoke_async("move", Point(1))
        many = await app.tasks["move"].invoke_many_async([Point(2)])
        assert await many[0].state_async() == "ready"
        assert await app.cancel_async(handle.id)
        assert await app.retry_async(handle.id)
        with pytest.raises(TimeoutError):
            await handle.result_async(timeout=0)
        return [await app.get_async(handle.id), *await app.list_async(limit=1)]

    first, newest = asyncio.run(calls())
    assert (first.payload, newest.payload) == ({"x": 1}, {"x": 2})


# Results


class Scripted(Client):
    """A client whose store gives these answers, one after another."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self._answers = itertools.chain(answers, itertools.repeat(answers[-1]))

    def _performer(self) -> Scripted:  # type: ignore[override]
        return self

    def perform(self, operation: Operation) -> Answer:
        """Give the next answer."""
        assert isinstance(operation, GetOutcome)
        return next(self._answers)


def handle_of(*answers: Answer, annotation: object = Any) -> Handle[Any]:
    """Return the handle of an execution of which the store says this."""
    return Handle(Scripted(*answers), "an-id", True, annotation)


def completed(result: object) -> Outcome:
    """Return the outcome of an execution that returned this."""
    return Outcome("completed", Raw(json.dumps(result).encode()))


def test_a_result_is_awaited_and_typed_by_the_task() -> None:
    """By the task's return annotation."""
    handle = handle_of(Outcome("ready"), Outcome("running"), completed({"x": 1}), annotation=Point)
    assert handle.result() == Point(1)


def test_a_result_that_does_not_fit_is_a_loud_error() -> None:
    """The code that wrote it was another."""
    with pytest.raises(ResultMismatch, match=r"\$\.x"):
        handle_of(completed({"x": "one"}), annotation=Point).result()


def test_a_failed_execution_raises_its_failure() -> None:
    """The exception carries it."""
    failure = Failure(type="ValueError", message="no good")
    with pytest.raises(ExecutionFailed, match="execution an-id failed: ValueError: no good") as caught:
        handle_of(Outcome("failed", error=failure)).result()
    assert caught.value.failure == failure


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Outcome("cancelled"), ExecutionCancelled),
        (NotFound("an-id"), ExecutionNotFound),
        (Refused("the disk is full"), OperationRefused),
        (answers.TooLarge("it is too large"), TooLarge),
    ],
)
def test_other_ends_have_errors_of_their_own(answer: Answer, error: type[Exception]) -> None:
    """Cancelled, removed, or not to be read."""
    with pytest.raises(error):
        handle_of(answer).result()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("running", r"is running, and has not ended within 10 ms; it goes on"),
        ("ready", r"is ready, and has not ended within 10 ms; it has not started, or waits for its next"),
    ],
)
def test_waiting_ends_in_time(state: State, message: str) -> None:
    """The message says where the execution is."""
    with pytest.raises(TimeoutError, match=message):
        handle_of(Outcome(state)).result(timeout=0.01)


def test_waiting_ends_in_time_in_an_event_loop_too(app: Conductor) -> None:
    """With the same message."""
    handle = app.invoke("move", Point(1))
    with pytest.raises(TimeoutError, match="is ready, and has not ended within 10 ms"):
        asyncio.run(handle.result_async(timeout="10ms"))


def test_a_timeout_of_zero_looks_once() -> None:
    """What has ended has a result even then."""
    assert handle_of(completed(1)).result(timeout=0) == 1
    with pytest.raises(TimeoutError):
        handle_of(Outcome("running"), completed(1)).result(timeout=0)


# Limits


def test_a_payload_that_is_too_large_is_refused_at_invoke(app: Conductor) -> None:
    """With the whole batch; the message says what to do."""
    with pytest.raises(
        TooLarge, match=r"has 1,048,577 bytes as JSON; at most 1,048,576 \(1 MiB\) .*reference"
    ):
        app.invoke_many("keep", ["small", "x" * (1024 * 1024 - 1)])
    assert app.list() == []
    app.invoke("keep", "x" * (1024 * 1024 - 2))


def test_the_environment_sets_the_largest_payload(app: Conductor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the operators' setting of that name; what it cannot be is refused."""
    monkeypatch.setenv("CONDUCTOR_MAX_PAYLOAD", "10")
    with pytest.raises(TooLarge, match="has 11 bytes as JSON; at most 10"):
        app.invoke("keep", "123456789")
    app.invoke("keep", "12345678")
    app.close()
    monkeypatch.setenv("CONDUCTOR_MAX_PAYLOAD", "1GiB")
    with pytest.raises(UsageError, match="CONDUCTOR_MAX_PAYLOAD: expected at most 8 MiB"):
        app.invoke("keep", "12345678")


# Processes


def invoke_in_child(app: Conductor) -> None:
    """Use the app in a forked process."""
    app.invoke("move", Point(2))
    app.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_opens_a_connection_of_its_own(app: Conductor) -> None:
    """Web servers fork after they have imported the app."""
    app.invoke("move", Point(1))
    child = multiprocessing.get_context("fork").Process(target=invoke_in_child, args=(app,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert [view.payload for view in app.list()] == [{"x": 2}, {"x": 1}]


# Arguments


def test_an_execution_may_be_named_by_its_handle_or_its_view(app: Conductor) -> None:
    """And a task by itself; the async twins take the same."""
    move = app.tasks["move"]
    first, second = app.invoke_many(move, [Point(1), Point(2)])
    assert app.get(first).id == first.id
    assert [one.id for one in app.list(task=move, before=second)] == [first.id]
    assert app.cancel(first)
    assert app.retry(app.get(first))

    async def the_same() -> None:
        handle = await app.invoke_async(move, Point(3))
        assert (await app.get_async(handle)).id == handle.id
        assert await app.cancel_async(handle, "no more")
        assert await app.retry_async(await app.get_async(handle))
        assert [one.id for one in await app.list_async(task=move, limit=1)] == [handle.id]

    asyncio.run(the_same())


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("get", {"execution": 7}, r"get\(execution\): expected an execution's id as text, or its handle, got 7"),
    ("cancel", {"execution": None}, r"cancel\(execution\): expected .* write handle\.id"),
    ("cancel", {"execution": "a", "reason": 7}, 'reason: expected text such as "wrong customer", got 7'),
    ("retry", {"execution": ["a"]}, r"retry\(execution\): expected an execution's id"),
    ("list", {"task": 7}, r"list\(task\): expected a task or its name"),
    ("list", {"state": "done"}, "state: expected one of scheduled, ready, .*, got 'done'"),
    ("list", {"task": "\ud800"}, r"list\(task\): expected a task or its name, .*, got '.ud800'"),
    ("list", {"before": "\0"}, r"list\(before\): expected an execution's id as text, .*, got '.x00'"),
    ("get", {"execution": "\ud800"}, r"get\(execution\): expected an execution's id as text"),
    ("list", {"limit": "ten"}, "limit: expected a whole number, got 'ten'"),
    ("list", {"limit": 0}, "limit: expected 1 to 1000, got 0"),
    ("list", {"limit": 1001}, "limit: expected 1 to 1000, got 1001"),
    ("list", {"before": "x"}, r"list\(before\): expected the whole id of an execution, got 'x'"),
    ("list", {"before": 7}, r"list\(before\): expected an execution's id"),
    ("invoke", {"task": 7}, r"invoke\(task\): expected a task or its name"),
]


@pytest.mark.parametrize(("call", "given", "message"), WRONG)
def test_an_argument_that_cannot_be_meant_is_told(
    app: Conductor, call: str, given: dict[str, Any], message: str
) -> None:
    """Nothing is asked of the database, so it is not blamed."""
    with pytest.raises(UsageError, match=message):
        getattr(app, call)(**given)
    with pytest.raises(UsageError, match=message):
        asyncio.run(getattr(app, f"{call}_async")(**given))


def test_the_result_of_a_cancelled_execution_is_the_reason(app: Conductor) -> None:
    """As whoever cancelled it gave it."""
    handle = app.invoke("move", Point(1))
    app.cancel(handle, "wrong customer")
    with pytest.raises(ExecutionCancelled, match=r"was cancelled: wrong customer$") as caught:
        handle.result(timeout=1)
    assert caught.value.reason == "wrong customer"
