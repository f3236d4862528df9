"""What handlers share in a runner: set up before its first execution, torn down after its last."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from conductor.child.eventloop import EventLoop


@contextmanager
def shared(function: Callable[[], object] | None, loop: EventLoop | None) -> Iterator[object]:
    """Run the generator that ``@app.lifespan`` marked, and give what it yields: ``ctx.state``.

    :param function: None: there is nothing to share.
    :param loop: where async handlers run too, so that they can use what was made there.
    """
    if function is None:
        yield None
    elif loop is not None and inspect.isasyncgenfunction(function):
        with loop.shared(function) as state:
            yield state
    else:
        with contextmanager(cast("Callable[[], Iterator[object]]", function))() as state:
            yield state
