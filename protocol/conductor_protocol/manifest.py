"""What an app declares, as plain values: the supervisor reads these and never imports user code.

The library builds them from decorators (``conductor.app``); ``describe`` sends them as one
:class:`Manifest`; operators may override parts in ``conductor.toml``
(``conductor_supervisor.settings``). Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from msgspec import Struct

TASK_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
"""What a task or queue name may be."""

CatchUp: TypeAlias = Literal["latest", "all", "skip"]
"""After downtime: run once for the newest missed firing, once for each, or for none."""

Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

ChangeOperation: TypeAlias = Literal["insert", "update", "delete"]
"""What may happen to a row of a table."""

Isolation: TypeAlias = Literal["runner", "fresh", "shared"]
"""``runner``: alone in a warm child; ``fresh``: a new process for each attempt; ``shared``: beside others."""

INVOKE_EVENT = "conductor.invoke"
"""``event.name`` of an execution that a client invoked."""


class WindowSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Wall-clock hours in which a task may run: half-open ``[start, end)`` in the window's zone."""

    start: str
    """``"HH:MM"``."""
    end: str
    """``"HH:MM"``, ``"24:00"`` allowed. Before ``start``: the window crosses midnight."""
    tz: str | None = None
    """IANA zone; None: the app's."""
    days: tuple[Day, ...] | None = None
    """Days on which the window opens; None: every day."""
    grace: float | None = None
    """Seconds that a handler which has not asked may go on after closing; then it is stopped, uncharged."""


class ScheduleSpec(Struct, frozen=True):
    """One cron schedule of a task. ``name`` becomes ``event.name`` of its executions."""

    name: str
    expression: str
    tz: str | None = None
    """IANA zone; None: the app's."""
    payload: bytes = b"null"
    """JSON."""
    catch_up: CatchUp = "latest"


class ChangeSpec(Struct, frozen=True):
    """Changes to the rows of a PostgreSQL table, each of which calls for an execution."""

    schema: str
    table: str
    operations: tuple[ChangeOperation, ...]
    columns: tuple[str, ...] | None = None
    """What the payload tells of a row, and which of an update's changes count; None: all columns."""
    when: str | None = None
    """A condition in SQL on ``OLD`` and ``NEW``."""

    @property
    def name(self) -> str:
        """The table as people write it."""
        return f"{self.schema}.{self.table}"

    def event(self, operation: ChangeOperation) -> str:
        """Return ``event.name`` of the executions for an operation, such as ``public.contact.insert``."""
        return f"{self.name}.{operation}"


class RetrySpec(Struct, frozen=True):
    """The wait before each further attempt. ``delays`` if given (the last one repeats), else exponential."""

    delays: tuple[float, ...] | None = (15.0, 30.0, 60.0)
    initial: float = 15.0
    factor: float = 2.0
    maximum: float = 3600.0
    jitter: float = 0.0
    """Fraction of the wait by which it may grow or shrink at random, 0 to 1."""


class KeyLimitSpec(Struct, frozen=True):
    """How many executions of a task with the same key may run at once, over all supervisors."""

    most: int
    key: str
    """Path of the payload's field that gives the key, such as ``order.tenant``."""


class RateSpec(Struct, frozen=True):
    """How many executions of a task may start within any period of this length, over all supervisors."""

    count: int
    seconds: float


class TaskSpec(Struct, frozen=True):
    """One task, as its author declared it and the operators overrode it."""

    name: str
    queue: str = "default"
    invocable: bool = True
    schedules: tuple[ScheduleSpec, ...] = ()
    changes: tuple[ChangeSpec, ...] = ()
    windows: tuple[WindowSpec, ...] = ()
    """Open when any of them is; empty: always open."""
    concurrency: int | None = None
    """Executions that may run at once, over all supervisors."""
    concurrency_by_key: KeyLimitSpec | None = None
    """The same for each key; an execution without a key does not count here."""
    rate: RateSpec | None = None
    max_attempts: int = 3
    retry: RetrySpec = RetrySpec()
    timeout: float | None = None
    """Wall time of one attempt in seconds; then its runner is stopped and the attempt charged."""
    memory: int | None = None
    """Resident bytes of its runner, with what that has started; above it the runner is killed and the attempt
    charged."""
    hang_after: float | None = None
    """Seconds without a sign of life from its runner; then that is killed and the attempt charged."""
    isolation: Isolation = "runner"
    keep_completed: float | None = 7 * 86400.0
    """Seconds that a completed or cancelled execution is kept; None: for ever."""
    keep_failed: float | None = 30 * 86400.0


class Manifest(Struct, frozen=True):
    """Everything that an app declares."""

    app: str
    """As the user named it: ``module:attribute`` or ``path/file.py:attribute``."""
    tasks: tuple[TaskSpec, ...]
    timezone: str = "UTC"
    database: str | None = None
    """What the app's own code names, or None: a runner gets no credentials, so this is for the supervisor."""
