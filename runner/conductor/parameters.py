"""The parameters of a handler, as it annotates them: what is plainly mixed up is told before it runs."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, get_origin

from conductor import values

_NOT_ONE_CLASS = (Any, typing.Union, types.UnionType, typing.Annotated)
"""Classes to Python, in some of its versions, that say nothing of which class is meant."""


def mixed_up(function: values.Callee, event: type, ctx: type) -> str | None:
    """Return what is expected of a handler's parameters, if their annotations show a mistake; else None.

    Nothing is said of a parameter without an annotation, or with one that cannot be resolved yet.

    :param event: the class of the first parameter.
    :param ctx: the class of the second.
    """
    names = [one.name for one in inspect.signature(function).parameters.values() if _is_single(one)][:2]
    if len(names) < 2:
        return None
    first, second = (values.hint(function, name) for name in names)
    if _may_be(first, event) and _may_be(second, ctx):
        return None
    payload = _shown(first) if not _may_be(first, ctx) else ""
    kept = next((_shown(one) for one in (first, second) if one is not Any and _may_be(one, event)), None)
    right = kept or (f"{event.__name__}[{payload}]" if payload else event.__name__)
    return (
        f"expected the event first and the context second, got ({_written(names[0], first)}, "
        f"{_written(names[1], second)}); write ({event.__name__.lower()}: {right}, ctx: {ctx.__name__})"
    )


def _is_single(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def _may_be(annotation: object, expected: type) -> bool:
    """Tell whether an annotation may be meant for this class: it, a relative, or no class at all."""
    kind = get_origin(annotation) or annotation
    if not isinstance(kind, type) or kind in _NOT_ONE_CLASS or getattr(kind, "_is_protocol", False):
        return True
    return expected in kind.__mro__ or kind in expected.__mro__


def _written(name: str, annotation: object) -> str:
    return name if annotation is Any else f"{name}: {_shown(annotation)}"


def _shown(annotation: object) -> str:
    if get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__qualname__
    return inspect.formatannotation(annotation).replace("conductor.tasks.", "")
