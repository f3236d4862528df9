"""run_task runs one handler in the test's process, as a runner would run it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest

from conductor import (
    Conductor,
    Context,
    DuplicateStep,
    Event,
    Fail,
    NotStorable,
    PayloadMismatch,
    Released,
    ResultMismatch,
    Retry,
    Task,
    UsageError,
)
from conductor.context import AsyncContext
from conductor.testing import Stopped, run_task, run_task_async

app = Conductor()
called: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_called_yet() -> None:
    called.clear()


@dataclass
class Order:
    number: int
    due: date


def note(name: str, result: Any = None) -> Any:
    called.append(name)
    return result


@app.task
def ship(event: Event[Order], ctx: Context) -> Order:
    """Three steps with a checkpoint between the last two."""
    try:
        weight = ctx.step("weigh", note, "weigh", event.payload.number * 2)
        ctx.step("pack", note, "pack")
        ctx.checkpoint()
        ctx.step("send", note, "send")
    finally:
        note("cleaned up")
    return Order(weight, event.payload.due)


@app.task
async def ship_together(event: Event, ctx: AsyncContext) -> list[str]:
    """Steps side by side."""

    async def pack(name: str) -> str:
        note(f"{name} begins")
        await asyncio.sleep(0)
        return str(note(f"{name} ends", name))

    try:
        return await asyncio.gather(*(ctx.step(name, pack, name) for name in ("a", "b")))
    finally:
        await ctx.checkpoint()


ORDER = {"number": 21, "due": "2026-03-01"}


def test_the_result_is_as_a_client_gets_it() -> None:
    """Payload, step results and result go through JSON and come back typed."""
    assert run_task(ship, ORDER) == Order(42, date(2026, 3, 1))
    assert run_task(ship, Order(1, date(2026, 3, 1))) == Order(2, date(2026, 3, 1))


def test_without_an_annotation_a_tuple_comes_back_as_a_list() -> None:
    """As it would from the database."""

    def untyped(event: Event, ctx: Context) -> Any:
        return ctx.step("pair", lambda: (1, datetime(2026, 1, 1, tzinfo=UTC)))

    assert run_task(Conductor().task(untyped)) == [1, "2026-01-01T00:00:00Z"]


def test_given_steps_are_not_called() -> None:
    """They are answered as recorded; the others run."""
    assert run_task(ship, ORDER, steps={"weigh": 7, "send": None}) == Order(7, date(2026, 3, 1))
    assert called == ["pack", "cleaned up"]


def test_a_given_result_that_does_not_fit_is_refused_as_a_recorded_one_would_be() -> None:
    """The test's own data is held to the annotation."""

    @Conductor().task
    def count(event: Event, ctx: Context) -> int:
        return ctx.step("count", int)

    with pytest.raises(ResultMismatch, match='step "count"'):
        run_task(count, steps={"count": "many"})


def test_async_handlers_run_their_steps_side_by_side() -> None:
    """Coroutines mix as they do in a runner."""
    assert run_task(ship_together) == ["a", "b"]
    assert called == ["a begins", "b begins", "a ends", "b ends"]


def test_a_running_loop_is_used_by_run_task_async() -> None:
    """For asyncio test plugins; run_task says so."""

    async def in_a_loop() -> list[str]:
        with pytest.raises(UsageError, match="await run_task_async"):
            run_task(ship_together)
        assert await run_task_async(ship, ORDER) == Order(42, date(2026, 3, 1))
        return await run_task_async(ship_together)

    assert asyncio.run(in_a_loop()) == ["a", "b"]


def test_exceptions_come_out_as_they_are() -> None:
    """Be they the handler's own, control, or misuse of the context."""

    @Conductor().task
    def broken(event: Event[str], ctx: Context) -> None:
        if event.payload == "fail":
            raise Fail("no such order")
        ctx.step("once", int)
        ctx.step("once", int)

    with pytest.raises(Fail, match="no such order"):
        run_task(broken, "fail")
    with pytest.raises(DuplicateStep):
        run_task(broken, "duplicate")


def test_a_payload_that_does_not_fit_is_refused_before_the_handler_runs() -> None:
    """As at invoke."""
    with pytest.raises(PayloadMismatch, match=r"\$\.due"):
        run_task(ship, {"number": 1, "due": "tomorrow"})
    assert called == []


def test_a_result_that_cannot_be_stored_is_an_error() -> None:
    """A test must not pass where a runner would fail the attempt."""

    @Conductor().task
    def returns_a_lock(event: Event, ctx: Context) -> Any:
        return threading.Lock()

    @Conductor().task
    def returns_too_much(event: Event, ctx: Context) -> str:
        return "x" * 2_000_000

    with pytest.raises(NotStorable, match="lock"):
        run_task(returns_a_lock)
    with pytest.raises(NotStorable, match="1,048,576"):
        run_task(returns_too_much)


def test_the_handler_sees_what_the_test_says() -> None:
    """Attempt, state and trigger."""

    @Conductor().task(cron="0 2 * * *")
    def look(event: Event, ctx: Context) -> list[Any]:
        return [ctx.attempt, ctx.state, event.name, event.scheduled_for, ctx.task]

    night = datetime(2026, 3, 1, 2, tzinfo=UTC)
    seen = run_task(look, attempt=3, state="pool", event="cron", scheduled_for=night)
    assert seen == [3, "pool", "cron", "2026-03-01T02:00:00Z", "look"]


def test_tries_of_a_step_follow_without_waiting() -> None:
    """A backoff of days costs a test nothing."""

    def fails_twice() -> int:
        if len(called) < 2:
            raise ConnectionError(note("failed"))
        return len(called)

    @Conductor().task
    def persistent(event: Event, ctx: Context) -> int:
        return ctx.step("call", fails_twice, retry=Retry(delays=["2d", "2d"]))

    assert run_task(persistent) == 2


@pytest.mark.parametrize(
    ("stop_after", "done"),
    [
        (0, []),
        (1, ["weigh"]),
        ("weigh", ["weigh"]),
        (2, ["weigh", "pack"]),
        ("pack", ["weigh", "pack"]),
        (3, ["weigh", "pack"]),
    ],
)
def test_a_handler_is_stopped_where_the_test_says(stop_after: int | str, done: list[str]) -> None:
    """After a step, or after so many asks: what is done is recorded, and finally blocks have run."""
    with pytest.raises(Stopped) as stopped:
        run_task(ship, ORDER, stop_after=stop_after)
    assert list(stopped.value.steps) == done
    assert called == [*done, "cleaned up"]


def test_a_stopped_handler_resumes_with_its_steps() -> None:
    """No step runs twice, wherever the handler is stopped."""
    for stop_after in range(4):
        called.clear()
        with pytest.raises(Stopped) as stopped:
            run_task(ship, ORDER, stop_after=stop_after)
        assert run_task(ship, ORDER, steps=stopped.value.steps) == Order(42, date(2026, 3, 1))
        assert sorted(called) == sorted(["weigh", "pack", "send", "cleaned up", "cleaned up"])


def test_recorded_steps_ask_as_well() -> None:
    """So asks can be counted, however fast the handler is."""
    with pytest.raises(Stopped) as stopped:
        run_task(ship, ORDER, steps={"weigh": 1}, stop_after=1)
    assert stopped.value.steps == {"weigh": 1}
    assert called == ["cleaned up"]


def test_a_handler_that_asks_no_more_is_not_stopped() -> None:
    """After the last ask it completes, as in a runner."""
    assert run_task(ship, ORDER, stop_after="send") == Order(42, date(2026, 3, 1))


@pytest.mark.parametrize("word", ["shutdown", "window", "cancelled"])
def test_the_handler_learns_why_it_is_stopped(word: Any) -> None:
    """should_stop is true before the ask that stops; the signal says why, and cannot be swallowed."""

    @Conductor().task
    def stubborn(event: Event, ctx: Context) -> None:
        assert not ctx.should_stop
        ctx.step("one", int)
        assert ctx.should_stop
        with pytest.raises(Released) as released:
            ctx.checkpoint()
        note(released.value.word)
        ctx.checkpoint()

    with pytest.raises(Stopped, match=word) as stopped:
        run_task(stubborn, stop_after="one", word=word)
    assert stopped.value.word == word
    assert called == [word]


def forgets_a_step(ctx: AsyncContext) -> object:
    return ctx.step("charge", note, "charge") and None


def forgets_a_checkpoint(ctx: AsyncContext) -> object:
    return ctx.checkpoint() and None


def forgets_two(ctx: AsyncContext) -> None:
    forgets_a_step(ctx)
    forgets_a_checkpoint(ctx)


def returns_a_step(ctx: AsyncContext) -> object:
    return ctx.step("charge", note, "charge")


@pytest.mark.parametrize(
    ("forgets", "message"),
    [
        (forgets_a_step, 'step "charge" was never awaited; write: await ctx.step(...)'),
        (forgets_a_checkpoint, "ctx.checkpoint() was never awaited; write: await ctx.checkpoint()"),
        (forgets_two, 'step "charge" was never awaited (nor was 1 more); write: await ctx.step(...)'),
        (returns_a_step, 'step "charge" was never awaited; write: await ctx.step(...)'),
    ],
)
def test_a_call_that_is_never_awaited_is_refused(
    forgets: Callable[[AsyncContext], object], message: str
) -> None:
    """The handler returned as if all was done. Python's own warning does not come as well."""

    @Conductor().task
    async def handler(event: Event, ctx: AsyncContext) -> object:
        return forgets(ctx)

    with pytest.raises(UsageError) as caught:
        run_task(handler)
    assert str(caught.value) == message
    assert called == []


def test_calls_in_tasks_and_groups_and_behind_time_limits_count_as_awaited() -> None:
    """Whether they end with the handler or not; one that is cancelled before it began has been seen to."""

    @Conductor().task
    async def handler(event: Event, ctx: AsyncContext) -> object:
        made = asyncio.create_task(ctx.step("task", note, "task"))
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step("group", note, "group"))
        limited = await asyncio.wait_for(ctx.step("limited", note, "limited", 2), 10)
        cancelled = asyncio.create_task(ctx.checkpoint())
        cancelled.cancel()
        asyncio.create_task(ctx.checkpoint())  # noqa: RUF006  # the loop's next turn is after the return
        return [await made, limited]

    assert run_task(handler) == [None, 2]
    assert called == ["task", "group", "limited"]


def test_a_result_that_is_a_coroutine_is_refused_with_a_word_on_await() -> None:
    """Wherever in the result it is."""

    @Conductor().task
    async def handler(event: Event, ctx: AsyncContext) -> object:
        return [asyncio.sleep(0)]

    with pytest.raises(NotStorable, match="write await before the call that gave it"):
        run_task(handler)


def test_async_handlers_are_stopped_too() -> None:
    """Their finally blocks may await, but not ask."""
    with pytest.raises(Stopped) as stopped:
        run_task(ship_together, stop_after="b")
    assert stopped.value.steps == {"a": "a", "b": "b"}


def test_a_step_that_is_given_is_no_place_to_stop_after() -> None:
    """It would never run, so the handler would never be stopped."""
    with pytest.raises(UsageError, match='the step "weigh" is given'):
        run_task(ship, ORDER, steps={"weigh": 1}, stop_after="weigh")


def test_only_tasks_can_be_run() -> None:
    """A bare function has no declarations."""
    function: Any = ship.function
    assert not isinstance(function, Task)
    with pytest.raises(UsageError, match=r"as @app\.task makes it"):
        run_task(function)


def test_a_given_step_that_nobody_asked_for_is_told() -> None:
    """A misspelt name would let the real step run unnoticed."""
    app = Conductor()

    @app.task
    def greet(event, ctx):  # type: ignore[no-untyped-def]
        return ctx.step("look-up", lambda: "Ada")

    @app.task
    async def greet_async(event, ctx):  # type: ignore[no-untyped-def]
        return await ctx.step("look-up", lambda: "Ada")

    for task in (greet, greet_async):
        with pytest.raises(UsageError) as caught:
            run_task(task, steps={"lok-up": "Grace"})
        assert str(caught.value) == (
            f'run_task: steps: task {task.name} did not ask for "lok-up" in this run; '
            'steps that ran: "look-up". Is a name misspelt?'
        )
        assert run_task(task, steps={"look-up": "Grace"}) == "Grace"


def test_a_handler_that_failed_or_was_stopped_need_not_have_asked() -> None:
    """It may not have come so far."""
    app = Conductor()

    @app.task
    def job(event, ctx):  # type: ignore[no-untyped-def]
        ctx.checkpoint()
        if event.payload:
            raise LookupError
        ctx.checkpoint()

    with pytest.raises(LookupError):
        run_task(job, True, steps={"later": 1})
    with pytest.raises(Stopped):
        run_task(job, False, steps={"later": 1}, stop_after=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"word": "stop"}, "word: expected one of shutdown, window, cancelled, got 'stop'"),
        ({"attempt": 0}, "attempt: expected a whole number of 1 or more, got 0"),
        ({"attempt": "1"}, "attempt: expected a whole number of 1 or more, got '1'"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    """Rather than let a test pass for the wrong reason."""
    app = Conductor()

    @app.task
    def job(event, ctx): ...  # type: ignore[no-untyped-def]

    with pytest.raises(UsageError, match=message):
        run_task(job, **given)


@pytest.mark.parametrize("retry", [3, [1, 2]])
def test_a_steps_retry_is_refused_as_that_of_a_task_is(retry: Any) -> None:
    """With the step's name, before its function is called."""
    app = Conductor()

    @app.task
    def job(event, ctx):  # type: ignore[no-untyped-def]
        ctx.step("r", note, "r", retry=retry)

    @app.task
    async def job_async(event, ctx):  # type: ignore[no-untyped-def]
        await ctx.step("r", note, "r", retry=retry)

    for task in (job, job_async):
        with pytest.raises(UsageError) as caught:
            run_task(task)
        assert str(caught.value).startswith('step "r": retry: expected Retry(delays=[15, 30, 60]) or ')
        assert str(caught.value).endswith(f"got {retry}")
    assert called == []


def test_a_step_without_a_function_is_refused_by_its_name() -> None:
    """What is passed most often in its place is what the function returned."""
    app = Conductor()

    @app.task
    def job(event, ctx):  # type: ignore[no-untyped-def]
        ctx.step("hi", 5)

    @app.task
    async def job_async(event, ctx):  # type: ignore[no-untyped-def]
        await ctx.step("hi", asyncio.sleep(0))

    with pytest.raises(UsageError, match='step "hi": expected a function, got 5; write the function'):
        run_task(job)
    with pytest.raises(UsageError, match='step "hi": expected a function, got <coroutine'):
        run_task(job_async)


def test_steps_that_are_no_mapping_are_refused() -> None:
    """An empty list as well."""
    steps: Any
    for steps in (["weigh"], []):
        with pytest.raises(UsageError, match="run_task: steps: expected results by step name"):
            run_task(ship, ORDER, steps=steps)


def test_a_step_to_stop_after_that_never_ran_is_told() -> None:
    """The test would otherwise believe that the handler had been stopped there."""
    with pytest.raises(UsageError) as caught:
        run_task(ship, ORDER, stop_after="wiegh")
    assert str(caught.value) == (
        'run_task: stop_after: task ship did not ask for "wiegh" in this run; '
        'steps that ran: "weigh", "pack", "send". Is a name misspelt?'
    )


@pytest.mark.parametrize("stop_after", [-1, 1.5, True])
def test_what_is_no_count_of_asks_is_refused(stop_after: Any) -> None:
    """It would never be reached."""
    with pytest.raises(UsageError, match="run_task: stop_after: expected a step's name or how often"):
        run_task(ship, ORDER, stop_after=stop_after)
