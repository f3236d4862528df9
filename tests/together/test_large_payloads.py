"""Payloads that are too large: refused where they come in, and never a death of runners."""

from __future__ import annotations

import pytest
from msgspec import Raw

from conductor_protocol.codec import MAX_FRAME
from conductor_protocol.operations import Invoked, InvokeMany, NewExecution
from conductor_supervisor.door import Door
from harness import Project

pytestmark = pytest.mark.together


def test_an_execution_that_cannot_be_sent_fails_and_kills_no_runner(project: Project) -> None:
    """It is the one that fails, for good and with what to do; those around it run in the same runner."""
    project.tasks(
        """
        @app.task(max_attempts=3)
        def size(event, ctx):
            return [len(event.payload), os.getpid()]
        """
    )
    with_room = Door(project.url, max_payload=2 * MAX_FRAME)
    payloads = [Raw(b'"%s"' % (b"x" * size)) for size in (1, MAX_FRAME, 1024, 8 * 1024 * 1024)]
    answer = with_room.perform(InvokeMany([NewExecution(task="size", payload=one) for one in payloads]))
    with_room.close()
    assert isinstance(answer, Invoked)
    supervisor = project.drain(runners=1)
    small, poison, other, large = map(project.view, answer.ids)
    assert (poison.state, poison.attempt) == ("failed", 1)
    assert poison.error is not None
    assert poison.error.type == "conductor.TooLarge"
    assert "the payload has 16,777,218 bytes, and a runner can be sent" in poison.error.message
    assert [one.state for one in (small, other, large)] == ["completed"] * 3
    assert len({one.result[1] for one in (small, other, large)}) == 1  # type: ignore[index]
    assert "with nothing in hand" not in supervisor.output()


def test_a_handler_may_invoke_what_the_operators_allow(project: Project) -> None:
    """The supervisor performs it, so its settings count, whatever the environment of clients says."""
    project.config('max_payload = "100"')
    project.tasks(
        """
        @app.task
        def keep(event, ctx): ...

        @app.task(max_attempts=1)
        def parent(event, ctx):
            keep.invoke("x" * 90)
            try:
                app.invoke_many("keep", ["small", "x" * 100])
            except TooLarge as error:
                return str(error)
        """
    )
    parent = project.invoke("parent")
    project.drain(runners=1)
    result = project.view(parent).result
    assert isinstance(result, str), result
    assert "a payload has 102 bytes as JSON; at most 100 (100 bytes) are allowed" in result
    assert len(project.views(task="keep")) == 1
