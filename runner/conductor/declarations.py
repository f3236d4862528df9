"""What ``@app.task`` accepts: windows, schedules and retries as people write them, checked when made."""

from __future__ import annotations

import random
import re
import zoneinfo
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, get_args

import msgspec

from conductor import values
from conductor_protocol.errors import UsageError
from conductor_protocol.limits import MOST, check_path
from conductor_protocol.manifest import (
    CatchUp,
    ChangeOperation,
    ChangeSpec,
    Day,
    KeyLimitSpec,
    RetrySpec,
    ScheduleSpec,
    WindowSpec,
)
from conductor_protocol.units import Duration, seconds

DEFAULT_SCHEMA = "public"
"""Where a table is that is named without one."""

SCHEDULE_NAME = "cron"
"""``event.name`` of a schedule that was given no name."""

TRIES_OF_A_STEP = 3
"""How often a step is tried whose ``Retry`` has no list of delays."""

_WALL_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_DAYS: tuple[Day, ...] = get_args(Day)

ExceptionTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]


def check_zone(name: str, what: str) -> str:
    """Return the name of a time zone.

    :raises UsageError: if there is no such zone.
    """
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise UsageError(
            f'{what}: expected a time zone such as "Europe/Berlin" or "UTC", got {name!r}'
        ) from error
    return name


class Window:
    """Hours of the day in which a task may run: half-open ``[start, end)``, in wall time.

    :param start: ``"HH:MM"``.
    :param end: ``"HH:MM"``, or ``"24:00"``. Before ``start``: the window crosses midnight.
    :param tz: time zone such as ``"Europe/Berlin"``; None: the app's.
    :param days: days on which the window opens, such as ``["mon", "fri"]``; None: every day.
    :param grace: how long a handler may go on after closing without asking; then it is stopped, uncharged.
    :raises UsageError: if this is no window.
    """

    def __init__(
        self,
        start: str,
        end: str,
        tz: str | None = None,
        days: Iterable[Day] | None = None,
        grace: Duration | None = None,
    ) -> None:
        for moment in (start, end):
            if not (isinstance(moment, str) and (_WALL_TIME.fullmatch(moment) or moment == "24:00")):
                raise UsageError(
                    f'window: expected times as "HH:MM", such as ("22:00", "06:00"), got {moment!r}'
                )
        if start == "24:00":
            raise UsageError('window: expected a start from "00:00" to "23:59", got "24:00"; write "00:00"')
        if start == end:
            raise UsageError(
                f"window: start and end are both {start!r}, so it would never be open; for a window that is "
                'always open leave window= out, for one whole day write ("00:00", "24:00")'
            )
        self.spec = WindowSpec(
            start,
            end,
            tz=None if tz is None else check_zone(tz, "window tz"),
            days=None if days is None else _days(days),
            grace=None if grace is None else seconds(grace, "window grace"),
        )

    def __repr__(self) -> str:
        return f"Window({self.spec.start!r}, {self.spec.end!r})"


def _days(given: Iterable[str]) -> tuple[Day, ...]:
    listed = tuple(given)
    if not listed or isinstance(given, str) or not set(listed) <= set(_DAYS):
        raise UsageError(
            f'window days: expected a list of {", ".join(_DAYS)}, such as ["mon", "fri"], got {given!r}'
        )
    return tuple(day for day in _DAYS if day in listed)


WindowOption: TypeAlias = Window | tuple[str, str] | Sequence[Window | tuple[str, str]]


def window_specs(option: WindowOption | None) -> tuple[WindowSpec, ...]:
    """Return what ``window=`` means.

    :raises UsageError: if it is neither a window nor a list of windows.
    """
    if option is None:
        return ()
    if isinstance(option, Window) or _is_pair(option):
        return (_window(option),)
    if isinstance(option, Sequence) and not isinstance(option, str) and option:
        return tuple(_window(one) for one in option)
    raise _no_window(option)


def _window(option: object) -> WindowSpec:
    if isinstance(option, Window):
        return option.spec
    if isinstance(option, Sequence) and not isinstance(option, str) and len(option) == 2:
        return Window(*option).spec
    raise _no_window(option)


def _is_pair(option: object) -> bool:
    return isinstance(option, Sequence) and len(option) == 2 and all(isinstance(part, str) for part in option)


def _no_window(option: object) -> UsageError:
    return UsageError(
        'window: expected ("22:00", "06:00"), Window("22:00", "06:00", tz=...), or a list of these, '
        f"got {option!r}"
    )


class Cron:
    """A schedule: five fields, or six with seconds at the end, in a zone.

    :param expression: such as ``"0 2 * * *"``: every day at two.
    :param tz: time zone; None: the app's.
    :param payload: the payload of each execution.
    :param catch_up: after downtime run once for the newest missed firing, for ``"all"``, or ``"skip"`` them.
    :raises UsageError: if this is no schedule.
    """

    def __init__(
        self,
        expression: str,
        tz: str | None = None,
        payload: object = None,
        catch_up: CatchUp = "latest",
    ) -> None:
        from croniter import CroniterBadDateError, croniter

        if not isinstance(expression, str) or not croniter.is_valid(expression):
            raise UsageError(
                'cron: expected five fields "minute hour day month weekday", or six with seconds, such as '
                f'"0 2 * * *" for every day at two, got {expression!r}'
            )
        try:
            croniter(expression, 0).get_next(float)
        except CroniterBadDateError:
            raise UsageError(f'cron: "{expression}" never fires: no such date exists') from None
        if catch_up not in get_args(CatchUp):
            raise UsageError(f'cron catch_up: expected "latest", "all" or "skip", got {catch_up!r}')
        self.expression = expression
        self.tz = None if tz is None else check_zone(tz, "cron tz")
        self.payload = values.encode(payload, "the payload of a cron schedule")
        self.catch_up: CatchUp = catch_up

    def named(self, name: str) -> ScheduleSpec:
        """Return the schedule under a name."""
        return ScheduleSpec(name, self.expression, tz=self.tz, payload=self.payload, catch_up=self.catch_up)

    def __repr__(self) -> str:
        return f"Cron({self.expression!r})"


CronOption: TypeAlias = str | Cron | Mapping[str, str | Cron]


def schedule_specs(option: CronOption | None) -> tuple[ScheduleSpec, ...]:
    """Return what ``cron=`` means.

    :raises UsageError: if it is neither a schedule nor a mapping of names to schedules, or an empty one.
    """
    if option is None:
        return ()
    named = option if isinstance(option, Mapping) else {SCHEDULE_NAME: option}
    if not named:
        raise UsageError('cron: expected one schedule at least, such as {"nightly": "0 2 * * *"}, got {}')
    for name in named:
        if not isinstance(name, str) or not 1 <= len(name) <= 200:
            raise UsageError(f"cron: expected schedule names of 1 to 200 characters, got {name!r}")
    return tuple((cron if isinstance(cron, Cron) else Cron(cron)).named(name) for name, cron in named.items())


class Limit:
    """How many executions of a task may run at once, over all supervisors; with a key, of each key.

    :param most: executions.
    :param key: the payload's field that gives the key, such as ``"tenant"``, or a path such as
        ``"order.tenant"``. None: all executions of the task count together.
    :raises UsageError: if this is no limit.
    """

    def __init__(self, most: int, key: str | None = None) -> None:
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MOST:
            raise UsageError(f"Limit: expected a whole number from 1 to {MOST:,}, got {most!r}")
        self.most = most
        self.key = None if key is None else check_path(key, "Limit key")

    def __repr__(self) -> str:
        return f"Limit({self.most!r})" if self.key is None else f"Limit({self.most!r}, key={self.key!r})"


ConcurrencyOption: TypeAlias = int | Limit | Sequence[int | Limit]


def concurrency_limits(option: ConcurrencyOption | None) -> tuple[int | None, KeyLimitSpec | None]:
    """Return what ``concurrency=`` means: the limit on all together, and that on each key.

    :raises UsageError: if it is no limit, or holds two of a kind.
    """
    if option is None:
        return None, None
    listed: Sequence[object] = option if isinstance(option, list | tuple) else [option]
    limits = [one if isinstance(one, Limit) else _plain_limit(one, option) for one in listed]
    plain = [limit.most for limit in limits if limit.key is None]
    by_key = [KeyLimitSpec(limit.most, limit.key) for limit in limits if limit.key is not None]
    if not limits or len(plain) > 1 or len(by_key) > 1:
        raise UsageError(
            "concurrency: expected at most one limit without a key and one with a key, such as "
            f'[50, Limit(2, key="tenant")], got {option!r}'
        )
    return next(iter(plain), None), next(iter(by_key), None)


def _plain_limit(value: object, option: object) -> Limit:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(
            'concurrency: expected a whole number of 1 or more, Limit(20, key="tenant"), or a list of both, '
            f"got {option!r}"
        )
    return Limit(value)


class DatabaseChange:
    """Changes to a table in the PostgreSQL database that Conductor uses: each makes an execution.

    It is made in the transaction of the change, and so is there if, and only if, that is committed.
    ``event.name`` is such as ``"public.contact.insert"``; the payload has ``operation``, ``table``, and the
    row before and after: ``old`` and ``new``, or None.

    :param table: such as ``"public.contact"``, as the database has it, without quotes; without a schema it is
        one of ``public``.
    :param operations: ``"insert"``, ``"update"`` or ``"delete"``, or a list of these.
    :param columns: what ``old`` and ``new`` tell; an update counts only if one of these changes. None: all.
    :param when: a condition in SQL on ``OLD`` and ``NEW``, such as ``"NEW.active"``. It becomes part of a
        trigger as it is, so it must be yours alone: never anybody's input.
    :raises UsageError: if this cannot be meant.
    """

    def __init__(
        self,
        table: str,
        operations: ChangeOperation | Iterable[ChangeOperation],
        *,
        columns: Iterable[str] | None = None,
        when: str | None = None,
    ) -> None:
        schema, name = _table(table)
        if when is not None and not (isinstance(when, str) and when.strip() and "\0" not in when):
            raise UsageError(
                f'DatabaseChange when: expected a condition in SQL, such as "NEW.active", got {when!r}'
            )
        self.spec = ChangeSpec(
            schema,
            name,
            _operations(operations),
            columns=None if columns is None else _columns(columns),
            when=when,
        )

    def __repr__(self) -> str:
        return f"DatabaseChange({self.spec.name!r}, {list(self.spec.operations)!r})"


def _table(given: str) -> tuple[str, str]:
    schema, dot, table = given.partition(".") if isinstance(given, str) else ("", "", "")
    named = (schema, table) if dot else (DEFAULT_SCHEMA, schema)
    if not all(_is_identifier(part) for part in named):
        raise UsageError(f'DatabaseChange: expected a table such as "public.contact", got {given!r}')
    return named


def _operations(given: ChangeOperation | Iterable[ChangeOperation]) -> tuple[ChangeOperation, ...]:
    known: tuple[ChangeOperation, ...] = get_args(ChangeOperation)
    listed = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []
    if not listed or not all(each in known for each in listed):
        raise UsageError(
            'DatabaseChange operations: expected "insert", "update" or "delete", or a list of these, '
            f"got {given!r}"
        )
    return tuple(each for each in known if each in listed)


def _columns(given: Iterable[str]) -> tuple[str, ...]:
    listed = () if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not listed or not all(_is_identifier(column) for column in listed):
        raise UsageError(
            f'DatabaseChange columns: expected a list of names such as ["id", "email"], got {given!r}'
        )
    return tuple(dict.fromkeys(listed))


def _is_identifier(name: object) -> bool:
    """PostgreSQL would cut a longer name off, and mean another one."""
    return isinstance(name, str) and name.isprintable() and 1 <= len(name.encode()) <= 63


OnOption: TypeAlias = DatabaseChange | Sequence[DatabaseChange]


def change_specs(option: OnOption | None) -> tuple[ChangeSpec, ...]:
    """Return what ``on=`` means.

    :raises UsageError: if it is neither a ``DatabaseChange`` nor a list of these.
    """
    if option is None:
        return ()
    listed = [option] if isinstance(option, DatabaseChange) else option
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(isinstance(one, DatabaseChange) for one in listed)
    ):
        raise UsageError(
            f'on: expected DatabaseChange("public.contact", "insert"), or a list of these, got {option!r}'
        )
    return tuple(dict.fromkeys(one.spec for one in listed))


class Retry:
    """How long to wait before each further attempt, and after which exceptions there is one.

    Either a list, whose last delay repeats, or exponential: ``initial``, multiplied by ``factor`` each time,
    at most ``maximum``. How many attempts a task has is said by its ``max_attempts``. A step is tried once
    more after each delay of the list; in the exponential form, three times in all.

    :param jitter: fraction of the wait by which it may grow or shrink at random, 0 to 1.
    :param on: exception types after which another attempt makes sense; None: all.
    :param never_on: exception types after which it does not; wins over ``on``.
    :raises UsageError: if the two forms are mixed, or a value cannot be meant.
    """

    def __init__(
        self,
        delays: Iterable[Duration] | None = None,
        *,
        initial: Duration | None = None,
        factor: float | None = None,
        maximum: Duration | None = None,
        jitter: float = 0.0,
        on: ExceptionTypes | Iterable[type[BaseException]] | None = None,
        never_on: ExceptionTypes | Iterable[type[BaseException]] = (),
    ) -> None:
        exponential = {"initial": initial, "factor": factor, "maximum": maximum}
        given = {name: value for name, value in exponential.items() if value is not None}
        if delays is not None and given:
            raise UsageError(
                f"Retry: expected delays, or initial, factor, maximum; got delays and {', '.join(given)}"
            )
        if not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
            raise UsageError(f"Retry jitter: expected a fraction from 0 to 1, got {jitter!r}")
        self.spec = msgspec.structs.replace(
            RetrySpec() if not given else _exponential(given),
            **({} if delays is None else {"delays": _delays(delays)}),
            jitter=float(jitter),
        )
        self.on = None if on is None else _exception_types(on, "on")
        self.never_on = _exception_types(never_on, "never_on")

    def covers(self, error: BaseException) -> bool:
        """Tell whether another attempt makes sense after this exception."""
        return not isinstance(error, self.never_on) and (self.on is None or isinstance(error, self.on))

    def waits_of_a_step(self) -> Iterator[float]:
        """Give the seconds to wait before each further try of a step."""
        spec = self.spec
        waits = spec.delays
        if waits is None:
            waits = tuple(
                min(spec.maximum, spec.initial * spec.factor**number) for number in range(TRIES_OF_A_STEP - 1)
            )
        for wait in waits:
            yield wait * random.uniform(1 - spec.jitter, 1 + spec.jitter)  # noqa: S311  # spreads load, no secret

    def __repr__(self) -> str:
        return f"Retry({self.spec!r})"


def _delays(given: Iterable[Duration]) -> tuple[float, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise UsageError(f'Retry delays: expected a list such as [15, "1m", "5m"], got {given!r}')
    return tuple(seconds(delay, "Retry delays") for delay in given)


def _exponential(given: Mapping[str, Any]) -> RetrySpec:
    factor = given.get("factor", 2.0)
    if not isinstance(factor, (int, float)) or not 1 <= factor < float("inf"):
        raise UsageError(f"Retry factor: expected a number of at least 1, got {factor!r}")
    defaults = RetrySpec()
    return RetrySpec(
        delays=None,
        initial=seconds(given.get("initial", defaults.initial), "Retry initial"),
        factor=float(factor),
        maximum=seconds(given.get("maximum", defaults.maximum), "Retry maximum"),
    )


def _exception_types(
    given: ExceptionTypes | Iterable[type[BaseException]], what: str
) -> tuple[type[BaseException], ...]:
    if isinstance(given, type) or not isinstance(given, Iterable):
        given = (given,)
    listed = tuple(given)
    for kind in listed:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise UsageError(f"Retry {what}: expected exception types such as (ValueError,), got {kind!r}")
    return listed


def step_retry(step: str, option: object) -> Retry | None:
    """Return what ``retry=`` of a step means; None: it is tried once.

    :raises UsageError: as :func:`retry_option`.
    """
    if option is None:
        return None
    try:
        return retry_option(option)
    except UsageError as error:
        raise UsageError(f'step "{step}": {error}') from None


def retry_option(option: object) -> Retry:
    """Return what ``retry=`` means; None is the default backoff.

    :raises UsageError: if it is not a ``Retry``.
    """
    if option is None:
        return Retry()
    if not isinstance(option, Retry):
        raise UsageError(
            f"retry: expected Retry(delays=[15, 30, 60]) or Retry(initial=15, factor=2), got {option!r}"
        )
    return option
