"""Rates and keys as people write them."""

from __future__ import annotations

import msgspec
import pytest

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import NO_KEY, check_path, key_in, limits_in_words, rate_in_words, rate_spec
from conductor_protocol.manifest import KeyLimitSpec


@pytest.mark.parametrize(
    ("payload", "path", "key"),
    [
        ({"tenant": "acme"}, "tenant", "acme"),
        ({"tenant": 7}, "tenant", "7"),
        ({"vip": True}, "vip", "true"),
        ({"order": {"tenant": "acme"}}, "order.tenant", "acme"),
        ({"tenant": None}, "tenant", NO_KEY),
        ({"tenant": ""}, "tenant", NO_KEY),
        ({}, "tenant", NO_KEY),
        (None, "tenant", NO_KEY),
        ([1], "tenant", NO_KEY),
        ({"order": 3}, "order.tenant", NO_KEY),
    ],
)
def test_a_key_is_what_the_field_holds(payload: object, path: str, key: str) -> None:
    """Text, a whole number or a boolean; nothing where there is nothing."""
    assert key_in(msgspec.json.encode(payload), path) == key


@pytest.mark.parametrize("value", [1.5, [1], {"a": 1}, "x" * 501, "a\0b"])
def test_what_cannot_be_a_key_is_refused_with_the_path(value: object) -> None:
    """Nobody would know what is counted together."""
    payload = msgspec.json.encode({"order": {"tenant": value}})
    with pytest.raises(UsageError, match=r"payload\.order\.tenant: expected text of at most 500 characters"):
        key_in(payload, "order.tenant")


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", " a", 3, None])
def test_a_path_names_fields(path: object) -> None:
    """With dots between them."""
    with pytest.raises(UsageError, match="key: expected the name of a field"):
        check_path(path)


@pytest.mark.parametrize(
    "text", ["100/minute", "5/second", "1/hour", "1000/day", "5/10s", "5/1.5s", "7/1h30m"]
)
def test_a_rate_in_words_is_read_as_itself(text: str) -> None:
    """What ``tasks`` shows can be written into a file."""
    rate = rate_spec(text)
    assert rate_in_words(rate) == text
    assert rate_spec(rate_in_words(rate)) == rate


def test_limits_in_words_name_the_key() -> None:
    """First the one on all together."""
    assert limits_in_words(50, KeyLimitSpec(2, "tenant")) == "50, 2 by tenant"
    assert limits_in_words(None, None) == ""
