"""What user code does to its own process costs that process, and nobody else."""

from __future__ import annotations

import pytest

from harness import Project

pytestmark = pytest.mark.together


def test_a_closed_stdout_does_not_silence_the_runner_that_gets_its_descriptor(project: Project) -> None:
    """A runner whose output is not read any more would wait for ever with a full pipe."""
    project.tasks("""
        @app.task
        def closes(event, ctx):
            os.close(1)
            note("closed")
            wait_for("go")
            os._exit(1)

        @app.task(max_attempts=1)
        def dies(event, ctx):
            os._exit(1)

        @app.task
        def prints(event, ctx):
            for _ in range(3000):
                print("x" * 100)
    """)
    supervisor = project.start(runners=2)
    project.invoke("closes")
    project.until_noted("closed")
    project.until_state(project.invoke("dies"), "failed")
    project.until_state(project.invoke("prints"), "completed")
    project.let_go("go")
    for _ in range(4):
        project.until_state(project.invoke("prints"), "completed")
    assert supervisor.stop() == 0


def test_progress_that_is_no_number_is_an_error_of_the_handler(project: Project) -> None:
    """It never reaches the wire; and a long message is cut off."""
    project.tasks("""
        @app.task(max_attempts=1)
        def wrong(event, ctx):
            ctx.progress(event.payload)

        @app.task
        def wordy(event, ctx):
            ctx.progress(1, 2, os.fsdecode(b"file-\\xff\\0") + "x" * 30_000_000)
            ctx.checkpoint()
    """)
    wrong = project.invoke_many("wrong", ["three", None])
    wordy = project.invoke("wordy")
    project.drain()
    for execution in wrong:
        error = project.view(execution).error
        assert error is not None
        assert "expected a finite number" in error.message
    assert project.view(wordy).state == "completed"


def test_a_runner_that_breaks_the_protocol_is_stopped_and_blamed(project: Project) -> None:
    """It might wait for ever for an answer to what nobody could read."""
    project.tasks("""
        import gc, zmq

        @app.task(max_attempts=1)
        def scribbles(event, ctx):
            for thing in gc.get_objects():
                if isinstance(thing, zmq.Socket) and not thing.closed:
                    thing.send(b"garbage")
            time.sleep(3600)

        @app.task
        def bystander(event, ctx):
            return "done"
    """)
    scribbles = project.invoke("scribbles")
    bystanders = project.invoke_many("bystander", [None] * 20)
    project.drain()
    view = project.view(scribbles)
    assert view.state == "failed"
    crash = view.attempts[0].crash
    assert crash is not None
    assert "broke the protocol" in crash.cause
    assert all(project.view(b).result == "done" for b in bystanders)
