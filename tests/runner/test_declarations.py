"""What ``@app.task`` and its friends accept, and what they say about everything else."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args

import msgspec
import pytest

import conductor
from conductor import (
    Conductor,
    Context,
    Cron,
    DatabaseChange,
    Event,
    Invocation,
    Limit,
    Retry,
    UsageError,
    Window,
)
from conductor.tasks import TaskOptions
from conductor_protocol.manifest import (
    ChangeSpec,
    Isolation,
    KeyLimitSpec,
    RateSpec,
    RetrySpec,
    ScheduleSpec,
    TaskSpec,
    WindowSpec,
)


def declared(**options: Any) -> TaskSpec:
    """Return the spec of a task with these options."""
    return Conductor().task(**options)(handler).spec


def handler(event: Event, ctx: Context) -> None:
    """Stand for any task."""


# What is accepted


def test_a_bare_task_has_the_defaults() -> None:
    """Its name is the function's with dashes."""
    app = Conductor()

    @app.task
    def process_dataset(event: Event, ctx: Context) -> int:
        """Count."""
        return 7

    assert process_dataset.spec == TaskSpec("process-dataset")
    assert app.manifest("x").tasks == (process_dataset.spec,)
    assert process_dataset(Event(None), None) == 7  # type: ignore[arg-type]  # calling it calls the function
    assert process_dataset.__doc__ == "Count."


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "a.b_c-1"}, {"name": "a.b_c-1"}),
        ({"queue": "media"}, {"queue": "media"}),
        ({"concurrency": 3, "max_attempts": 1}, {"concurrency": 3, "max_attempts": 1}),
        ({"concurrency": Limit(3)}, {"concurrency": 3}),
        ({"concurrency": Limit(3, key="a.b")}, {"concurrency_by_key": KeyLimitSpec(3, "a.b")}),
        (
            {"concurrency": [50, Limit(2, key="tenant")]},
            {"concurrency": 50, "concurrency_by_key": KeyLimitSpec(2, "tenant")},
        ),
        ({"rate": "100/minute"}, {"rate": RateSpec(100, 60.0)}),
        ({"rate": " 5 / Second"}, {"rate": RateSpec(5, 1.0)}),
        ({"rate": "7/1h30m"}, {"rate": RateSpec(7, 5400.0)}),
        ({"timeout": "10m"}, {"timeout": 600.0}),
        ({"isolation": "fresh"}, {"isolation": "fresh"}),
        ({"isolation": "runner"}, {}),
        ({"timeout": timedelta(seconds=5)}, {"timeout": 5.0}),
        ({"keep_completed": False, "keep_failed": True}, {"keep_completed": None, "keep_failed": 0.0}),
        ({"keep_completed": 0, "keep_failed": "1d"}, {"keep_completed": 0.0, "keep_failed": 86400.0}),
        ({"window": ("22:00", "06:00")}, {"windows": (WindowSpec("22:00", "06:00"),)}),
        ({"window": ["22:00", "06:00"]}, {"windows": (WindowSpec("22:00", "06:00"),)}),
        (
            {"window": [("00:00", "24:00"), Window("09:00", "17:00", "Europe/Berlin", ["fri", "mon"], "5m")]},
            {
                "windows": (
                    WindowSpec("00:00", "24:00"),
                    WindowSpec("09:00", "17:00", "Europe/Berlin", ("mon", "fri"), 300.0),
                )
            },
        ),
        ({"cron": "0 2 * * *"}, {"invocable": False, "schedules": (ScheduleSpec("cron", "0 2 * * *"),)}),
        (
            {"cron": "*/5 * * * * 30", "invocable": True},
            {"schedules": (ScheduleSpec("cron", "*/5 * * * * 30"),)},
        ),
        (
            {"cron": {"a": "0 2 * * *", "b": Cron("@daily", "UTC", {"n": 1}, "all")}},
            {
                "invocable": False,
                "schedules": (
                    ScheduleSpec("a", "0 2 * * *"),
                    ScheduleSpec("b", "@daily", "UTC", b'{"n":1}', "all"),
                ),
            },
        ),
        (
            {"on": DatabaseChange("public.contact", "insert", columns=["id", "email"], when="NEW.active")},
            {
                "invocable": False,
                "changes": (ChangeSpec("public", "contact", ("insert",), ("id", "email"), "NEW.active"),),
            },
        ),
        (
            {"on": [DatabaseChange("a b", {"delete", "update"}), DatabaseChange("s.T.x", ["insert"])]},
            {
                "invocable": False,
                "changes": (
                    ChangeSpec("public", "a b", ("update", "delete")),
                    ChangeSpec("s", "T.x", ("insert",)),
                ),
            },
        ),
        ({"retry": Retry([1, "1m"], jitter=0.5)}, {"retry": RetrySpec((1.0, 60.0), jitter=0.5)}),
        ({"retry": Retry(delays=[])}, {"retry": RetrySpec(())}),
        ({"retry": Retry(initial=1)}, {"retry": RetrySpec(None, 1.0, 2.0, 3600.0)}),
        ({"retry": Retry(factor=3, maximum="1h")}, {"retry": RetrySpec(None, 15.0, 3.0, 3600.0)}),
    ],
)
def test_an_option_becomes_a_part_of_the_spec(options: TaskOptions, expected: Mapping[str, Any]) -> None:
    """Durations become seconds; whatever is not given keeps its default."""
    assert declared(**options) == TaskSpec(**{"name": "handler", **expected})


@pytest.mark.parametrize("isolation", get_args(Isolation))
def test_an_async_handler_may_be_isolated_in_every_way(isolation: Isolation) -> None:
    """What the manifest knows can be declared."""

    async def waits(event: Event, ctx: Context) -> None: ...

    assert Conductor().task(isolation=isolation)(waits).spec.isolation == isolation


def test_a_retry_covers_what_on_and_never_on_say() -> None:
    """``never_on`` wins."""
    retry = Retry(on=OSError, never_on=[FileNotFoundError])
    assert retry.covers(PermissionError())
    assert not retry.covers(FileNotFoundError())
    assert not retry.covers(ValueError())
    assert Retry().covers(KeyboardInterrupt())


def test_a_step_is_tried_once_more_after_each_delay() -> None:
    """Three times in all in the exponential form."""
    assert list(Retry([1, 2]).waits_of_a_step()) == [1, 2]
    assert list(Retry(initial=1, factor=10, maximum=5).waits_of_a_step()) == [1, 5]


def test_jitter_changes_a_steps_waits_within_its_bounds() -> None:
    """A fraction of the wait up or down."""
    waits = list(Retry([10] * 50, jitter=0.1).waits_of_a_step())
    assert all(9 <= wait <= 11 for wait in waits)
    assert len(set(waits)) > 1


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(handler),
        lambda event, ctx: None,
        lambda *args: None,
        lambda event, ctx, more=1: None,
    ],
)
def test_whatever_accepts_event_and_context_may_be_a_task(function: Callable[..., Any]) -> None:
    """Also what is no plain function, given a name."""
    assert Conductor().task(name="any")(function).name == "any"


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "task name: expected 1 to 200 letters, digits, dashes, underscores or dots"),
        ({"name": ""}, "got ''"),
        ({"name": "x" * 201}, "expected 1 to 200"),
        ({"max_attempt": 3}, "task handler: unknown option 'max_attempt'; did you mean max_attempts?"),
        ({"colour": 3}, "unknown option 'colour'; there are: name, queue"),
        ({"queue": "a b"}, "queue: expected a name such as queue=\"media\", got 'a b'"),
        ({"invocable": 1}, "invocable: expected True or False, got 1"),
        ({"concurrency": 0}, "concurrency: expected a whole number of 1 or more, Limit(20, key="),
        ({"concurrency": "3"}, "or a list of both, got '3'"),
        ({"concurrency": []}, "expected at most one limit without a key and one with a key"),
        ({"concurrency": [3, Limit(4)]}, '[50, Limit(2, key="tenant")], got [3, Limit(4)]'),
        (
            {"concurrency": [Limit(1, "a"), Limit(2, "b")]},
            "at most one limit without a key and one with a key",
        ),
        ({"rate": 100}, 'such as "100/minute", "5/second", "1000/day" or "10/30s", got 100'),
        (
            {"rate": "100/fortnight"},
            "as its period second, minute, hour, day, or a duration such as \"30s\", got '100/fortnight'",
        ),
        ({"rate": "0/minute"}, "rate: expected 1 to 100,000 starts in a period, got '0/minute'"),
        ({"rate": "10/0.5s"}, "rate: expected a period from one second to 366 days, got '10/0.5s'"),
        ({"concurrency": True}, "got True"),
        ({"rate": "9" * 5000 + "/second"}, 'or "10/30s", got \'9999'),
        ({"max_attempts": 0}, "max_attempts: expected a whole number of 1 or more, got 0"),
        ({"timeout": 0}, "timeout: expected more than zero seconds"),
        ({"isolation": "thread"}, 'isolation: expected "runner", "fresh" or "shared", got \'thread\''),
        ({"isolation": None}, "got None"),
        ({"isolation": "shared"}, "make the handler async def, or leave isolation out"),
        ({"timeout": "soon"}, 'timeout: expected a duration such as "90s"'),
        ({"keep_failed": None}, 'keep_failed: expected a duration such as "7d", False for ever, or True'),
        ({"keep_completed": "for ever"}, "keep_completed: expected a duration"),
        ({"window": "22:00-06:00"}, 'window: expected ("22:00", "06:00")'),
        ({"window": ("22:00",)}, 'window: expected ("22:00", "06:00")'),
        ({"window": []}, "got []"),
        ({"window": ("22:00", "6:00")}, 'expected times as "HH:MM"'),
        ({"window": ("24:00", "06:00")}, 'write "00:00"'),
        ({"window": ("22:00", "22:00")}, "it would never be open"),
        ({"cron": "every day"}, 'cron: expected five fields "minute hour day month weekday"'),
        ({"cron": {"": "* * * * *"}}, "expected schedule names of 1 to 200 characters"),
        ({"cron": 5}, "cron: expected five fields"),
        ({"cron": "0 0 30 2 *"}, 'cron: "0 0 30 2 *" never fires: no such date exists'),
        ({"cron": {}}, "cron: expected one schedule at least, such as"),
        ({"on": "user.created"}, 'on: expected DatabaseChange("public.contact", "insert")'),
        ({"on": []}, "on: expected DatabaseChange"),
        ({"on": [DatabaseChange("t", "insert"), "t"]}, "on: expected DatabaseChange"),
        ({"retry": 3}, "retry: expected Retry(delays=[15, 30, 60])"),
    ],
)
def test_a_wrong_option_says_what_to_write(options: Any, message: str) -> None:
    """At once, where it is declared."""
    with pytest.raises(UsageError) as caught:
        declared(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window("22:00", "06:00", tz="Europe/Atlantis"), "window tz: expected a time zone such as"),
        (lambda: Window("22:00", "06:00", days=["monday"]), "window days: expected a list of mon, tue"),  # type: ignore[list-item]
        (lambda: Window("22:00", "06:00", days=[]), "window days"),
        (lambda: Window("22:00", "06:00", grace=-1), "window grace: expected a duration from zero"),
        (lambda: Cron("* * * * *", catch_up="some"), 'cron catch_up: expected "latest", "all" or "skip"'),  # type: ignore[arg-type]
        (lambda: Cron("* * * * *", tz=""), "cron tz"),
        (lambda: Cron("* * * * *", payload=object()), "the payload of a cron schedule"),
        (lambda: DatabaseChange("", "insert"), 'expected a table such as "public.contact", got'),
        (lambda: DatabaseChange("public.", "insert"), "expected a table"),
        (lambda: DatabaseChange(5, "insert"), "expected a table"),  # type: ignore[arg-type]
        (lambda: DatabaseChange("x" * 64, "insert"), "expected a table"),
        (lambda: DatabaseChange("t", "truncate"), 'operations: expected "insert", "update" or "delete"'),  # type: ignore[arg-type]
        (lambda: DatabaseChange("t", []), "operations: expected"),
        (lambda: DatabaseChange("t", [["insert"]]), "operations: expected"),  # type: ignore[list-item]
        (lambda: DatabaseChange("t", "update", columns="id"), "columns: expected a list of names such as"),
        (lambda: DatabaseChange("t", "update", columns=[]), "columns: expected"),
        (lambda: DatabaseChange("t", "update", when=" "), "when: expected a condition in SQL"),
        (lambda: Retry([1], initial=1), "got delays and initial"),
        (lambda: Retry("1s"), "Retry delays: expected a list"),
        (lambda: Retry(jitter=2), "Retry jitter: expected a fraction from 0 to 1, got 2"),
        (lambda: Retry(factor=0.5), "Retry factor: expected a number of at least 1"),
        (lambda: Retry(on=3), "Retry on: expected exception types"),  # type: ignore[arg-type]
        (lambda: Retry(never_on=["ValueError"]), "Retry never_on: expected exception types"),  # type: ignore[list-item]
        (lambda: Limit(1, key="a\0b"), r"got 'a\x00b'"),
        (lambda: Limit(1, key="\ud800"), r"got '\ud800'"),
        (lambda: Limit(10**30), "Limit: expected a whole number from 1 to 2,147,483,647, got 1000"),
        (lambda: Conductor("conductor.db"), 'expected a URL such as "sqlite:///conductor.db"'),
        (lambda: Conductor(timezone="Berlin"), "timezone: expected a time zone"),
        (lambda: Invocation(1, delay=1, run_at=2), "expected either delay or run_at"),  # type: ignore[arg-type]
        (lambda: Invocation(1, dely=1), "unknown option 'dely' of an invocation; there are: delay"),  # type: ignore[call-arg]
    ],
)
def test_a_wrong_value_says_what_to_write(make: Callable[[], object], message: str) -> None:
    """Whoever makes it is told at once."""
    with pytest.raises((UsageError, conductor.NotStorable)) as caught:
        make()
    assert message in str(caught.value)


def test_a_function_must_accept_event_and_context() -> None:
    """The message names function and line."""
    with pytest.raises(UsageError, match=r"must accept \(event, ctx\)") as caught:
        Conductor().task(lambda event: None)
    assert "test_declarations.py:" in str(caught.value)


def swapped(ctx: Context, event: Event) -> None: ...
def payload_alone(event: dict[str, int], ctx: Context) -> None: ...
def no_context(event: Event[int], ctx: dict[str, int]) -> None: ...


@pytest.mark.parametrize(
    ("handler", "got", "write"),
    [
        (swapped, "ctx: Context, event: Event", "event: Event, ctx: Context"),
        (payload_alone, "event: dict[str, int], ctx: Context", "event: Event[dict[str, int]], ctx: Context"),
        (no_context, "event: Event[int], ctx: dict[str, int]", "event: Event[int], ctx: Context"),
    ],
)
def test_parameters_that_are_mixed_up_are_told_with_what_to_write(
    handler: Callable[..., None], got: str, write: str
) -> None:
    """Else the handler would fail at its first execution, or see nothing of its payload's type."""
    with pytest.raises(UsageError) as caught:
        Conductor().task(handler)
    assert f"{handler.__name__}, {__file__}:" in str(caught.value)
    assert str(caught.value).endswith(
        f": expected the event first and the context second, got ({got}); write ({write})"
    )


def test_a_class_defined_below_its_handler_is_no_event_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen once the module is imported."""

    def handler(event: Later, ctx: Context) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    app = Conductor()
    app.task(handler)
    monkeypatch.setitem(globals(), "Later", type("Order", (), {}))
    with pytest.raises(UsageError, match=r"write \(event: Event\[Order\], ctx: Context\)"):
        app.manifest("app")


def test_annotations_that_leave_the_parameters_open_are_fine() -> None:
    """None, an object, a union, a protocol, a relative, a name for type checkers alone."""

    class Stops(Protocol):
        should_stop: bool

    def bare(event, ctx): ...  # type: ignore[no-untyped-def]
    def swapped_names(ctx, event): ...  # type: ignore[no-untyped-def]
    def objects(event: object, ctx: Any) -> None: ...
    def union(event: Event[int] | None, ctx: Context | Stops) -> None: ...
    def protocol(event: Event, ctx: Stops) -> None: ...
    def annotated(event: Annotated[Event, "it"], ctx: conductor.AsyncContext) -> None: ...
    def unknown(event: Nowhere, ctx: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def rest(*both: int) -> None: ...

    for handler in (bare, swapped_names, objects, union, protocol, annotated, unknown, rest):
        Conductor().task(handler)


def test_a_generator_is_no_task() -> None:
    """Its body would never run."""

    def generate(event: Event, ctx: Context) -> Any:
        yield 1

    with pytest.raises(UsageError, match="is a generator"):
        Conductor().task(generate)


def test_a_string_in_place_of_the_function_is_refused() -> None:
    """``@app.task("name")`` is a natural mistake."""
    with pytest.raises(UsageError, match="name="):
        Conductor().task("process")  # type: ignore[call-overload]


def test_two_tasks_of_one_name_are_both_named() -> None:
    """With their lines."""
    app = Conductor()
    app.task(name="same")(handler)
    with pytest.raises(UsageError, match=r"handler, .*handler, ") as caught:
        app.task(name="same")(handler)
    assert "two tasks are named same" in str(caught.value)


def test_a_way_of_isolation_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    """All of them."""
    with pytest.raises(UsageError, match='isolation: expected "runner", "fresh" or "shared", got None'):
        declared(isolation=None)  # type: ignore[typeddict-item]


def test_a_lifespan_is_a_generator_without_parameters_and_the_only_one() -> None:
    """Each mistake has its message."""
    app = Conductor()

    def generate() -> Any:
        yield

    def takes(pool: object) -> Any:
        yield

    with pytest.raises(UsageError, match="expected a function that yields once"):
        app.lifespan(lambda: None)
    with pytest.raises(UsageError, match="must take no parameters"):
        app.lifespan(takes)  # type: ignore[type-var]
    app.lifespan(generate)
    with pytest.raises(UsageError, match="an app has one lifespan"):
        app.lifespan(generate)


# The app


def test_making_an_app_opens_nothing(tmp_path: Any) -> None:
    """Importing neither opens a socket or database nor loads the library for one."""
    script = (
        "import sys; from conductor import *; app = Conductor()\n"
        "print([name for name in ('zmq', 'sqlalchemy', 'pydantic', 'croniter') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout == "[]\n", ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_database_is_the_argument_else_the_environments_else_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is looked up when it is used, not when the app is made."""
    app = Conductor()
    monkeypatch.delenv("CONDUCTOR_DATABASE_URL", raising=False)
    assert app.database_url() == "sqlite:///conductor.db"
    monkeypatch.setenv("CONDUCTOR_DATABASE_URL", "sqlite:///other.db")
    assert app.database_url() == "sqlite:///other.db"
    assert Conductor("sqlite:///own.db").database_url() == "sqlite:///own.db"


module_app = Conductor()


def test_an_app_knows_its_import_name() -> None:
    """So that others can start it; an app inside a function has none."""
    assert module_app.import_name() == f"{__name__}:module_app"
    with pytest.raises(UsageError, match="global variable"):
        Conductor().import_name()


def test_all_public_names_exist() -> None:
    """``from conductor import *`` works."""
    assert all(hasattr(conductor, name) for name in conductor.__all__)


# Annotations, which are looked at when the app is described, and at the first invocation


class Plain:
    """A class of which nobody knows how to make it from JSON."""


class Nested(msgspec.Struct):
    inside: list[Plain]


class Refers(msgspec.Struct):
    other: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037


def wrongly_annotated(annotations: dict[str, object]) -> Conductor:
    """Return an app whose one task has these annotations."""
    app = Conductor()

    def job(event, ctx): ...  # type: ignore[no-untyped-def]

    job.__annotations__ = annotations
    app.task(job)
    return app


WRONG_ANNOTATIONS: list[tuple[dict[str, object], str]] = [
    ({"event": "Event[Nowhere]"}, r"task job: the annotation of event, Event\[Nowhere\], cannot be resolved"),
    (
        {"event": Event["Nowhere"]},
        "name 'Nowhere' is not defined. Define or import the name at the top level",
    ),  # type: ignore[name-defined]
    ({"return": "Nowhere"}, "task job: the annotation of return, Nowhere, cannot be resolved"),
    (
        {"event": Event[Plain]},
        "task job: Plain cannot be a payload: nobody knows how to make a Plain from JSON",
    ),
    ({"event": Event[Nested]}, "Nested cannot be a payload: nobody knows how to make a Plain"),
    ({"event": Event[Path]}, "nobody knows how to make a Path from JSON. Write a dataclass"),
    ({"event": Event[Refers]}, "Refers cannot be a payload: NameError: name 'Nowhere' is not defined"),
]


@pytest.mark.parametrize(("annotations", "message"), WRONG_ANNOTATIONS)
def test_an_annotation_that_would_turn_checks_off_is_refused(
    annotations: dict[str, object], message: str
) -> None:
    """By start, which describes the app, and by the first invocation; not while the module is imported."""
    app = wrongly_annotated(annotations)
    with pytest.raises(UsageError, match=message):
        app.manifest("shop:app")
    with pytest.raises(UsageError, match=message):
        app.invoke("job", {"anything": 1})


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"event": Event, "ctx": "Nowhere"},
        {"event": Event[object]},
        {"event": "Event[DefinedLater]", "return": "DefinedLater"},
        {"event": Event[dict[str, list[int | None]]], "return": Plain},
    ],
)
def test_annotations_that_can_be_used_are_taken(annotations: dict[str, object]) -> None:
    """Names may be defined later in the module, and those of other parameters are nobody's business."""
    assert wrongly_annotated(annotations).manifest("shop:app").tasks[0].name == "job"


def test_an_unknown_name_beside_the_event_does_not_turn_checks_off() -> None:
    """Each annotation is resolved by itself."""
    app = wrongly_annotated({"event": "Event[DefinedLater]", "ctx": "Nowhere"})
    assert app.tasks["job"].payload_annotation is DefinedLater


class DefinedLater(msgspec.Struct):
    value: int
