"""What an execution prints is in its logs, however it ends, and in nobody else's."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing

import psutil
import pytest

from conductor_protocol.operations import GetOutput, OutputPiece, Printed
from harness import Project

pytestmark = pytest.mark.together


def pieces(project: Project, execution: str) -> list[OutputPiece]:
    """Return all that is kept of what an execution printed."""
    found: list[OutputPiece] = []
    last, complete = 0, False
    while not complete:
        page = project.perform(GetOutput(execution, last))
        assert isinstance(page, Printed), page
        found += page.pieces
        last, complete = page.last, page.complete
    return found


def printed(project: Project, execution: str, stream: str = "stdout") -> str:
    """Return what is kept of one stream."""
    return "".join(piece.text for piece in pieces(project, execution) if piece.stream == stream)


ENDS = {
    "completes": "return 1",
    "fails": "raise ValueError('no')",
    "segfaults": "ctypes.string_at(0)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "exits": "os._exit(0)",
}


@pytest.mark.parametrize("end", ENDS)
def test_what_it_printed_is_in_its_logs_however_it_ends(project: Project, end: str) -> None:
    """Both streams, its log lines, half a line, of each attempt; and the neighbours have their own."""
    project.tasks(f"""
        @app.task(max_attempts=2, retry=Retry(delays=[0]))
        def victim(event, ctx):
            print("out of attempt", ctx.attempt)
            print("err of attempt", ctx.attempt, file=sys.stderr)
            ctx.logger.info("logged")
            print("half", end="", flush=True)
            {ENDS[end]}

        @app.task
        def neighbour(event, ctx):
            print("neighbour", event.payload)
    """)
    before = project.invoke_many("neighbour", list(range(5)))
    victim = project.invoke("victim")
    after = project.invoke_many("neighbour", list(range(5, 10)))
    project.drain(runners=1)

    attempts = [1] if end == "completes" else [1, 2]
    assert printed(project, victim) == "".join(f"out of attempt {n}\nhalf" for n in attempts)
    stderr = printed(project, victim, "stderr")
    for attempt in attempts:
        assert f"err of attempt {attempt}\n" in stderr
        assert f"INFO [victim {victim} attempt {attempt}] logged\n" in stderr
    assert {piece.attempt for piece in pieces(project, victim)} == set(attempts)
    if end == "segfaults":
        assert stderr.count("Fatal Python error: Segmentation fault") == 2
    for number, execution in enumerate([*before, *after]):
        assert printed(project, execution) == f"neighbour {number}\n"
        assert printed(project, execution, "stderr") == ""


def test_a_crash_report_has_the_last_words_of_its_own_execution(project: Project) -> None:
    """Not of those that ran in that runner before."""
    project.tasks("""
        @app.task
        def talks(event, ctx):
            print("of an earlier one")
            print("of an earlier one", file=sys.stderr)

        @app.task(max_attempts=1)
        def dies(event, ctx):
            print("my last words")
            os.write(2, b"native words")
            os.abort()
    """)
    talks = project.invoke("talks")
    dies = project.invoke("dies")
    project.drain(runners=1)
    crash = project.view(dies).attempts[0].crash
    assert crash is not None
    assert (crash.stdout, crash.stderr) == ("my last words\n", "native words")
    assert "Fatal Python error: Aborted" in crash.stacks
    assert printed(project, talks) == "of an earlier one\n"


def test_two_hundred_short_executions_each_have_their_own_line(project: Project) -> None:
    """Handed out many at a time, and some of them print nothing."""
    project.tasks("""
        @app.task
        def short(event, ctx):
            if event.payload % 5:
                print("number", event.payload)

        @app.task
        async def short_async(event, ctx):
            print("number", event.payload)
            await asyncio.sleep(0)
            print("err", event.payload, file=sys.stderr)
    """)
    plain = project.invoke_many("short", list(range(200)))
    awaited = project.invoke_many("short-async", list(range(200)))
    project.drain()
    for number, execution in enumerate(plain):
        assert printed(project, execution) == (f"number {number}\n" if number % 5 else "")
    for number, execution in enumerate(awaited):
        assert printed(project, execution) == f"number {number}\n"
        assert printed(project, execution, "stderr") == f"err {number}\n"


def test_what_native_code_and_child_processes_print_belongs_to_whom_they_run_for(project: Project) -> None:
    """Also where Python itself has printed nothing."""
    project.tasks("""
        import subprocess

        @app.task
        def before(event, ctx):
            print("before")

        @app.task
        def native(event, ctx):
            os.write(1, b"native\\n")
            subprocess.run(["sh", "-c", "echo child; echo complaint >&2"], check=True)
            note("printed")
            wait_for("go")
    """)
    before = project.invoke("before")
    native = project.invoke("native")
    supervisor = project.start(runners=1)
    project.until_noted("printed")
    project.until(lambda: "child\n" in printed(project, native), "it is written while it runs")
    project.until(lambda: printed(project, native, "stderr") == "complaint\n", "stderr too")
    assert project.view(native).state == "running"
    project.let_go("go")
    project.until_state(native, "completed")
    assert supervisor.stop() == 0
    assert printed(project, native) == "native\nchild\n"
    assert printed(project, before) == "before\n"


def test_a_runner_killed_from_outside_leaves_what_was_printed(project: Project) -> None:
    """And ``--follow`` shows it while it runs, and ends with the execution."""
    project.tasks("""
        @app.task(max_attempts=1)
        def stubborn(event, ctx):
            print("pid", os.getpid(), flush=True)
            note(f"{os.getpid()}")
            time.sleep(3600)
    """)
    supervisor = project.start(runners=1)
    execution = project.invoke("stubborn")
    (pid,) = project.until(project.diary, "the handler runs")
    os.kill(int(pid), signal.SIGKILL)
    followed = project.command("logs", execution, "--follow")
    assert (followed.returncode, followed.stdout) == (0, f"pid {pid}\n")
    assert project.view(execution).state == "failed"
    assert supervisor.stop() == 0


def test_a_supervisors_death_costs_a_second_of_output_and_no_more(project: Project) -> None:
    """What was written before stays, and the next attempt's follows it."""
    project.tasks("""
        @app.task
        def speaks(event, ctx):
            print("hello", flush=True)
            if not Path("second").exists():
                time.sleep(3600)
    """)
    supervisor = project.start(runners=1)
    execution = project.invoke("speaks")
    project.until(lambda: printed(project, execution), "it is written while it runs")
    supervisor.kill()
    project.let_go("second")
    project.drain()
    assert printed(project, execution) == "hello\nhello\n"


SPAM = {
    "100 MB without a newline": 'sys.stdout.write("x" * 100_000_000)',
    "garbage on stderr": "sys.stderr.buffer.write(os.urandom(3_000_000))",
    "lines without end": "[print(n) for n in range(30_000)]",
    "empty lines": "sys.stdout.write(chr(10) * 500_000)",
}


@pytest.mark.parametrize("spam", SPAM)
def test_whoever_prints_too_much_waits_and_nobody_else_does(project: Project, spam: str) -> None:
    """The supervisor stays small and answers others; the newest of it is kept, within the limit."""
    project.tasks(f"""
        @app.task
        def spams(event, ctx):
            note("spams")
            {SPAM[spam]}
            print(chr(10) + "the end")

        @app.task
        def asks(event, ctx):
            wait_for("diary")
            for _ in range(101):
                ctx.checkpoint()
            return "answered"
    """)
    project.config("log_limit = '64KiB'")
    asks = project.invoke("asks")
    spams = project.invoke("spams")
    supervisor = project.start(runners=2)
    assert project.until_state(asks, "completed", "failed").result == "answered"
    project.until_state(spams, "completed")
    assert psutil.Process(supervisor.process.pid).memory_info().rss < 200 * 1024 * 1024
    assert supervisor.stop() == 0
    kept = pieces(project, spams)
    assert 0 < sum(len(piece.text.encode()) for piece in kept) <= 64 * 1024
    assert kept[-1].text.endswith("\nthe end\n") or spam == "garbage on stderr"
    assert sum(piece.dropped for piece in kept) > 50_000  # between what was written at once and the end


def test_what_no_database_can_hold_is_spelled_out(project: Project) -> None:
    """Zero characters, half surrogates, bytes that are no text; and a terminal is not steered."""
    project.tasks(r"""
        @app.task
        def odd(event, ctx):
            print("a\0b", "\ud800", "\x1b[31m")
            sys.stdout.buffer.write(b"\xff\n")
    """)
    execution = project.invoke("odd")
    project.drain()
    assert printed(project, execution) == "a\\x00b \\ud800 \x1b[31m\n\\xff\n"
    assert project.command("logs", execution).stdout == "a\\x00b \\ud800 \\x1b[31m\n\\xff\n"


def test_nothing_is_kept_where_the_limit_is_zero(project: Project) -> None:
    """The crash report has its last words nevertheless."""
    project.tasks("""
        @app.task(max_attempts=1)
        def dies(event, ctx):
            print("last words")
            os._exit(1)
    """)
    project.config("log_limit = 0")
    execution = project.invoke("dies")
    supervisor = project.drain()
    assert pieces(project, execution) == []
    crash = project.view(execution).attempts[0].crash
    assert crash is not None
    assert crash.stdout == "last words\n"
    assert f"stdout {execution[-12:]}| last words" in supervisor.output()


def test_logs_live_as_long_as_their_execution(project: Project) -> None:
    """One that is not kept leaves none."""
    project.tasks("""
        @app.task(keep_completed=0)
        def fleeting(event, ctx):
            print("gone soon")

        @app.task
        def kept(event, ctx):
            print("stays")
    """)
    project.invoke("fleeting")
    kept = project.invoke("kept")
    project.drain()
    project.drain()  # which begins with a sweep
    assert [view.id for view in project.views()] == [kept]
    assert printed(project, kept) == "stays\n"
    assert json.loads(project.command("logs", kept, "--json").stdout)[0]["text"] == "stays"
    with closing(sqlite3.connect(project.folder / "conductor.db")) as connection:
        rows = connection.execute("SELECT DISTINCT execution_id FROM conductor_output").fetchall()
    assert rows == [(kept,)]
