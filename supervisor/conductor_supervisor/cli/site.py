"""Where a command works: the settings of the current folder, and the database and supervisor they lead to."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import click

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import is_storable
from conductor_protocol.manifest import Manifest, TaskSpec
from conductor_protocol.operations import Answer, NotFound, Operation, Refused, TooLarge
from conductor_supervisor import control
from conductor_supervisor.cli import render
from conductor_supervisor.clock import clock_from_environment
from conductor_supervisor.errors import (
    AppError,
    ForeignDatabase,
    NoDatabase,
    NotAnswering,
    NotRunning,
    OutdatedDatabase,
    StoreError,
    SupervisorError,
)
from conductor_supervisor.overrides import effective
from conductor_supervisor.settings import SETTINGS, Settings, database_url, load

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from conductor_supervisor.door import Door
    from conductor_supervisor.processes.describe import Fits, Inquiry
    from conductor_supervisor.store.database import Database

A = TypeVar("A", bound=Answer)
R = TypeVar("R")

WHOLE_ID = 36
SHORTEST_ID = 6
"""Characters of an id: all, and as few as may name one by its end. (Ids begin with the time, so beginnings
are much alike.)"""


class Site:
    """The settings of the current folder and what they lead to, each found when first asked for."""

    def __init__(self, read_settings: Callable[[], Settings]) -> None:
        """:param read_settings: reads them anew each time."""
        self.read_settings = read_settings
        self.settings = read_settings()
        self.clock = clock_from_environment()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def manifest(self) -> Manifest | None:
        """What the configured app declares, read in a child process; None if no app is configured."""
        if self.settings.app is None:
            return None
        from conductor_supervisor.processes.describe import current_folder, describe

        return describe(self.settings.app, current_folder(), self.settings.import_timeout)

    @cached_property
    def url(self) -> str:
        """The database's URL. The app is asked only where the operators name none.

        :raises AppError: if it would have to be asked, and cannot be read.
        """
        if self.settings.database is not None:
            return self.settings.database
        try:
            return database_url(self.settings, self.manifest)
        except AppError as error:
            raise AppError(
                f"{error}\nOnly the app knows which database is meant; name it with --database to do without"
            ) from error

    @property
    def folder(self) -> Path:
        """The runtime folder, be it there or not. The database counts only where no folder is named."""
        from conductor_supervisor.runtime import find_runtime_folder, named_folder

        if self.settings.runtime is not None:
            return named_folder(self.settings.runtime)
        return find_runtime_folder(self.url)

    def payload_check(self, task: str, payload: bytes) -> Inquiry[Fits] | None:
        """Begin to ask the configured app whether a payload fits a task; None if no app is configured.

        :param payload: JSON.
        """
        if self.settings.app is None:
            return None
        from conductor_supervisor.processes.describe import current_folder, payload_check

        return self._open.enter_context(payload_check(self.settings.app, current_folder(), task, payload))

    # The database

    @cached_property
    def door(self) -> Door:
        """The way of every client into the database, which is made if there is none."""
        from conductor_supervisor.door import Door

        door = Door(self.url, self.settings.runtime, self.settings.max_payload)
        self._open.callback(door.close)
        return door

    def has_database(self) -> bool:
        """Tell whether there is a database already: one that Conductor can read.

        :raises StoreError: if what is there cannot be read, or has no tables of Conductor's.
        """
        try:
            self.database  # noqa: B018 - opens it
        except NoDatabase:
            return False
        return True

    def is_new(self) -> bool:
        """Tell whether there is no database yet, and then say so beside the answer, which is empty."""
        if self.has_database():
            return False
        render.remark(
            f"no database yet at {self.database_for_people}; start a supervisor or invoke something first"
        )
        return True

    @property
    def database_for_people(self) -> str:
        """The database's URL without credentials."""
        from conductor_supervisor.store.location import locate

        return locate(self.url).for_people

    @cached_property
    def database(self) -> Database:
        """The database itself, for looking: whoever looks makes and changes nothing.

        :raises StoreError: if there is none yet, it cannot be used, or it has no tables of Conductor's.
        """
        from conductor_supervisor.store.database import Database

        database = Database.look(self.url)
        self._open.callback(database.close)
        return database

    @cached_property
    def _writable(self) -> Database:
        from conductor_supervisor.store.database import Database

        with suppress(ForeignDatabase, OutdatedDatabase):
            self.database  # noqa: B018 - opens it; a new one is made by start and invoke alone
        database = Database.open(self.url)
        self._open.callback(database.close)
        database.migrate()
        return database

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the database.

        :raises StoreError: if there is none yet, it cannot be used, or it has no tables of Conductor's.
        """
        with self._worded(self.database), self.database.reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write; the supervisor hears of it at once. Missing tables are made."""
        from conductor_supervisor.runtime import poke

        with self._worded(self._writable), self._writable.writing() as connection:
            yield connection
            self._writable.announce(connection)
        poke(self.folder)

    @staticmethod
    @contextmanager
    def _worded(database: Database) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            raise StoreError(database.unusable(error)) from error

    def find_id(self, text: str) -> str:
        """Return the id of the execution that is meant: named whole, or by its end.

        :raises UsageError: if the text is too short, or several executions end so.
        :raises SupervisorError: if no execution has such an id.
        :raises StoreError: as :meth:`reading`.
        """
        self.database  # noqa: B018 - opens it
        if len(text) >= WHOLE_ID:
            return text.lower()
        if len(text) < SHORTEST_ID:
            raise UsageError(
                f"ID: expected an id or at least the last {SHORTEST_ID} characters of one, got {text!r}"
            )
        from conductor_supervisor.store.lookup import ids_ending_in

        with self.reading() as connection:
            found = ids_ending_in(connection, text.lower(), at_most=2)
        if not found:
            raise SupervisorError(
                f"no execution has an id that ends in {text}; see: conductor-supervisor list"
            )
        if len(found) > 1:
            raise UsageError(f"several executions have ids that end in {text}, such as {' and '.join(found)}")
        return found[0]

    def perform(self, operation: Operation, expected: type[A]) -> A:
        """Have a client's operation performed, and return its answer.

        :raises SupervisorError: if it is refused, or speaks of an execution that does not exist.
        """
        answer = self._answer(operation)
        if isinstance(answer, expected):
            return answer
        if isinstance(answer, NotFound):
            raise SupervisorError(f"no execution {answer.id}; see: conductor-supervisor list")
        raise SupervisorError(
            answer.message if isinstance(answer, Refused | TooLarge) else f"unexpected answer: {answer}"
        )

    def _answer(self, operation: Operation) -> Answer:
        from conductor_supervisor.store.perform import is_write, perform

        if is_write(operation):
            return self.door.perform(operation)
        with self.reading() as connection:
            return perform(connection, operation, self.clock.now())

    def declared(self) -> tuple[TaskSpec, ...]:
        """Return the tasks that the supervisor declared last; before its first start, those of the app."""
        known = self.declared_last()
        if known:
            return known
        return effective(self.manifest, self.settings) if self.manifest is not None else ()

    def declared_last(self) -> tuple[TaskSpec, ...]:
        """Return the tasks that the supervisor declared last; none before its first start."""
        from conductor_supervisor.store import tasks

        try:
            with self.reading() as connection:
                return tuple(tasks.declared(connection))
        except (NoDatabase, ForeignDatabase):  # a first invocation makes what it needs
            return ()

    # The supervisor

    def ask(self, request: control.Request, timeout: float | None = None) -> control.Reply:
        """Ask the running supervisor.

        :param timeout: seconds; None: as long as it usually has.
        :raises NotRunning: if there is none.
        :raises NotAnswering: if there is one, and it does not answer in time.
        :raises SupervisorError: if the runtime folder is not ours alone.
        """
        return control.ask(self.folder, request, timeout)

    def unattended(self) -> str | None:
        """Return why nobody runs what waits here; None if a supervisor answers, or shares the database."""
        try:
            self.ask(control.AskHealth())
        except NotRunning:
            if self._is_shared():
                return None
            return "no supervisor is running here; the execution waits for one"
        except SupervisorError as error:
            return str(error)
        return None

    def is_attended(self) -> bool:
        """Tell whether a supervisor is running here, or lives elsewhere and shares the database."""
        try:
            self.ask(control.AskHealth())
        except NotRunning:
            return self._is_shared()
        except NotAnswering:
            pass
        return True

    def _is_shared(self) -> bool:
        """Tell whether a supervisor, on whatever machine, lives and shares the database."""
        from conductor_supervisor.store import leases

        with self.reading() as connection:
            return bool(leases.living(connection))


def is_away(error: StoreError) -> bool:
    """Tell whether a database cannot be used just now only, so that a later try may go well."""
    from conductor_supervisor.store.database import is_transient

    return isinstance(error.__cause__, Exception) and is_transient(error.__cause__)


def located(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command its :class:`Site` as first argument, and the options that say where that is.

    Every other parameter of the command that is named like a setting is one: it goes into the settings.
    """
    names = [setting.name for setting in SETTINGS]

    @click.option("--database", metavar="URL", help="Database to use, such as sqlite:///conductor.db.")
    @click.option("--config", metavar="FILE", help="Settings file to read instead of conductor.toml.")
    @click.option("--runtime", metavar="DIR", help="Folder of the supervisor's sockets and lock.")
    @functools.wraps(command)
    def at_site(*, config: str | None, **given: object) -> R:
        _check_characters(click.get_current_context())
        options = {name: given.pop(name) for name in names if name in given}
        file = Path(config) if config else None
        with Site(lambda: load(Path.cwd(), os.environ, options, file)) as site:
            return command(site, **given)

    return at_site


_ANY_BYTES = {"config", "file", "runtime", "database", "target"}
"""Parameters that are paths, which need not be UTF-8, and URLs, which are not to be shown."""


def _check_characters(context: click.Context) -> None:
    """:raises UsageError: if an argument or option has bytes in it that are no characters."""
    for parameter in context.command.params:
        if parameter.name is None or parameter.name in _ANY_BYTES:
            continue
        given = context.params.get(parameter.name)
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, str) and not is_storable(value):
                raise UsageError(
                    f"{parameter.get_error_hint(context)}: expected text in UTF-8, got {value!r}"
                )


class WholeNumber(click.IntRange):
    """A whole number within limits, called so in messages."""

    name = "whole number"


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
