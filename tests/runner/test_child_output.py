"""A runner marks whose output it is, once for each that prints, and leaves everything else alone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from conductor_protocol.marks import MarkReader, Speaker

KEY = "0123456789abcdef"
ONE, TWO = Speaker("one", 1, 1), Speaker("two", 2, 1)

PRELUDE = f"""
import asyncio, contextlib, ctypes, io, logging, os, subprocess, sys, threading, types
from conductor.child.output import console
from conductor_protocol.marks import Speaker
ONE, TWO = Speaker("one", 1, 1), Speaker("two", 2, 1)
console.install()
console.mark_with("{KEY}")
"""

Pieces = list[tuple[Speaker | None, bytes]]


def run(script: str, folder: Path, status: int = 0) -> tuple[Pieces, Pieces]:
    """Run a script in a process of its own; return what it printed on each stream, and for whom."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        cwd=folder,
        capture_output=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, done.stderr
    return read(done.stdout), read(done.stderr)


def read(data: bytes) -> Pieces:
    reader = MarkReader(KEY)
    joined: Pieces = []
    for speaker, piece in reader.feed(data) + reader.finish():
        if joined and joined[-1][0] == speaker:
            joined[-1] = (speaker, joined[-1][1] + piece)
        else:
            joined.append((speaker, piece))
    return joined


def test_each_line_bears_the_name_of_its_execution(tmp_path: Path) -> None:
    """On both streams; what is printed between them is nobody's; half lines are let out at the end."""
    out, err = run(
        """
        print("importing")
        console.begins(ONE)
        print("a\\u00e9\\ud800", end="")
        sys.stdout.buffer.write(b"\\xff")
        sys.stdout.write("b\\nc")
        print("e", file=sys.stderr)
        console.ends(ONE)
        console.begins(TWO)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.info("d")
        console.ends(TWO)
        print("after")
        """,
        tmp_path,
    )
    assert out == [(None, b"importing\n"), (ONE, b"a\xc3\xa9\\ud800\xffb\nc"), (None, b"after\n")]
    assert err == [(ONE, b"e\n"), (TWO, b"d\n")]


def test_one_that_prints_nothing_leaves_no_mark(tmp_path: Path) -> None:
    """And of one that prints much there are two on each stream."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PRELUDE
            + textwrap.dedent("""
            for _ in range(3):
                console.begins(ONE)
                console.ends(ONE)
            console.begins(TWO)
            for _ in range(1000):
                print("x" * 20)
            console.ends(TWO)
            """),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.count(KEY.encode()) == 2
    assert done.stderr == b""


def test_what_runs_side_by_side_is_told_apart(tmp_path: Path) -> None:
    """In coroutines, and in the threads that they await."""
    out, _ = run(
        """
        async def speak(who, other, name):
            console.begins(who)
            for number in range(2):
                print(name, number, end=" ")
                await asyncio.sleep(0)
                await asyncio.to_thread(print, name, "thread")
            console.ends(who)

        async def main():
            await asyncio.gather(speak(ONE, TWO, "one"), speak(TWO, ONE, "two"))

        asyncio.run(main())
        """,
        tmp_path,
    )
    said = {speaker: b"".join(piece for one, piece in out if one == speaker) for speaker in (ONE, TWO, None)}
    for speaker, name in ((ONE, b"one"), (TWO, b"two")):
        assert said[speaker] == b"%b 0 %b thread\n%b 1 %b thread\n" % (name, name, name, name)
    assert said[None] == b""


def test_a_threads_output_is_that_of_the_execution_that_is_alone_inside(tmp_path: Path) -> None:
    """With two inside nobody knows, and with none it is nobody's."""
    out, _ = run(
        """
        def elsewhere(text):
            thread = threading.Thread(target=print, args=[text])
            thread.start()
            thread.join()

        console.begins(ONE)
        elsewhere("of one")
        console.begins(TWO)
        elsewhere("whose?")
        console.ends(TWO)
        elsewhere("of one again")
        console.ends(ONE)
        elsewhere("nobody's")
        """,
        tmp_path,
    )
    assert out == [
        (ONE, b"of one\n"),
        (None, b"whose?\n"),
        (ONE, b"of one again\n"),
        (None, b"nobody's\n"),
    ]


def test_a_file_in_the_pipes_place_gets_no_marks(tmp_path: Path) -> None:
    """The handler reads it, and people do."""
    out, _ = run(
        """
        console.begins(ONE)
        saved = os.dup(1)
        file = os.open("captured", os.O_RDWR | os.O_CREAT)
        os.dup2(file, 1)
        print("captured")
        os.dup2(saved, 1)
        print("shown")
        with contextlib.redirect_stdout(io.StringIO()) as held:
            print("held")
        assert held.getvalue() == "held\\n"
        console.ends(ONE)
        """,
        tmp_path,
    )
    assert out == [(ONE, b"shown\n")]
    assert (tmp_path / "captured").read_bytes() == b"captured\n"


def test_native_output_stands_behind_the_mark_that_came_last(tmp_path: Path) -> None:
    """Unbuffered, as it is written; after an end it bears no name, and the supervisor looks who runs."""
    out, _ = run(
        """
        console.begins(ONE)
        print("python")
        os.write(1, b"native\\n")
        subprocess.run(["echo", "child"], check=True)
        console.ends(ONE)
        console.begins(TWO)
        os.write(1, b"whose\\n")
        """,
        tmp_path,
    )
    assert out == [(ONE, b"python\nnative\nchild\n"), (None, b"whose\n")]


@pytest.mark.parametrize(
    "damage",
    [
        "sys.stdout.close()",
        "sys.stdout = None",
        "os.close(1)",
        "sys.stdout = open('other', 'w')",
        "sys.stdout = types.SimpleNamespace(flush=lambda: 1 / 0)",
        "sys.stdout = types.SimpleNamespace(flush=sys.exit)",
    ],
)
def test_whatever_a_handler_does_to_stdout_the_next_executions_stderr_is_marked(
    tmp_path: Path, damage: str
) -> None:
    """It is its own affair, and ends no runner."""
    _, err = run(
        f"""
        console.begins(ONE)
        print("before", end="")
        {damage}
        console.ends(ONE)
        console.begins(TWO)
        print("said", file=sys.stderr)
        console.ends(TWO)
        os._exit(0)
        """,
        tmp_path,
    )
    assert err == [(TWO, b"said\n")]


def test_what_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    """A closed descriptor is an error of whoever prints, once for each print."""
    _, err = run(
        """
        console.begins(ONE)
        os.close(1)
        for _ in range(3):
            try:
                print("x" * 10_000)
            except OSError as error:
                print(error.errno, file=sys.stderr)
        console.ends(ONE)
        os._exit(0)
        """,
        tmp_path,
    )
    assert err == [(ONE, b"9\n9\n9\n")]


def test_a_pipe_that_a_child_process_made_non_blocking_loses_nothing(tmp_path: Path) -> None:
    """Node and others do that to a descriptor that they share with us. Nobody reads before it is full."""
    _, err = run(
        """
        import select, types
        from conductor.child import output
        got, full = [], threading.Event()
        output.select = types.SimpleNamespace(
            poll=lambda: full.set() or select.poll(), POLLOUT=select.POLLOUT
        )
        readable, writable = os.pipe()
        os.set_blocking(writable, False)
        os.dup2(writable, 1)

        def take():
            full.wait(20)
            while sum(map(len, got)) < 1_000_001:
                got.append(os.read(readable, 65536))

        thread = threading.Thread(target=take)
        thread.start()
        print("x" * 1_000_000)
        thread.join()
        print(b"".join(got) == b"x" * 1_000_000 + b"\\n", file=sys.stderr)
        """,
        tmp_path,
    )
    assert err == [(None, b"True\n")]


def test_a_fork_while_another_thread_prints_can_print(tmp_path: Path) -> None:
    """The lock that the thread holds is not for ever held in the child."""
    out, _ = run(
        """
        import warnings
        warnings.simplefilter("ignore")
        pipe = sys.stdout.buffer
        took, go = threading.Event(), threading.Event()
        def hold():
            with pipe._lock:
                took.set()
                go.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        took.wait()
        console.begins(ONE)
        pid = os.fork()
        if pid == 0:
            print("child", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        go.set()
        thread.join()
        """,
        tmp_path,
    )
    assert out == [(ONE, b"child\n")]


def test_streams_are_what_programs_expect(tmp_path: Path) -> None:
    """They have a descriptor, an encoding and a name, and can be set up anew."""
    _, err = run(
        """
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2), (sys.__stdout__, 1), (sys.__stderr__, 2)):
            assert stream.fileno() == stream.buffer.fileno() == number
            assert stream.encoding == "utf-8"
            assert stream.writable() and stream.buffer.writable()
            assert not stream.isatty() and not stream.readable() and not stream.seekable()
            assert stream.name == {1: "<stdout>", 2: "<stderr>"}[number]
        sys.stdout.reconfigure(encoding="latin-1")
        sys.stdout.buffer.write(memoryview(b"bytes"))
        sys.stdout.writelines(["a\\n", "b\\n"])
        """,
        tmp_path,
    )
    assert err == []


def test_without_a_key_nothing_is_marked(tmp_path: Path) -> None:
    """Whoever gives none does not look for marks."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PRELUDE + "console.mark_with('')\nconsole.begins(ONE)\nprint('x')\nconsole.ends(ONE)\n",
        ],
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ},
    )
    assert done.stdout == b"x\n"
