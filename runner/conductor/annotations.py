"""Annotations of handlers that would silently turn checks off: what is wrong with them."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

from conductor import values


def unresolvable(function: values.Callee) -> str | None:
    """Return why the annotation of the first parameter or of the result cannot be resolved; None if both can.

    Names may be defined later in the module than the function, so this is worth asking once it is imported.
    """
    for name in (values.first_parameter(function), "return"):
        if name is None:
            continue
        try:
            values.resolved(function, name)
        except Exception as error:  # noqa: BLE001  # evaluates the user's text
            written = values.written_annotations(function)[0][name]
            told = written if isinstance(written, str) else repr(written)
            return f"the annotation of {name}, {told}, cannot be resolved: {error}"
    return None


def undecodable(annotation: object) -> str | None:
    """Return why nothing can be made from JSON as an annotation says; None if it can."""
    if annotation is Any:
        return None
    try:
        values.check_decodable(annotation)
    except Exception as error:  # noqa: BLE001  # evaluates the annotations of the user's own classes
        return f"{type(error).__name__}: {error}"
    return _unknown_class(inspect.type_info(annotation), set())


def _unknown_class(found: object, seen: set[int]) -> str | None:
    """Look for a class that nobody knows how to make, in a description of a type and all that is in it."""
    if id(found) in seen:
        return None
    seen.add(id(found))
    if isinstance(found, inspect.CustomType):
        known = found.cls is object or values.is_pydantic_model(found.cls)
        return None if known else f"nobody knows how to make a {found.cls.__qualname__} from JSON"
    if isinstance(found, inspect.Type | inspect.Field):
        parts = [getattr(found, name) for name in found.__struct_fields__]
    else:
        parts = list(found) if isinstance(found, tuple) else []
    return next((why for part in parts if (why := _unknown_class(part, seen))), None)
