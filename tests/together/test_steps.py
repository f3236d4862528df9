"""Steps: results are kept, side effects do not repeat, over every way in which an attempt can end."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing

import pytest

from harness import Project

pytestmark = pytest.mark.together


def test_an_execution_completes_with_its_result_and_its_steps(project: Project) -> None:
    """The main job, at its simplest."""
    project.tasks("""
        @app.task
        def process_dataset(event, ctx):
            items = ctx.step("fetch-items", lambda: [1, 2, 3])
            for item in items:
                ctx.step(f"process-{item}", note, f"item {item}")
            return {"processed": len(items), "from": event.payload["source"]}
    """)
    execution = project.invoke("process-dataset", {"source": "here"})
    project.drain()
    view = project.view(execution)
    assert view.state == "completed"
    assert view.result == {"processed": 3, "from": "here"}
    assert [s.name for s in view.steps] == ["fetch-items", "process-1", "process-2", "process-3"]
    assert [(a.number, a.outcome) for a in view.attempts] == [(1, "completed")]
    assert project.diary() == ["item 1", "item 2", "item 3"]


def test_async_handlers_run_steps_side_by_side(project: Project) -> None:
    """asyncio.gather over steps: each is recorded under its own name."""
    project.tasks("""
        async def square(n):
            await asyncio.sleep(0.01)
            note(f"square {n}")
            return n * n

        @app.task
        async def squares(event, ctx):
            found = await asyncio.gather(*(ctx.step(f"square-{n}", square, n) for n in range(20)))
            await ctx.checkpoint()
            if ctx.attempt == 1:
                raise RuntimeError("once more")
            return sum(found)

        @app.task(name="squares-again", retry=Retry(delays=[0]))
        async def again(event, ctx):
            return await squares.fn(event, ctx) if hasattr(squares, "fn") else await squares(event, ctx)
    """)
    execution = project.invoke("squares-again")
    project.drain()
    view = project.view(execution)
    assert (view.state, view.result, view.attempt) == ("completed", sum(n * n for n in range(20)), 1)
    assert sorted(project.diary()) == sorted(f"square {n}" for n in range(20))


@pytest.mark.parametrize("ending", ["raise", "exit", "segfault", "kill the supervisor"])
def test_no_acknowledged_step_runs_again(project: Project, ending: str) -> None:
    """Whatever ends the attempt, the next one goes on where it stopped."""
    project.tasks("""
        @app.task(retry=Retry(delays=[0]))
        def careful(event, ctx):
            for n in range(5):
                ctx.step(f"step-{n}", note, f"step {n}")
            if not Path("ended").exists():
                Path("ended").touch()
                match event.payload:
                    case "raise": raise RuntimeError("as asked")
                    case "exit": os._exit(3)
                    case "segfault": ctypes.string_at(0)
                    case "kill the supervisor":
                        os.kill(os.getppid(), signal.SIGKILL)
                        time.sleep(60)
            for n in range(5, 8):
                ctx.step(f"step-{n}", note, f"step {n}")
            return "done"
    """)
    execution = project.invoke("careful", ending)
    if ending == "kill the supervisor":
        assert project.start().wait() == -signal.SIGKILL
    project.drain()
    view = project.view(execution)
    assert (view.state, view.result) == ("completed", "done")
    assert project.diary() == [f"step {n}" for n in range(8)]
    assert len(view.steps) == 8


def test_a_second_step_of_one_name_is_an_error(project: Project) -> None:
    """It must never give an old result silently."""
    project.tasks("""
        @app.task(max_attempts=1)
        def twice(event, ctx):
            ctx.step("same", note, "first")
            ctx.step("same", note, "second")
    """)
    execution = project.invoke("twice")
    project.drain()
    view = project.view(execution)
    assert view.state == "failed"
    assert view.error is not None
    assert "DuplicateStep" in view.error.type
    assert project.diary() == ["first"]


def test_ten_thousand_recorded_steps_are_answered_without_running_one_again(project: Project) -> None:
    """More results than fit into one page come when they are asked for."""
    project.tasks("""
        @app.task
        def long(event, ctx):
            return sum(len(ctx.step(f"step-{n}", note, "ran")) for n in range(10_000))
    """)
    execution = project.invoke("long")
    with closing(sqlite3.connect(project.folder / "conductor.db")) as database, database:
        database.execute("UPDATE conductor_executions SET claim = 1")  # somebody has run it before
        database.executemany(
            "INSERT INTO conductor_steps (execution_id, name, result, started_at, ended_at, attempt) "
            "VALUES (?, ?, ?, 0, 1, 1)",
            [(execution, f"step-{n}", json.dumps("x" * 100)) for n in range(10_000)],
        )
    project.drain(runners=1)
    assert project.view(execution).result == 1_000_000
    assert project.diary() == []


def test_a_result_that_is_too_large_says_what_to_do(project: Project) -> None:
    """1 MiB by default; the message names size, limit and the way out."""
    project.tasks("""
        @app.task(max_attempts=1)
        def large(event, ctx):
            ctx.step("export", lambda: "x" * 2_000_000)
    """)
    execution = project.invoke("large")
    project.drain()
    error = project.view(execution).error
    assert error is not None
    assert "export" in error.message
    assert "max_result" in error.message
