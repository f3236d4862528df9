"""Readers of settings: each takes what a source says and returns plain values.

A source is a TOML file, an environment variable or an option; ``what`` names the place in messages. Every
reader raises UsageError for what it cannot take.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeAlias, get_args

import msgspec

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import MOST, check_path, is_storable, rate_spec
from conductor_protocol.manifest import TASK_NAME, Day, WindowSpec
from conductor_protocol.units import seconds, size_in_bytes, size_in_words
from conductor_supervisor.rules.windows import Windows
from conductor_supervisor.rules.zones import zone

Reader: TypeAlias = Callable[[object, str], object]

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

LARGEST_PAYLOAD = 8 * 1024 * 1024
"""Bytes. Payloads and results travel whole, and must fit well into a frame of the wire."""


MOST_RUNNERS = 10_000
"""Processes of one supervisor: more would be a slip of the finger, and the end of the machine."""

SHORTEST_LEASE = 3.0
"""Seconds. A tenth of it lies between renewals, and a fifteenth between our killing and the runners' own."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that helps somebody who wrote an unknown name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; expected one of: {', '.join(names)}" if names else ""


# Values


def text(value: object, what: str) -> str:
    """Read text that is not empty."""
    if isinstance(value, str) and value and is_storable(value):
        return value
    raise UsageError(f"{what}: expected text, got {value!r}")


def path(value: object, what: str) -> str:
    """Read the path of a file or folder, which need not be UTF-8."""
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise UsageError(f"{what}: expected a path, got {value!r}")


def url(value: object, what: str) -> str:
    """Read a URL; it is looked at where it is used. It is not shown, for it may hold a password."""
    if isinstance(value, str) and value:
        return value
    raise UsageError(f'{what}: expected a URL such as "sqlite:///conductor.db", got a {type(value).__name__}')


def count(value: object, what: str) -> int:
    """Read a whole number of 1 or more."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        if value <= MOST:
            return value
        raise UsageError(f"{what}: expected at most {MOST:,}, got {value!r}")
    hint = "; write it without quotes" if isinstance(value, str) and value.strip().isdecimal() else ""
    raise UsageError(f"{what}: expected a whole number of 1 or more, got {value!r}{hint}")


def runners(value: object, what: str) -> int:
    """Read how many runners there shall be: each is a process."""
    number = count(value, what)
    if number > MOST_RUNNERS:
        raise UsageError(f"{what}: expected at most {MOST_RUNNERS:,}, each is a process; got {value!r}")
    return number


def runners_or_none(value: object, what: str) -> int:
    """Read how many runners there shall be; zero is a number."""
    return (
        0 if value == 0 and isinstance(value, int) and not isinstance(value, bool) else runners(value, what)
    )


def from_text(read: Reader) -> Reader:
    """Return a reader of the same values where all is text: in variables and options of the command."""
    if read not in (count, runners):
        return read
    return lambda value, what: read(
        int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value, what
    )


_WHOLE = re.compile(r"\s*\d{1,100}\s*")


def duration(value: object, what: str) -> float:
    """Read a duration, in seconds."""
    if isinstance(value, (int, float, str)):
        return seconds(value, what)
    raise UsageError(f'{what}: expected seconds or text such as "90s", got {value!r}')


def positive_duration(value: object, what: str) -> float:
    """Read a duration of more than zero, in seconds."""
    number = duration(value, what)
    if number == 0:
        raise UsageError(f"{what}: expected more than zero, got {value!r}")
    return number


def lease(value: object, what: str) -> float:
    """Read how long a lease lasts, in seconds."""
    number = duration(value, what)
    if number < SHORTEST_LEASE:
        raise UsageError(f"{what}: expected {SHORTEST_LEASE:g}s or more, got {value!r}")
    return number


def retention(value: object, what: str) -> float | None:
    """Read how long something is kept, in seconds: ``false`` is for ever (None), ``true`` not at all."""
    if isinstance(value, bool):
        return 0.0 if value else None
    return duration(value, what)


def size(value: object, what: str) -> int:
    """Read a size of zero or more, in bytes."""
    if not isinstance(value, (int, str)):
        raise UsageError(f'{what}: expected bytes or text such as "256KiB", got {value!r}')
    return size_in_bytes(value, what)


def positive_size(value: object, what: str) -> int:
    """Read a size of more than zero, in bytes."""
    if not isinstance(value, (int, str)):
        raise UsageError(f'{what}: expected bytes or text such as "512MiB", got {value!r}')
    size = size_in_bytes(value, what)
    if size == 0:
        raise UsageError(f"{what}: expected more than zero, got {value!r}")
    return size


def payload_size(value: object, what: str) -> int:
    """Read the largest size of a payload or result, in bytes."""
    if not isinstance(value, (int, str)):
        raise UsageError(f'{what}: expected bytes or text such as "2MiB", got {value!r}')
    size = size_in_bytes(value, what)
    if not 1 <= size <= LARGEST_PAYLOAD:
        raise UsageError(f"{what}: expected at most {size_in_words(LARGEST_PAYLOAD)}, got {value!r}")
    return size


def timezone(value: object, what: str) -> str:
    """Read the name of a time zone."""
    return zone(text(value, what), what).key


def log_level(value: object, what: str) -> str:
    """Read a level of the log."""
    levels = get_args(LogLevel)
    if isinstance(value, str) and value.lower() in levels:
        return value.lower()
    raise UsageError(f"{what}: expected one of {', '.join(levels)}, got {value!r}")


def unless_false(read: Reader) -> Reader:
    """Return a reader that takes ``false`` for "no such limit" (None)."""
    return lambda value, what: None if value is False else read(value, what)


# Tables


def table(
    value: object, what: str, keys: Mapping[str, Reader], declared: Iterable[str] = ()
) -> dict[str, object]:
    """Read a table whose keys are all known.

    :param declared: what is set in the code alone.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{what}: expected a table, got {value!r}")
    for key in value:
        if key in declared:
            raise UsageError(f"{what}: {key} is set in the code alone: @app.task({key}=...)")
        if key not in keys:
            raise UsageError(f"{what}: there is no setting {key!r}{suggestion(key, keys)}")
    return {key: keys[key](entry, f"{what}: {key}") for key, entry in value.items()}


def named_tables(keys: Mapping[str, Reader], declared: Iterable[str] = ()) -> Reader:
    """Return a reader of tables such as ``[tasks.NAME]``, each with the same keys; see :func:`table`."""

    def read(value: object, what: str) -> dict[str, dict[str, object]]:
        if not isinstance(value, dict):
            raise UsageError(f"{what}: expected tables, one for each name, got {value!r}")
        for name in value:
            if not TASK_NAME.fullmatch(name):
                raise UsageError(
                    f"{what}: expected a name of letters, digits, -, _ and . (at most 200), got {name!r}"
                )
        return {name: table(entry, f"{what}.{name}", keys, declared) for name, entry in value.items()}

    return read


# Limits over all supervisors


def rate(value: object, what: str) -> dict[str, object]:
    """Read a number of starts in a period."""
    return msgspec.structs.asdict(rate_spec(value, what))


def concurrency(value: object, what: str) -> dict[str, object]:
    """Read a limit on what runs at once, or one without and one with a key; ``false`` for none."""
    if value is False:
        return {}
    limits = [_limit(one, what) for one in (value if isinstance(value, list) else [value])]
    plain = [limit for limit in limits if "key" not in limit]
    by_key = [limit for limit in limits if "key" in limit]
    if not limits or len(plain) > 1 or len(by_key) > 1:
        raise UsageError(
            f"{what}: expected at most one limit without a key and one with a key, such as "
            f'[50, {{limit = 2, key = "tenant"}}], got {value!r}'
        )
    return {
        "plain": plain[0]["limit"] if plain else None,
        "by_key": {"most": by_key[0]["limit"], "key": by_key[0]["key"]} if by_key else None,
    }


def _limit(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        return {"limit": count(value, what)}
    if "limit" not in value:
        raise UsageError(f'{what}: expected {{limit = 2, key = "tenant"}}, got {value!r}')
    return table(value, what, LIMIT)


LIMIT: dict[str, Reader] = {"limit": count, "key": check_path}
"""The keys of a limit that is written as a table."""


# Windows


def windows(value: object, what: str) -> list[dict[str, object]]:
    """Read one window or a list of them; ``false`` or an empty list is "always open"."""
    if value is False:
        return []
    listed = value if isinstance(value, list) and not _is_pair(value) else [value]
    read = [_window(entry, what) for entry in listed]
    try:
        Windows(msgspec.convert(read, tuple[WindowSpec, ...]), "UTC")
    except UsageError as error:
        raise UsageError(f"{what}: {str(error).removeprefix('window: ')}") from error
    return read


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _window(value: object, what: str) -> dict[str, object]:
    if isinstance(value, list) and _is_pair(value):
        return {"start": value[0], "end": value[1]}
    if not isinstance(value, dict) or not {"start", "end"} <= value.keys():
        raise UsageError(
            f'{what}: expected ["20:00", "06:00"], {{start = "20:00", end = "06:00", tz = "Europe/Berlin", '
            f'days = ["mon", "fri"], grace = "5m"}}, or a list of these, got {value!r}'
        )
    return table(value, what, WINDOW)


def _days(value: object, what: str) -> list[str]:
    days = get_args(Day)
    if isinstance(value, list) and value and all(day in days for day in value):
        return value
    raise UsageError(f"{what}: expected a list of {', '.join(days)}, got {value!r}")


WINDOW: dict[str, Reader] = {
    "start": text,
    "end": text,
    "tz": timezone,
    "days": _days,
    "grace": duration,
}
"""The keys of a window that is written as a table."""
