"""Values go through JSON and come back as their annotations say."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, NamedTuple, NoReturn, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conductor import Conductor, Context, Event, NotStorable, PayloadMismatch, TooLarge, UsageError, values


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Line:
    article: str
    price: Decimal
    tags: frozenset[str] = frozenset()


class Order(msgspec.Struct):
    id: UUID
    lines: list[Line]
    colour: Colour = Colour.RED


class Options(TypedDict, total=False):
    depth: int
    level: Level


class Place(NamedTuple):
    x: float
    y: float


class Customer(pydantic.BaseModel):
    name: str
    born: date
    limit: Decimal = Decimal(0)


class Stranger:
    """A class of which JSON knows nothing."""


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    content: T


moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]))
lines = st.builds(Line, texts, st.decimals(allow_nan=False, allow_infinity=False), st.frozensets(texts))
orders = st.builds(Order, st.uuids(), st.lists(lines, max_size=3), st.sampled_from(Colour))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
customers = st.builds(Customer, name=texts, born=st.dates(), limit=st.decimals(-1000, 1000))

ANNOTATED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (datetime, moments),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas(timedelta(-10_000), timedelta(10_000))),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (UUID, st.uuids()),
    (bytes, st.binary()),
    (set[int], st.sets(st.integers())),
    (tuple[int, str], st.tuples(st.integers(), texts)),
    (tuple[date, ...], st.lists(st.dates()).map(tuple)),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Line, lines),
    (Order, orders),
    (Options, st.fixed_dictionaries({}, optional={"depth": st.integers(), "level": st.sampled_from(Level)})),
    (Place, st.builds(Place, st.floats(-9, 9), st.floats(-9, 9))),
    (Customer, customers),
    (list[Customer], st.lists(customers, max_size=3)),
    (dict[str, Customer | None], st.dictionaries(texts, st.none() | customers, max_size=3)),
    (Box[Line], st.builds(Box, lines)),
    (
        dict[date, Mapping[int, Sequence[Line]]],
        st.dictionaries(st.dates(), st.just({1: [Line("a", Decimal(1))]})),
    ),
    (Annotated[int, msgspec.Meta(ge=0)], st.integers(0)),
    (int | None, st.none() | st.integers()),
]


@settings(max_examples=40)
@given(st.data())
@pytest.mark.parametrize(("annotation", "strategy"), ANNOTATED)
def test_a_value_comes_back_as_its_annotation_says(
    annotation: Any, strategy: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """Whatever may be in it."""
    value = data.draw(strategy)
    assert values.decode(values.encode(value, "it"), annotation) == value


@settings(max_examples=40)
@given(json_values)
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    """Everything that JSON has, integers of any size included, and other readers understand it."""
    encoded = values.encode(value, "it")
    assert values.decode(encoded) == value
    assert json.loads(encoded) == value


@pytest.mark.parametrize(
    "value",
    [object(), Stranger(), [Stranger()], 1j, (n for n in "ab"), print, "\ud800", {(1, 2): 3}, Line],
)
def test_what_has_no_form_in_json_is_refused_with_its_type(value: object) -> None:
    """The message says what it was, and what to use."""
    with pytest.raises(NotStorable, match=r"^it, of type \w+, cannot be stored as JSON: .*Use plain data"):
        values.encode(value, "it")


class Reading(pydantic.BaseModel):
    value: float
    other: float | None = None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (math.nan, "nan at $"),
        ([1.5, {"a": (None, math.inf)}], r"inf at $[1].a[1]"),
        (Place(0, -math.inf), "-inf at $[1]"),
        ({"line": [Box(content=math.nan)]}, "nan at $.line[0].content"),
        ([Reading(value=math.nan)], "nan at $[0].value"),
    ],
)
def test_a_float_that_is_no_number_is_refused_with_its_path(value: object, told: str) -> None:
    """JSON has none, and null in its place would be a silent other value."""
    with pytest.raises(NotStorable, match=rf"^it has {re.escape(told)}, for which JSON has no number"):
        values.encode(value, "it")


def test_nothing_else_that_is_null_is_refused() -> None:
    """None is null, in plain data, in models and in JSON that was made before."""
    for value in (None, ["null", None], Reading(value=1.0), {"a": msgspec.Raw(b"[null]")}):
        assert b"null" in values.encode(value, "it")


@pytest.mark.parametrize("raw", [b"{bad", b"", b"[1] 2", b"NaN", b'"\xff"'])
def test_raw_that_is_no_json_is_refused(raw: bytes) -> None:
    """Nobody could read what it is stored with."""
    with pytest.raises(NotStorable, match="it, of type dict, cannot be stored as JSON"):
        values.encode({"a": msgspec.Raw(raw)}, "it")


def test_a_value_that_contains_itself_is_refused() -> None:
    """Not by a dead process."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(NotStorable):
        values.encode(endless, "it")


def test_what_is_too_large_is_refused() -> None:
    """At the limit it is not."""
    values.check_size(b"x" * 10, 10, "it")
    with pytest.raises(TooLarge, match=r"it has 1,001 bytes as JSON; at most 1,000"):
        values.check_size(b"x" * 1001, 1000, "it")


@pytest.mark.parametrize(
    "annotation", [Stranger, list[Stranger], Callable[[], int], "no type", {1: 2}, T, None]
)
def test_an_annotation_that_json_cannot_follow_counts_for_nothing(annotation: object) -> None:
    """The plain data comes back; None is for null alone."""
    assert values.decode(b"null" if annotation is None else b"[1]", annotation) == (
        None if annotation is None else [1]
    )


@dataclasses.dataclass
class Either:
    one: Line | Order


@pytest.mark.parametrize("annotation", [Line | Order, list[datetime | str], Either, Customer | Box[int]])
def test_a_union_that_nobody_could_tell_apart_is_refused(annotation: object) -> None:
    """Untyped data in its place would be a silent other value."""
    for read in (values.check_annotation, functools.partial(values.decode, b"{}")):
        with pytest.raises(UsageError, match=r"cannot be read back from JSON: Type unions .*Write one type"):
            read(annotation)


def test_a_task_whose_payload_or_result_could_not_be_read_is_refused() -> None:
    """When the app is described: with the task, and where it is."""
    app = Conductor()

    @app.task
    def choose(event: Event[Line], ctx: Context) -> datetime | str: ...  # type: ignore[empty-body]

    with pytest.raises(UsageError, match=r"^task choose \(.*test_json_values.py:\d+\): its result: "):
        app.manifest("it")


# Which annotation counts


def plain(number: int) -> Order: ...  # type: ignore[empty-body]
async def awaited(number: int) -> Order: ...  # type: ignore[empty-body]
def promised(number: int) -> Coroutine[Any, Any, Order]: ...  # type: ignore[empty-body]
def bare(number): ...  # type: ignore[no-untyped-def]
def unknown(number: int) -> Atlantis: ...  # type: ignore[name-defined]  # noqa: F821
def never(number: int) -> NoReturn: ...  # type: ignore[empty-body]


@functools.wraps(plain)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    """Stand for what a decorator makes."""


class Shop:
    def method(self) -> Order: ...  # type: ignore[empty-body]
    @staticmethod
    def static() -> Order: ...  # type: ignore[empty-body]
    @classmethod
    def of_class(cls) -> Order: ...  # type: ignore[empty-body]
    def __call__(self) -> Order: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    "function",
    [
        plain,
        awaited,
        promised,
        wrapped,
        functools.partial(plain, 1),
        functools.partial(functools.partial(awaited, 1)),
        Shop().method,
        Shop.static,
        Shop.of_class,
        Shop(),
        Order,
        functools.partial(Order),
    ],
)
def test_the_return_annotation_is_found(function: Callable[..., Any]) -> None:
    """Through partial and wraps, for methods, coroutines, classes and objects that can be called."""
    assert values.result_annotation(function) is Order


@pytest.mark.parametrize("function", [bare, unknown, never, len, lambda: 1, str.upper])
def test_without_a_readable_annotation_anything_goes(function: Callable[..., Any]) -> None:
    """A name that only type checkers see is no annotation at run time."""
    assert values.result_annotation(function) is Any


# Payloads


def test_a_payload_is_typed_by_its_event() -> None:
    """``Event[T]`` says ``T``; a bare ``Event`` and no annotation say nothing."""
    app = Conductor()

    @app.task
    def typed(event: Event[list[Order]], ctx: Context) -> None: ...
    @app.task
    def bare_event(event: Event, ctx: Context) -> None: ...
    @app.task
    def nothing(event, ctx): ...  # type: ignore[no-untyped-def]

    assert typed.payload_annotation == list[Order]
    assert bare_event.payload_annotation is Any
    assert nothing.payload_annotation is Any


def test_a_payload_that_does_not_fit_is_refused_with_the_path() -> None:
    """Task, expected type, and where in the payload."""
    app = Conductor()

    @app.task
    def place_order(event: Event[Order], ctx: Context) -> None: ...

    payload = {"id": str(UUID(int=1)), "lines": [{"article": "a", "price": "much"}]}
    with pytest.raises(PayloadMismatch) as caught:
        place_order.payload_to_json(payload)
    assert str(caught.value) == (
        "the payload does not fit what task place-order expects, Order: Invalid decimal string - "
        "at `$.lines[0].price`"
    )


def test_a_pydantic_payload_is_checked_by_pydantic() -> None:
    """Its message is passed on."""
    app = Conductor()

    @app.task
    def greet(event: Event[Customer], ctx: Context) -> None: ...

    assert greet.payload_from_json(b'{"name": "Ada", "born": "1815-12-10"}').born == date(1815, 12, 10)
    with pytest.raises(PayloadMismatch, match="born"):
        greet.payload_to_json({"name": "Ada", "born": "long ago"})
