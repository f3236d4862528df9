"""How answers look."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from workplace import Workplace

from conductor_supervisor.cli import render

MOMENT = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_control_characters_are_spelled_out() -> None:
    """But letters of every script stay, and so do line ends."""
    assert render.printable("a\x1b[31mb\x00\rc\n\tö漢") == "a\\x1b[31mb\\x00\\rc\n\tö漢"
    assert render.printable("\u202eabc") == "\\u202eabc"


def test_a_lone_surrogate_is_spelled_out() -> None:
    """It could not be written to a terminal at all."""
    assert render.printable("\udcff") == "\\udcff"


def test_numbers_stand_on_the_right_and_text_on_the_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain text in a pipe, no space at the line's end."""
    render.table(["TASK", "READY"], [["mail", "1,000+"], ["resize", "2"], ["long\nname", ""]])
    assert capsys.readouterr().out == "TASK        READY\nmail       1,000+\nresize          2\nlong name\n"


def test_colours_are_for_terminals_that_want_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR is honoured."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    render.table(["STATE"], [["failed"]])
    assert "\x1b[31mfailed" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    render.table(["STATE"], [["failed"]])
    assert "\x1b[31m" not in capsys.readouterr().out


def test_what_tasks_write_is_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square brackets stay."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    render.table(["STEP"], [["[red]list[0]"]])
    assert "[red]list[0]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("done", "total", "message", "looks"),
    [
        (None, None, "", ""),
        (3, None, "", "3"),
        (41, 100, "", "41/100 (41%)"),
        (0.5, 2, "half", "0.5/2 (25%) half"),
        (1, 0, "", "1"),
        (1e6, 2e6, "", "1000000/2000000 (50%)"),
    ],
)
def test_progress_in_words(done: float | None, total: float | None, message: str, looks: str) -> None:
    """Number, total, share, message."""
    assert render.progress(done, total, message) == looks


def test_times_are_local_and_durations_in_words() -> None:
    """Unknown ones are empty; a clock that was set back makes no negative durations."""
    assert render.local(MOMENT) == MOMENT.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    assert render.local(None) == ""
    assert render.took(MOMENT, MOMENT + timedelta(seconds=90)) == "1m30s"
    assert render.took(MOMENT, None) == ""
    assert render.took(MOMENT + timedelta(seconds=1), MOMENT) == "0 ms"


def test_on_a_terminal_ids_are_short_and_states_have_colours(workplace: Workplace) -> None:
    """Commands accept the short form."""
    (execution,) = workplace.insert("resize")
    workplace.run("cancel", execution)
    shown = on_a_terminal("list")
    assert f"{execution[-12:]}  " in shown
    assert execution not in shown
    assert "\x1b[35mcancelled" in shown


def on_a_terminal(*arguments: str) -> str:
    """Run the command with a terminal of 120 columns as stdout; return what it writes there."""
    screen, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "conductor_supervisor", *arguments]
    with os.fdopen(screen, "rb", buffering=0) as reader:
        try:
            subprocess.run(command, stdout=terminal, env=environment, check=True)
            return reader.read(100_000).decode()
        finally:
            os.close(terminal)
