"""How people write limits over all supervisors, and how an execution comes by the key it is counted under."""

from __future__ import annotations

import re

import msgspec

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import KeyLimitSpec, RateSpec
from conductor_protocol.units import in_words, seconds

MOST = 2**31 - 1
"""What is counted at most: a number that every column and every message holds."""

LONGEST_KEY = 500
"""Characters of a concurrency key."""

NO_KEY = ""
"""The key of an execution that has none, of a task that limits by key."""

MOST_STARTS = 100_000
"""Starts that a rate may allow in one period: each is remembered for as long as the period lasts."""

SHORTEST_PERIOD = 1.0
LONGEST_PERIOD = 366 * 86400.0

SECONDS_WRITTEN = 59.95
"""Periods below this are written in seconds, longer ones as ``1m30s``."""

_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_RATE = re.compile(r"\s*(\d{1,20})\s*/\s*(\S.*?)\s*")
_FIELD = r"[^.\s][^.]*"
_PATH = re.compile(rf"{_FIELD}(\.{_FIELD})*")


# Rates


def rate_spec(text: object, what: str = "rate") -> RateSpec:
    """Return what "100/minute" means.

    :param what: the setting's name, for the message.
    :raises UsageError: if it is not a number of starts in a period.
    """
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise UsageError(
            f'{what}: expected a number of starts in a period, such as "100/minute", "5/second", "1000/day" '
            f'or "10/30s", got {_shown(text)}'
        )
    count, period = int(found[1]), _period(found[2], text, what)
    if not 1 <= count <= MOST_STARTS:
        raise UsageError(
            f"{what}: expected 1 to {MOST_STARTS:,} starts in a period, got {text!r}; "
            "a shorter period with fewer starts means the same in the long run"
        )
    if not SHORTEST_PERIOD <= period <= LONGEST_PERIOD:
        raise UsageError(f"{what}: expected a period from one second to 366 days, got {text!r}")
    return RateSpec(count, period)


def _period(written: str, text: object, what: str) -> float:
    """Return the length of a period in seconds; ``text`` is the rate that it was written in."""
    if (named := _PERIODS.get(written.lower())) is not None:
        return named
    try:
        return seconds(written)
    except UsageError as error:
        raise UsageError(
            f"{what}: expected as its period second, minute, hour, day, or a duration such as "
            f'"30s", got {text!r}'
        ) from error


def rate_in_words(rate: RateSpec) -> str:
    """Return a rate as people write it."""
    named = next((name for name, length in _PERIODS.items() if length == rate.seconds), None)
    return f"{rate.count}/{named or _period_in_words(rate.seconds)}"


def _period_in_words(length: float) -> str:
    return f"{length:g}s" if length < SECONDS_WRITTEN else in_words(length)


# Limits by key


def check_path(path: object, what: str = "key") -> str:
    """Return the path of a payload's field.

    :raises UsageError: if it is none.
    """
    if not isinstance(path, str) or not is_key(path) or not _PATH.fullmatch(path):
        raise UsageError(
            f'{what}: expected the name of a field of the payload, such as "tenant", or a path to one inside '
            f'it, such as "order.tenant", got {_shown(path)}'
        )
    return path


def limits_in_words(concurrency: int | None, by_key: KeyLimitSpec | None) -> str:
    """Return limits on what runs at once as people say them: "50, 2 by tenant"."""
    plain = [] if concurrency is None else [str(concurrency)]
    return ", ".join(plain if by_key is None else [*plain, f"{by_key.most} by {by_key.key}"])


def key_in(payload: bytes, path: str) -> str:
    """Return the key that a payload gives: text as it is, a whole number or boolean as JSON writes it.

    :param payload: JSON.
    :return: :data:`NO_KEY` if the field is missing, null or empty text.
    :raises UsageError: if it holds anything else; the message has the path.
    """
    value: object = msgspec.json.decode(payload)
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return NO_KEY
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, str) and is_key(value):
        return value
    raise UsageError(
        f"payload.{path}: expected text of at most {LONGEST_KEY} characters without zeros, a whole number, "
        f"true, false or null, because concurrency is limited by it; got {_shown(value)}"
    )


def is_key(value: str) -> bool:
    """Tell whether every database can store this text, and find it in an index."""
    return len(value) <= LONGEST_KEY and is_storable(value)


def is_storable(value: str) -> bool:
    """Tell whether every database can store this: zeros are not taken, nor half a surrogate pair."""
    if "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
