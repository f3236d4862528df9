"""What clients may name things by; whatever else comes is answered with what to write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import is_storable
from conductor_protocol.operations import LIST_AT_MOST, ExecutionView, State

if TYPE_CHECKING:
    from conductor.client import Handle
    from conductor.tasks import Task

ExecutionName: TypeAlias = "str | Handle[Any] | ExecutionView"
"""An execution: its id, its handle, or what ``get`` and ``list`` return of it."""

TaskName: TypeAlias = "str | Task[..., Any, Any]"
"""A task: its name, or the task itself."""

_WHOLE_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def execution_id(given: object, what: str) -> str:
    """Return the id of the execution that is meant.

    :param what: the argument's place, such as ``cancel(execution)``.
    :raises UsageError: if it is none.
    """
    from conductor.client import Handle

    if isinstance(given, str) and is_storable(given):
        return given
    if isinstance(given, Handle | ExecutionView):
        return given.id
    raise UsageError(
        f"{what}: expected an execution's id as text, or its handle, got {given!r}; "
        "write handle.id, or str(...) for another kind of id"
    )


def older_than(given: object) -> str:
    """Return the id of the execution before which a page of a list is to begin; it need not exist any more.

    :raises UsageError: if it is none.
    """
    execution = execution_id(given, "list(before)")
    if not _WHOLE_ID.fullmatch(execution):
        raise UsageError(
            f"list(before): expected the whole id of an execution, got {execution!r}; "
            "write the id of the last one of the page before"
        )
    return execution


def task_name(given: object, what: str) -> str:
    """Return the name of the task that is meant.

    :raises UsageError: if it is none.
    """
    from conductor.tasks import Task

    if isinstance(given, str) and is_storable(given):
        return given
    if isinstance(given, Task):
        return given.name
    raise UsageError(f'{what}: expected a task or its name, such as "process-dataset", got {given!r}')


def state(given: object) -> State:
    """Return the state that is meant.

    :raises UsageError: if it is none.
    """
    for known in get_args(State):
        if given == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"state: expected one of {', '.join(get_args(State))}, got {given!r}")


def limit(given: object) -> int:
    """Return how many executions are wanted.

    :raises UsageError: if it is no whole number, or nobody lists so many.
    """
    if not isinstance(given, int) or isinstance(given, bool):
        raise UsageError(f"limit: expected a whole number, got {given!r}")
    if not 1 <= given <= LIST_AT_MOST:
        raise UsageError(f"limit: expected 1 to {LIST_AT_MOST}, got {given}")
    return given


def reason(given: object) -> str | None:
    """Return why something is cancelled.

    :raises UsageError: if it is no text.
    """
    if given is None or isinstance(given, str):
        return given
    raise UsageError(f'reason: expected text such as "wrong customer", got {given!r}')
