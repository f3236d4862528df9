"""What a supervisor's log says of executions, with real processes."""

from __future__ import annotations

import pytest

from harness import Project, Supervisor

pytestmark = pytest.mark.together


def lines_about(supervisor: Supervisor, execution: str) -> list[str]:
    """Return what the log says of an execution, without time and date."""
    return [line.split(maxsplit=2)[2] for line in supervisor.output().splitlines() if execution in line]


def test_each_failed_attempt_has_one_line_that_says_what_happens_next(project: Project) -> None:
    """Of a handler that raises, and of one that takes its runner with it."""
    project.tasks("""
        @app.task(max_attempts=2, retry=Retry(delays=[0]))
        def victim(event, ctx):
            if ctx.attempt == 1:
                raise ValueError("too wide")
            ctx.step("last", ctypes.string_at, 0)
    """)
    execution = project.invoke("victim")
    supervisor = project.drain()
    first, second = lines_about(supervisor, execution)
    assert first == (
        f"WARNING execution {execution} of victim: attempt 1 of 2 failed: ValueError: too wide; "
        "tried again at once"
    )
    assert second.startswith(
        f"ERROR   execution {execution} of victim: attempt 2 of 2 failed for good: "
        'its runner died of SIGSEGV in step "last", '
    )


def test_an_execution_over_its_time_has_one_line(project: Project) -> None:
    """From the first word to the handler to the death of its runner."""
    project.tasks("""
        @app.task(timeout="100ms", max_attempts=1)
        def stuck(event, ctx):
            time.sleep(60)
    """)
    project.config("""
        timeout_grace = "0s"
        stop_grace = "0s"
    """)
    execution = project.invoke("stuck")
    supervisor = project.drain()
    (line,) = lines_about(supervisor, execution)
    assert line.startswith(
        f"ERROR   execution {execution} of stuck: attempt 1 of 1 failed for good: "
        "its runner was killed: over its timeout of 100 ms"
    )


def test_a_flood_of_failures_writes_few_lines(project: Project) -> None:
    """What is left out is counted, at the latest when the supervisor ends."""
    project.tasks("""
        @app.task(max_attempts=1)
        def broken(event, ctx):
            raise ValueError(event.payload)
    """)
    project.invoke_many("broken", list(range(500)))
    supervisor = project.drain()
    output = supervisor.output()
    shown = output.count("failed for good: ValueError: ")
    assert 10 <= shown < 100
    left_out = [
        int(line.split(" more of broken")[0].split()[-1])
        for line in output.splitlines()
        if " more of broken" in line
    ]
    assert shown + sum(left_out) == 500


def test_start_warns_where_python_clients_would_use_another_database(project: Project) -> None:
    """What they invoke would wait for ever."""
    project.tasks("")
    project.config('database = "sqlite:///other.db"')
    del project.environment["CONDUCTOR_DATABASE_URL"]
    output = project.drain().output()
    assert output.count("WARNING Python clients of tasks:app use ") == 1
    assert f"set CONDUCTOR_DATABASE_URL=sqlite:///{project.folder}/other.db for them" in output
