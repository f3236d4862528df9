"""Results and payloads: Python values to JSON and back, typed where an annotation says so.

A value always takes the way through JSON, also where a step's result is used in the attempt that made it.
So a handler sees the same in its first run and when it is run again: without an annotation a tuple comes
back as a list and a moment as text, with one they come back as they were.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from conductor.errors import NotStorable, TooLarge
from conductor_protocol.errors import UsageError
from conductor_protocol.units import size_in_words

Callee = Callable[..., object]


class _Undecodable(Exception):
    """An annotation names a type of which nobody knows how to make it from JSON."""


def storable(text: str) -> str:
    """Return text without what messages or some database cannot hold: lone surrogates, zero characters."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


# To JSON


def encode(value: object, what: str) -> bytes:
    """Return a value as JSON.

    :param what: the value in words, such as ``the result of step "fetch"``.
    :raises NotStorable: if it, or something in it, has no form in JSON.
    """
    if value is None:
        return b"null"
    try:
        encoded = _encoder.encode(value)
        _check_json(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotStorable(
            f"{what}, of type {type(value).__qualname__}, cannot be stored as JSON: {error}. Use plain data: "
            "numbers, text, lists, dicts, dates, dataclasses, msgspec Structs, pydantic models"
        ) from error
    if b"null" in encoded and (found := _not_finite(_plain_data(value), "$")) is not None:
        path, number = found
        raise NotStorable(
            f"{what} has {number} at {path}, for which JSON has no number. Put something else there, "
            'such as None or the text "nan"'
        )
    return encoded


def _check_json(encoded: bytes) -> None:
    """Refuse what is not JSON. The encoder makes none such, but ``msgspec.Raw`` is taken as it is.

    :raises ValueError: if it is not; ``msgspec.DecodeError`` is one.
    """
    _syntax.decode(encoded)
    if not encoded.isascii():
        encoded.decode()


_syntax = msgspec.json.Decoder(msgspec.Raw)


def _plain_data(value: object) -> object:
    """Return what was encoded as lists and dicts, with the floats that the encoder writes as ``null``."""
    return msgspec.to_builtins(value, enc_hook=_dumped)


def _dumped(value: object) -> object:
    model = _pydantic_model()
    if model is None or not isinstance(value, model):
        return None  # msgspec.Raw: it is JSON already
    told_otherwise = value.model_config.get("ser_json_inf_nan", "null") != "null"
    return None if told_otherwise else value.model_dump(mode="json", by_alias=True)


def _not_finite(value: object, path: str) -> tuple[str, float] | None:
    """Return the first float in plain data that is no number or endless, with the path to it."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, value)
    inner: typing.Iterable[tuple[str, object]] = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{key}", one) for key, one in value.items())
    elif isinstance(value, list | tuple):
        inner = ((f"{path}[{index}]", one) for index, one in enumerate(value))
    return next((found for where, one in inner if (found := _not_finite(one, where)) is not None), None)


def check_size(encoded: bytes, limit: int, what: str) -> None:
    """Refuse what is too large to be stored.

    :param limit: bytes.
    :raises TooLarge: if it is.
    """
    if len(encoded) > limit:
        raise TooLarge(
            f"{what} has {len(encoded):,} bytes as JSON; at most {limit:,} ({size_in_words(limit)}) are "
            "allowed. Store it elsewhere, as a file or an object, and return a reference to it; "
            "or raise max_result in conductor.toml"
        )


def _to_plain(value: object) -> object:
    """Turn what msgspec does not know into what it knows."""
    model = _pydantic_model()
    if model is not None and isinstance(value, model):
        return msgspec.Raw(value.model_dump_json(by_alias=True).encode())
    if inspect.isawaitable(value):
        close_unawaited(value)
        raise TypeError("nobody has awaited it; write await before the call that gave it")
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON")


def close_unawaited(awaitable: object) -> None:
    """Keep Python from warning of a coroutine that nobody awaits: an error says it better."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


_encoder = msgspec.json.Encoder(enc_hook=_to_plain)


# From JSON


def decode(json: bytes, annotation: object = Any) -> Any:
    """Return the value that JSON describes, as the annotation says.

    An annotation that cannot be made from JSON at all is treated as if there were none.

    :raises msgspec.ValidationError: if the JSON does not fit; the message has the path to the field.
    :raises UsageError: as :func:`check_annotation`.
    """
    if annotation is Any:
        return _plain.decode(json)
    decoder = _decoder_for(annotation)
    try:
        return decoder.decode(json)
    except _Undecodable:
        return _plain.decode(json)


def check_annotation(annotation: object) -> None:
    """Refuse a union whose members look alike in JSON, such as two dataclasses: nobody could tell them apart.

    :raises UsageError: if it is one, or has one in it.
    """
    if annotation is not Any:
        _decoder_for(annotation)


def _decoder_for(annotation: object) -> msgspec.json.Decoder[Any]:
    try:
        return _cached_decoder(annotation)
    except TypeError as error:  # not hashable, or not a type that msgspec can read
        if str(error).startswith(_AMBIGUOUS):
            raise UsageError(
                f"the annotation {annotation} cannot be read back from JSON: {error}. Write one type, "
                "tagged msgspec Structs, or Any for plain data"
            ) from error
        return _plain


_AMBIGUOUS = "Type unions"
"""How msgspec begins to say that it could not tell the members of a union apart."""


@functools.lru_cache(maxsize=512)
def _cached_decoder(annotation: object) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(typing.cast("type[Any]", annotation), dec_hook=_from_plain)


def _from_plain(kind: Any, value: object) -> Any:
    """Make what msgspec does not know from what it has read."""
    model = _pydantic_model()
    if model is not None and _is_subclass(kind, model):
        # As JSON, because pydantic is then as lenient as with a request's body: text becomes a date.
        return kind.model_validate_json(_encoder.encode(value))
    raise _Undecodable(kind)


_plain: msgspec.json.Decoder[Any] = msgspec.json.Decoder(dec_hook=_from_plain)


def is_pydantic_model(kind: object) -> bool:
    """Tell whether pydantic makes and checks values of a type."""
    model = _pydantic_model()
    return model is not None and _is_subclass(kind, model)


def check_decodable(annotation: object) -> None:
    """Make a decoder and forget it.

    :raises Exception: if none can be made; also whatever the annotations of the user's classes raise.
    """
    msgspec.json.Decoder(typing.cast("type[Any]", annotation), dec_hook=_from_plain)


def _is_subclass(kind: object, base: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _pydantic_model() -> Any | None:
    """Return pydantic's base class if the user's code has imported pydantic: no value needs it otherwise."""
    pydantic = sys.modules.get("pydantic")
    return getattr(pydantic, "BaseModel", None)


# What annotations say


def result_annotation(function: Callee) -> object:
    """Return what a function says that it returns, or ``Any``.

    Looks through ``functools.partial``, ``functools.wraps``, methods and coroutines; a class returns itself.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        return function
    found = hint(function, "return")
    if typing.get_origin(found) in (collections.abc.Coroutine, collections.abc.Awaitable):
        found = typing.get_args(found)[-1]
    return Any if found in (typing.NoReturn, typing.Never) else found


def first_parameter_annotation(function: Callee) -> object:
    """Return how a function annotates its first parameter, or ``Any``."""
    name = first_parameter(function)
    return Any if name is None else hint(function, name)


def first_parameter(function: Callee) -> str | None:
    """Return the name of a function's first parameter, if it has one."""
    return next(iter(inspect.signature(function).parameters), None)


def hint(function: Callee, name: str) -> Any:
    """Return one annotation of a function; ``Any`` if there is none, or it cannot be resolved."""
    try:
        return resolved(function, name)
    except Exception:  # noqa: BLE001  # evaluates the user's text: a name only type checkers see, a typo
        return Any


def resolved(function: Callee, name: str) -> Any:
    """Return one annotation of a function, its text evaluated, or ``Any`` if there is none.

    :raises Exception: whatever the user's text raises.
    """
    annotations, names = written_annotations(function)
    if name not in annotations:
        return Any
    alone = types.SimpleNamespace(__annotations__={name: annotations[name]})
    return typing.get_type_hints(alone, names, include_extras=True)[name]


def written_annotations(function: Callee) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a function's annotations as they are written, and the names that they may use."""
    function = inspect.unwrap(function)
    if not hasattr(function, "__annotations__"):
        function = getattr(type(function), "__call__", function)  # noqa: B004  # an object with __call__
    inner = inspect.unwrap(function)
    return getattr(inner, "__annotations__", None) or {}, getattr(inner, "__globals__", {})
