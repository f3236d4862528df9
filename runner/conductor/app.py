"""The app: where tasks are declared. Making one opens nothing: no socket, no database."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, Unpack, cast, overload

from conductor.client import Client
from conductor.declarations import check_zone
from conductor.tasks import Task, TaskOptions, describe_function, nearest
from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Manifest

DATABASE_URL = "CONDUCTOR_DATABASE_URL"
DEFAULT_DATABASE = "sqlite:///conductor.db"

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Callable[[], object])


class TaskDecorator(Protocol):
    """What ``app.task(...)`` with options returns."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Task[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


class Conductor(Client):
    """An app: its tasks, and the way to their executions.

    :param database: URL; None: ``CONDUCTOR_DATABASE_URL``, else ``sqlite:///conductor.db``.
    :param timezone: zone of windows and schedules that name none.
    :raises UsageError: if there is no such zone.
    """

    def __init__(self, database: str | None = None, *, timezone: str = "UTC") -> None:
        if database is not None and (not isinstance(database, str) or "://" not in database):
            # It is not shown, for it may hold a password.
            came = 'text without "://"' if isinstance(database, str) else f"a {type(database).__name__}"
            raise UsageError(
                f'Conductor(database): expected a URL such as "sqlite:///conductor.db", got {came}'
            )
        self.database = database
        self.timezone = check_zone(timezone, "timezone")
        self.tasks: dict[str, Task[..., Any, Any]] = {}
        """By name."""
        self.lifespan_function: Callable[[], object] | None = None
        self.module_name: str = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001
        """The module that made the app; see :meth:`import_name`."""
        super().__init__()

    # Declaring

    @overload
    def task(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Task[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, R]: ...
    @overload
    def task(self, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, function: Any = None, /, **options: Any) -> Any:  # type: ignore[misc]  # the third is accepted
        """Make a function a task: ``@app.task``, or ``@app.task(window=("22:00", "06:00"))``.

        The function takes ``(event, ctx)`` and may be sync or async. Options: :class:`TaskOptions`.

        :raises UsageError: if the declaration cannot be meant, or another task has the name.
        """

        def declare(function: Callable[..., Any]) -> Task[..., Any, Any]:
            task: Task[..., Any, Any] = Task(function, cast("TaskOptions", options), self)
            other = self.tasks.setdefault(task.name, task)
            if other is not task:
                raise UsageError(
                    f"two tasks are named {task.name}: {describe_function(other.function)} and "
                    f"{describe_function(function)}; give one another name: @app.task(name=...)"
                )
            return task

        return declare if function is None else declare(function)

    def lifespan(self, function: L, /) -> L:
        """Make a generator set up what handlers share in a runner: what it yields is ``ctx.state``.

        What follows the ``yield`` tears it down when the runner ends. The generator may be sync or async.

        :raises UsageError: if it is no generator function without parameters, or the app has one already.
        """
        if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
            raise UsageError(
                "@app.lifespan: expected a function that yields once, such as "
                f"def resources(): pool = connect(); yield pool; pool.close(); got {function!r}"
            )
        if inspect.signature(function).parameters:
            raise UsageError(f"@app.lifespan: {describe_function(function)} must take no parameters")
        if self.lifespan_function is not None:
            raise UsageError(
                f"an app has one lifespan; {describe_function(self.lifespan_function)} is declared already"
            )
        self.lifespan_function = function
        return function

    def manifest(self, name: str) -> Manifest:
        """Return everything that the app declares.

        :param name: how the user named the app.
        :raises UsageError: if a handler's annotations cannot be used, or a schedule's payload does not fit.
        """
        for task in self.tasks.values():
            task.check_annotations()
            for schedule in task.spec.schedules:
                task.payload_from_json(schedule.payload)
        return Manifest(
            name,
            tasks=tuple(task.spec for task in self.tasks.values()),
            timezone=self.timezone,
            database=self.database,
        )

    def import_name(self) -> str:
        """Return how others can import the app: ``module:attribute``, or ``path/file.py:attribute`` if its
        module was run as a script.

        :raises UsageError: if the app is no attribute of its module.
        """
        module = sys.modules.get(self.module_name)
        names = [name for name, value in vars(module).items() if value is self] if module else []
        if module is None or not names:
            raise UsageError(
                "the app must be a global variable of a module, so that runners can import it; "
                "write app = Conductor() at the top level of the module"
            )
        if self.module_name == "__main__":
            return f"{Path(str(module.__file__)).resolve()}:{names[0]}"
        return f"{self.module_name}:{names[0]}"

    def __repr__(self) -> str:
        return f"<Conductor in {self.module_name}, {len(self.tasks)} tasks>"

    # Clients

    def database_url(self) -> str:
        """Return the database that clients use: the argument, else the environment's, else the default."""
        return self.database or os.environ.get(DATABASE_URL) or DEFAULT_DATABASE

    def names_no_database(self) -> bool:
        """Tell whether clients use the default, for neither the argument nor the environment names one."""
        return not (self.database or os.environ.get(DATABASE_URL))

    def find_task(self, name: str) -> Task[..., Any, Any] | None:
        """Return the task of this name; None if the app declares none, for then it is a client of another's.

        :raises UsageError: if the app declares tasks, but not this one.
        """
        if name in self.tasks or not self.tasks:
            return self.tasks.get(name)
        near = nearest(name, self.tasks)
        hint = f"did you mean {near!r}?" if near else f"it has: {', '.join(sorted(self.tasks))}"
        raise UsageError(f"this app has no task {name!r}; {hint}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
