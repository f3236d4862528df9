"""Settings: what operators may say about a supervisor, and where they may say it.

In rising order: the defaults below, ``conductor.toml`` in the current folder (or ``[tool.conductor]`` in its
``pyproject.toml``), ``CONDUCTOR_*`` variables, options of the command. One table, :data:`SETTINGS`, names
every setting once; files, variables, options and the reference page are all read or written by it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import KeyLimitSpec, Manifest, RateSpec, WindowSpec
from conductor_supervisor import readers
from conductor_supervisor.readers import LogLevel, Reader

DEFAULT_DATABASE = "sqlite:///conductor.db"
PREFIX = "CONDUCTOR_"
"""How the names of variables begin."""
DATABASE_VARIABLE = "CONDUCTOR_DATABASE_URL"
"""The variable that Python clients read too."""
CONFIG_FILE = "conductor.toml"
MEBIBYTE = 1024 * 1024


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class QueueSettings(Struct, frozen=True):
    """What operators say about one queue."""

    runners: int
    """Runners that serve this queue alone."""


class ConcurrencySetting(Struct, frozen=True):
    """What operators say about how much of a task runs at once; it takes the place of both limits."""

    plain: int | None = None
    by_key: KeyLimitSpec | None = None


class TaskOverride(Struct, frozen=True, kw_only=True):
    """What operators say about one task, named as in ``TaskSpec``; what is unset stays as in the code."""

    concurrency: ConcurrencySetting | UnsetType = UNSET
    rate: RateSpec | UnsetType | None = UNSET
    timeout: float | UnsetType | None = UNSET
    memory: int | UnsetType | None = UNSET
    hang_after: float | UnsetType | None = UNSET
    windows: tuple[WindowSpec, ...] | UnsetType = field(default=UNSET, name="window")
    max_attempts: int | UnsetType = UNSET
    keep_completed: float | UnsetType | None = UNSET
    keep_failed: float | UnsetType | None = UNSET


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that operators may say. Durations are seconds, sizes bytes."""

    app: str | None = None
    database: str | None = None
    """None: the app's own, else the default; see :func:`database_url`."""
    runners: int = field(default_factory=processors)
    slots: int = 100
    """Executions that a shared runner runs at once."""
    shutdown_grace: float = 30.0
    """Between the first signal and killing what still runs; that goes back to the queue, uncharged."""
    cancel_grace: float = 10.0
    """Between asking a cancelled execution to stop and stopping its runner."""
    timeout_grace: float = 1.0
    """Between telling a handler that is over its time to stop and stopping its runner."""
    stop_grace: float = 2.0
    """Between SIGTERM and SIGKILL to a runner."""
    import_timeout: float = 60.0
    """How long the app may take to import, and a runner until it is ready."""
    end_grace: float = 10.0
    """How long a runner with nothing in hand may take to end."""
    recycle_executions: int | None = None
    """After so many executions a runner makes room for a new one."""
    recycle_memory: int | None = None
    """Bytes of resident memory above which a runner makes room for a new one after an execution."""
    timezone: str | None = None
    """Wins over the app's."""
    heartbeat: float = 1.0
    lease: float = 30.0
    """How long a supervisor that shares its database may be away before others take its executions."""
    max_payload: int = MEBIBYTE
    max_result: int = MEBIBYTE
    runtime: str | None = None
    """Folder of sockets and lock; None: chosen by the database's path."""
    log_level: LogLevel = "info"
    log_limit: int = 256 * 1024
    """Bytes that are kept of what an execution prints; 0: nothing."""
    queues: dict[str, QueueSettings] = {}
    tasks: dict[str, TaskOverride] = {}
    config: str | None = None
    """The file that was read, if any: for messages."""


def database_url(settings: Settings, manifest: Manifest | None = None) -> str:
    """Return the database to use: the operator's, else the app's own, else the default."""
    return settings.database or (manifest and manifest.database) or DEFAULT_DATABASE


def load(
    folder: Path, environment: Mapping[str, str], options: Mapping[str, object], config: Path | None = None
) -> Settings:
    """Gather the settings from every source.

    :param folder: the current folder; its ``conductor.toml`` or ``pyproject.toml`` is read.
    :param options: by setting name, what the command line says; None means not given.
    :param config: read this file instead of looking in the folder.
    :raises UsageError: if anything cannot be meant; the message names place, expectation and value.
    """
    path = config or _find_config(folder)
    given: dict[str, object] = {}
    if path is not None:
        given |= _from_file(path)
        given["config"] = str(path)
    given |= _from_environment(environment)
    given |= _from_options(options)
    return msgspec.convert(given, Settings)


def _find_config(folder: Path) -> Path | None:
    own = folder / CONFIG_FILE
    if own.exists():
        return own
    project = folder / "pyproject.toml"
    if project.exists() and _tool_table(project, _parse(project)) is not None:
        return project
    return None


def _from_file(path: Path) -> dict[str, object]:
    document = _parse(path)
    own = _tool_table(path, document) if path.name == "pyproject.toml" else document
    return readers.table(own or {}, path.name, _readers())


def _parse(path: Path) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise UsageError(
            f'{path}: not TOML: {error}; text is written in quotes, as in  app = "shop.tasks:app"'
        ) from error


def _tool_table(path: Path, document: Mapping[str, object]) -> object | None:
    tool = document.get("tool", {})
    if not isinstance(tool, dict):
        raise UsageError(f"{path}: tool: expected a table, got {tool!r}")
    return tool.get("conductor")


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    given: dict[str, object] = {}
    for setting in SETTINGS:
        variable = next((name for name in setting.variables if environment.get(name)), None)
        if variable is not None:
            given[setting.name] = readers.from_text(setting.read)(environment[variable], variable)
    return given


def _from_options(options: Mapping[str, object]) -> dict[str, object]:
    read = _readers()
    return {
        name: readers.from_text(read[name])(value, f"--{name.replace('_', '-')}")
        for name, value in options.items()
        if value is not None
    }


def _readers() -> dict[str, Reader]:
    return {setting.name: setting.read for setting in SETTINGS}


class Setting(Struct, frozen=True, kw_only=True):
    """One setting: how it is read and what it means. The reference page is made from these."""

    name: str
    read: Reader
    meaning: str
    default: str = "none"
    """In words."""
    example: str = ""
    """As in ``conductor.toml``, without the name; empty for tables."""
    keys: Mapping[str, Reader] = {}
    """Of tables."""
    other_variable: str = ""
    """An environment variable that is looked at before the one that is named like the setting."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables; the first that is set wins. None for tables."""
        if self.keys:
            return ()
        own = f"{PREFIX}{self.name.upper()}"
        return (self.other_variable, own) if self.other_variable else (own,)


QUEUE: dict[str, Reader] = {"runners": readers.runners_or_none}
"""The keys of ``[queues.NAME]``."""

TASK: dict[str, Reader] = {
    "concurrency": readers.concurrency,
    "rate": readers.unless_false(readers.rate),
    "timeout": readers.unless_false(readers.positive_duration),
    "memory": readers.unless_false(readers.positive_size),
    "hang_after": readers.unless_false(readers.positive_duration),
    "window": readers.windows,
    "max_attempts": readers.count,
    "keep_completed": readers.retention,
    "keep_failed": readers.retention,
}
"""The keys of ``[tasks.NAME]``."""

DECLARED = ("name", "queue", "invocable", "cron", "on", "retry", "isolation")
"""The other options of ``@app.task``: operators cannot set them."""

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="app",
        read=readers.text,
        meaning="the app, as `module:attribute` or `path/file.py:attribute`",
        example='"shop.tasks:app"',
    ),
    Setting(
        name="database",
        read=readers.url,
        meaning="URL of the database; a relative path starts at the current folder. Python clients do not "
        "read `conductor.toml`; they use `Conductor(database=...)`, else `CONDUCTOR_DATABASE_URL`, else the "
        "default",
        default=f"the app's own, else `{DEFAULT_DATABASE}`",
        example='"sqlite:////var/lib/shop/conductor.db"',
        other_variable=DATABASE_VARIABLE,
    ),
    Setting(
        name="runners",
        read=readers.runners,
        meaning="child processes that execute tasks",
        default="number of processors",
        example="4",
    ),
    Setting(
        name="slots",
        read=readers.count,
        meaning='executions that a shared runner (`isolation="shared"`) runs at once',
        default="100",
        example="100",
    ),
    Setting(
        name="shutdown_grace",
        read=readers.duration,
        meaning="how long a shutdown waits for checkpoints; what still runs then is killed and goes back to "
        "the queue, uncharged",
        default="30 s",
        example='"30s"',
    ),
    Setting(
        name="cancel_grace",
        read=readers.duration,
        meaning="time between asking a cancelled execution to stop and stopping its runner",
        default="10 s",
        example='"10s"',
    ),
    Setting(
        name="timeout_grace",
        read=readers.duration,
        meaning="time between telling a handler that is over its `timeout` to stop and stopping its runner",
        default="1 s",
        example='"1s"',
    ),
    Setting(
        name="stop_grace",
        read=readers.duration,
        meaning="time between SIGTERM and SIGKILL to a runner; SIGTERM ends a Python process at once, so no "
        "`finally` block runs any more, unless the task's own code handles the signal",
        default="2 s",
        example='"2s"',
    ),
    Setting(
        name="import_timeout",
        read=readers.positive_duration,
        meaning="how long the app may take to import",
        default="60 s",
        example='"60s"',
    ),
    Setting(
        name="end_grace",
        read=readers.positive_duration,
        meaning="how long a runner with nothing in hand may take to end: the teardown of its lifespan, "
        "threads that handlers have left, exit handlers; then it ends without them",
        default="10 s",
        example='"10s"',
    ),
    Setting(
        name="recycle_executions",
        read=readers.unless_false(readers.count),
        meaning="after so many executions a runner makes room for a new one",
        example="1000",
    ),
    Setting(
        name="recycle_memory",
        read=readers.unless_false(readers.positive_size),
        meaning="a runner that has more than this resident after an execution makes room for a new one",
        example='"512MiB"',
    ),
    Setting(
        name="timezone",
        read=readers.timezone,
        meaning="zone of windows and schedules that name none",
        default="the app's, else `UTC`",
        example='"Europe/Berlin"',
    ),
    Setting(
        name="heartbeat",
        read=readers.positive_duration,
        meaning="how often a runner says that it is alive",
        default="1 s",
        example='"1s"',
    ),
    Setting(
        name="lease",
        read=readers.lease,
        meaning="where several supervisors share a database: how long one may be away before others take its "
        "executions; after five sixths of it its runners have ended; at least 3 s",
        default="30 s",
        example='"30s"',
    ),
    Setting(
        name="max_payload",
        read=readers.payload_size,
        meaning="largest payload of an execution, as JSON; at most 8 MiB; clients go by the variable",
        default="1 MiB",
        example='"1MiB"',
    ),
    Setting(
        name="max_result",
        read=readers.payload_size,
        meaning="largest result of a step or an execution, as JSON; at most 8 MiB",
        default="1 MiB",
        example='"1MiB"',
    ),
    Setting(
        name="runtime",
        read=readers.path,
        meaning="folder of the supervisor's sockets and lock",
        default="chosen by the database's path",
        example='"/run/shop"',
    ),
    Setting(
        name="log_level",
        read=readers.log_level,
        meaning="`debug`, `info`, `warning` or `error`",
        default="info",
        example='"info"',
    ),
    Setting(
        name="log_limit",
        read=readers.size,
        meaning="how much is kept of what each execution prints, the newest of it; `0` keeps nothing",
        default="256 KiB",
        example='"256KiB"',
    ),
    Setting(
        name="queues",
        read=readers.named_tables(QUEUE),
        meaning="`[queues.NAME]`: `runners` that serve this queue alone; 0: it is left to other machines",
        keys=QUEUE,
    ),
    Setting(
        name="tasks",
        read=readers.named_tables(TASK, DECLARED),
        meaning="`[tasks.NAME]`: what operators set for a task; it wins over the code",
        keys=TASK,
    ),
)
"""Every setting, in the order of the reference page."""
