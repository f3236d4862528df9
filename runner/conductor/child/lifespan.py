"""What handlers share in a runner: set up before its first execution, torn down after its last."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from conductor.child.reports import OWN_FOLDER
from conductor.tasks import describe_function
from conductor_protocol.errors import UsageError

if TYPE_CHECKING:
    from conductor.child.eventloop import EventLoop


@contextmanager
def shared(function: Callable[[], object] | None, loop: EventLoop | None) -> Iterator[object]:
    """Run the generator that ``@app.lifespan`` marked, and give what it yields: ``ctx.state``.

    :param function: None: there is nothing to share.
    :param loop: where async handlers run too, so that they can use what was made there.
    :raises UsageError: if the generator does not yield once.
    """
    if function is None:
        yield None
        return
    try:
        if loop is not None and inspect.isasyncgenfunction(function):
            with loop.shared(function) as state:
                yield state
        else:
            with contextmanager(cast("Callable[[], Iterator[object]]", function))() as state:
                yield state
    except RuntimeError as error:
        if not _complains_of_the_yields(error):
            raise
        raise UsageError(
            f"@app.lifespan: expected a function that yields once, got {describe_function(function)}: {error}"
        ) from None


def _complains_of_the_yields(error: RuntimeError) -> bool:
    """Tell whether ``contextlib`` itself raised this, and of the generator that we have given it."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return len(files) > 1 and files[-1] == contextlib.__file__ and files[-2].startswith(OWN_FOLDER)
