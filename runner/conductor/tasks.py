"""Tasks: a function and what was declared about it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, TypeVar, Unpack, get_args, get_origin

import msgspec

from conductor import values
from conductor.context import Context
from conductor.declarations import (
    ConcurrencyOption,
    CronOption,
    OnOption,
    Retry,
    WindowOption,
    change_specs,
    concurrency_limits,
    retry_option,
    schedule_specs,
    window_specs,
)
from conductor.errors import PayloadMismatch, ResultMismatch
from conductor.parameters import mixed_up
from conductor_protocol.errors import UsageError
from conductor_protocol.limits import rate_spec
from conductor_protocol.manifest import INVOKE_EVENT, TASK_NAME, Isolation, TaskSpec
from conductor_protocol.messages import Assignment
from conductor_protocol.units import Duration, moment, seconds, size_in_bytes

if TYPE_CHECKING:
    from datetime import datetime

    from typing_extensions import TypeVar as TypeVarWithDefault

    from conductor.client import Client, Handle, InvokeOptions
    from conductor.connections import OwnAsyncConnection, OwnConnection

    Payload = TypeVarWithDefault("Payload", default=Any)
else:
    Payload = TypeVar("Payload")

P = ParamSpec("P")
Called = TypeVar("Called")
"""What calling the function returns: the result, or for an async function its coroutine."""
Result = TypeVar("Result")


class Event(Generic[Payload]):
    """What a handler is called for. ``Event[Order]`` says that the payload is an ``Order``."""

    __slots__ = ("name", "payload", "scheduled_for")

    def __init__(
        self, payload: Payload, *, name: str = INVOKE_EVENT, scheduled_for: datetime | None = None
    ) -> None:
        self.payload = payload
        self.name = name
        """``"conductor.invoke"``, the name of the schedule, or of the change: ``"public.contact.insert"``."""
        self.scheduled_for = scheduled_for
        """For schedules: the firing that this execution is for, which may be long past."""

    def __repr__(self) -> str:
        return f"Event({self.payload!r}, name={self.name!r}, scheduled_for={self.scheduled_for!r})"


class TaskOptions(TypedDict, total=False):
    """What ``@app.task`` accepts. Durations: seconds, a ``timedelta``, or text such as "90s", "2h", "7d"."""

    name: str
    """Unique in the app: letters, digits, ``-``, ``_``, ``.``. Default: the function's name with dashes."""
    queue: str
    """Default: ``"default"``."""
    invocable: bool
    """May be invoked by name. Default: true if no other trigger is given."""
    cron: CronOption
    """An expression, a ``Cron``, or a mapping of schedule names to these."""
    on: OnOption
    """Changes to a table, ``DatabaseChange("public.contact", "insert")``, or a list of these."""
    window: WindowOption
    """``("22:00", "06:00")``, a ``Window``, or a list of these. Default: always open."""
    concurrency: ConcurrencyOption
    """Most executions running at once, over all supervisors: a number; ``Limit(20, key="tenant")`` for each
    value of a field of the payload; or a list of both. Default: no limit."""
    rate: str
    """Most starts in any period, over all supervisors: ``"100/minute"``, ``"10/30s"``. Default: no limit."""
    max_attempts: int
    """Default: 3."""
    retry: Retry
    """Default: 15 s, 30 s, 60 s, then 60 s."""
    timeout: Duration
    """Wall time of one attempt; then its runner is stopped. Default: no limit."""
    memory: int | str
    """Resident memory of the runner, and of what it starts, while it runs this task: bytes, or text such as
    "512MiB". Above it the runner is killed. Default: no limit."""
    hang_after: Duration
    """How long the runner may give no sign of life, because C code holds the interpreter or the process is
    stopped; then it is killed. Default: no limit."""
    isolation: Isolation
    """``"runner"``: alone in a process that runs one execution after another; ``"fresh"``: in a new process
    for each attempt; ``"shared"``: an async handler beside others in one process. Default: ``"runner"``."""
    keep_completed: Duration | bool
    """How long completed executions are kept; False: for ever; True or 0: not at all. Default: 7 days."""
    keep_failed: Duration | bool
    """The same for failed ones. Default: 30 days."""


class Task(Generic[P, Called, Result]):
    """A task, as ``@app.task`` makes it. Calling it calls the function, as plain unit tests like it."""

    def __init__(self, function: Callable[P, Called], options: TaskOptions, client: Client) -> None:
        """:raises UsageError: if the declaration cannot be meant."""
        self.function = function
        _check_handler(function)
        self.spec = _spec(function, options)
        self.retry = retry_option(options.get("retry"))
        self.is_async = is_async(function)
        self._client = client
        self._annotations_are_checked = False
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.spec.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Called:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name} ({describe_function(self.function)})>"

    # What the annotations say

    @cached_property
    def payload_annotation(self) -> object:
        """``T`` of the handler's ``Event[T]``, or ``Any``."""
        annotation = values.first_parameter_annotation(self.function)
        return get_args(annotation)[0] if get_origin(annotation) is Event else Any

    @cached_property
    def result_annotation(self) -> object:
        """What the handler says that it returns, or ``Any``."""
        return values.result_annotation(self.function)

    def check_annotations(self) -> None:
        """Refuse annotations that would silently turn checks off. Asked once the module is imported.

        :raises UsageError: if the handler's annotations cannot be resolved or mix up its parameters, or if
            payloads cannot be made by them.
        """
        if self._annotations_are_checked:
            return
        from conductor.annotations import undecodable, unresolvable

        _check_parameters(self.function)  # again, for names that the module defines below the function
        why = unresolvable(self.function)
        if why is not None:
            raise UsageError(
                f"task {self.name}: {why}. Define or import the name at the top level of the module, not "
                "within a function and not for type checkers alone"
            )
        why = undecodable(self.payload_annotation)
        if why is not None:
            raise UsageError(
                f"task {self.name}: {_shown(self.payload_annotation)} cannot be a payload: {why}. "
                "Write a dataclass, a msgspec Struct, a pydantic model or a TypedDict, or Event for any JSON"
            )
        try:
            values.check_annotation(self.result_annotation)
        except UsageError as error:
            where = describe_function(self.function)
            raise UsageError(f"task {self.name} ({where}): its result: {error}") from error
        self._annotations_are_checked = True

    def payload_from_json(self, payload: bytes) -> Any:
        """Return the payload as the handler gets it.

        :raises PayloadMismatch: if it does not fit; the message has the path to the field.
        """
        try:
            return values.decode(payload, self.payload_annotation)
        except (
            Exception
        ) as error:  # the payload's own class may raise anything, in __post_init__ or a validator
            why = (
                str(error) if isinstance(error, msgspec.MsgspecError) else f"{type(error).__name__}: {error}"
            )
            raise PayloadMismatch(
                f"the payload does not fit what task {self.name} expects, "
                f"{_shown(self.payload_annotation)}: {why}"
            ) from error

    def result_from_json(self, result: bytes) -> Any:
        """Return a result as a client gets it.

        :raises ResultMismatch: if it does not fit the return annotation.
        """
        try:
            return values.decode(result, self.result_annotation)
        except msgspec.ValidationError as error:
            raise ResultMismatch(
                f"the result of task {self.name} does not fit its return annotation, "
                f"{self.result_annotation}: {error}"
            ) from error

    def result_to_json(self, result: object, limit: int) -> bytes:
        """Return a result as JSON that can be read again.

        :param limit: bytes.
        :raises NotStorable: if it has no form in JSON, or is larger than the limit.
        :raises ResultMismatch: if it does not fit the return annotation.
        """
        what = f"the result of task {self.name}"
        encoded = values.encode(result, what)
        values.check_size(encoded, limit, what)
        if self.result_annotation is not Any:
            self.result_from_json(encoded)
        return encoded

    def payload_to_json(self, payload: object) -> bytes:
        """Return a payload as JSON that fits.

        :raises NotStorable: if it has no form in JSON.
        :raises PayloadMismatch: if it does not fit.
        :raises UsageError: as :meth:`check_annotations`.
        """
        self.check_annotations()
        encoded = values.encode(payload, f"the payload of task {self.name}")
        self.payload_from_json(encoded)
        return encoded

    def event(self, assignment: Assignment) -> Event[Any]:
        """Return the event of an execution.

        :raises PayloadMismatch: if its payload does not fit.
        """
        scheduled_for = assignment.scheduled_for
        return Event(
            self.payload_from_json(assignment.payload),
            name=assignment.event,
            scheduled_for=None if scheduled_for is None else moment(scheduled_for),
        )

    # Invoking

    def invoke(
        self,
        payload: object = None,
        *,
        connection: OwnConnection | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Handle[Result]:
        """Create an execution; see :meth:`conductor.client.Client.invoke`."""
        return self._client.invoke(self.name, payload, connection=connection, **options)

    async def invoke_async(
        self,
        payload: object = None,
        *,
        connection: OwnAsyncConnection | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Handle[Result]:
        """See :meth:`invoke`."""
        return await self._client.invoke_async(self.name, payload, connection=connection, **options)

    def invoke_many(
        self, payloads: Iterable[object], *, connection: OwnConnection | None = None
    ) -> list[Handle[Result]]:
        """Create many executions; see :meth:`conductor.client.Client.invoke_many`."""
        return self._client.invoke_many(self.name, payloads, connection=connection)

    async def invoke_many_async(
        self, payloads: Iterable[object], *, connection: OwnAsyncConnection | None = None
    ) -> list[Handle[Result]]:
        """See :meth:`invoke_many`."""
        return await self._client.invoke_many_async(self.name, payloads, connection=connection)


def is_async(function: Callable[..., object]) -> bool:
    """Tell whether calling it gives a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # an object with async def __call__
    )


def describe_function(function: Callable[..., object]) -> str:
    """Return a function's name and where it is, for messages."""
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    code = getattr(inspect.unwrap(function), "__code__", None)
    return name if code is None else f"{name}, {code.co_filename}:{code.co_firstlineno}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one, if any is."""
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def _check_handler(function: Callable[..., object]) -> None:
    if not callable(function):
        raise UsageError(
            f"@app.task: expected a function, got {function!r}; write @app.task(name=...) with names"
        )
    where = describe_function(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"@app.task: {where} is a generator; expected a function that returns its result")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise UsageError(f"@app.task: {where} must accept (event, ctx): {error}") from error
    _check_parameters(function)


def _check_parameters(function: Callable[..., object]) -> None:
    why = mixed_up(function, Event, Context)
    if why is not None:
        raise UsageError(f"@app.task: {describe_function(function)}: {why}")


def _spec(function: Callable[..., object], options: TaskOptions) -> TaskSpec:
    name = options.get("name", getattr(function, "__name__", "").replace("_", "-").strip("-"))
    if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
        raise UsageError(
            "task name: expected 1 to 200 letters, digits, dashes, underscores or dots, "
            f'such as name="process-dataset", got {name!r}'
        )
    try:
        _check_options(options)
        return _spec_named(name, function, options)
    except UsageError as error:
        raise UsageError(f"task {name}: {error}") from error


def _check_options(options: Mapping[str, object]) -> None:
    known = list(TaskOptions.__annotations__)
    for unknown in options.keys() - set(known):
        near = nearest(unknown, known)
        hint = f"did you mean {near}?" if near else f"there are: {', '.join(known)}"
        raise UsageError(f"unknown option {unknown!r}; {hint}")


def _spec_named(name: str, function: Callable[..., object], options: TaskOptions) -> TaskSpec:
    defaults = TaskSpec(name)
    queue = options.get("queue", defaults.queue)
    if not isinstance(queue, str) or not TASK_NAME.fullmatch(queue):
        raise UsageError(f'queue: expected a name such as queue="media", got {queue!r}')
    schedules = schedule_specs(options.get("cron"))
    changes = change_specs(options.get("on"))
    concurrency, by_key = concurrency_limits(options.get("concurrency"))
    rate = options.get("rate")
    return TaskSpec(
        name,
        queue=queue,
        invocable=_flag(options.get("invocable", not schedules and not changes)),
        schedules=schedules,
        changes=changes,
        windows=window_specs(options.get("window")),
        concurrency=concurrency,
        concurrency_by_key=by_key,
        rate=None if rate is None else rate_spec(rate),
        max_attempts=_count(options.get("max_attempts", defaults.max_attempts), "max_attempts"),
        retry=retry_option(options.get("retry")).spec,
        timeout=_limit(options.get("timeout"), "timeout"),
        memory=_memory(options.get("memory")),
        hang_after=_limit(options.get("hang_after"), "hang_after"),
        isolation=_isolation(options.get("isolation", defaults.isolation), function),
        keep_completed=_retention(options.get("keep_completed", defaults.keep_completed), "keep_completed"),
        keep_failed=_retention(options.get("keep_failed", defaults.keep_failed), "keep_failed"),
    )


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"invocable: expected True or False, got {value!r}")
    return value


def _count(value: Any, what: str) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{what}: expected a whole number of 1 or more, got {value!r}")
    return value


def _limit(value: Duration | None, what: str) -> float | None:
    limit = None if value is None else seconds(value, what)
    if limit == 0:
        raise UsageError(f'{what}: expected more than zero seconds, such as "10m"; for no limit leave it out')
    return limit


def _memory(value: int | str | None) -> int | None:
    limit = None if value is None else size_in_bytes(value, "memory")
    if limit == 0:
        raise UsageError('memory: expected more than zero bytes, such as "512MiB"; for no limit leave it out')
    return limit


def _isolation(value: Isolation, function: Callable[..., object]) -> Isolation:
    known = get_args(Isolation)
    if value not in known:
        quoted = [f'"{each}"' for each in known]
        raise UsageError(f"isolation: expected {', '.join(quoted[:-1])} or {quoted[-1]}, got {value!r}")
    if value == "shared" and not is_async(function):
        raise UsageError(
            'isolation="shared": a sync handler would hold up the others in its runner; '
            "make the handler async def, or leave isolation out"
        )
    return value


def _retention(value: Duration | bool | None, what: str) -> float | None:
    if value is False:
        return None
    if value is True:
        return 0.0
    if value is None:
        raise UsageError(f'{what}: expected a duration such as "7d", False for ever, or True for not at all')
    return seconds(value, what)


def _shown(annotation: object) -> str:
    return getattr(annotation, "__qualname__", None) or str(annotation)
