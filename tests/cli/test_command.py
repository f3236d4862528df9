"""The command as a whole: exit statuses, one message for each error, plain output in a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from workplace import Workplace

from conductor_supervisor.cli import COMMANDS, cli
from conductor_supervisor.store import executions

COMMAND = [sys.executable, "-m", "conductor_supervisor"]


def test_every_command_is_there_and_explains_itself(workplace: Workplace) -> None:
    """--help of each."""
    for name in COMMANDS:
        assert f"Usage: cli {name} " in workplace.run(name, "--help").stdout


def test_the_version_is_that_of_the_package() -> None:
    """--version."""
    shown = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True)
    assert shown.stdout.startswith("conductor-supervisor ")
    assert shown.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["strat"], "No such command 'strat'; did you mean start"),
        (["frobnicate"], "No such command 'frobnicate'; expected one of: cancel, "),
        (["list", "--nonsense"], "No such option"),
        (["start"], "no app is named"),
        (["list", "--config", "none.toml"], "none.toml: cannot be read: No such file"),
        (["list", "--database", "conductor.db"], "database: expected a URL, got 'conductor.db'"),
        (["list", "--database", "sqlite://"], "database in memory"),
        (["start", "a:b", "--runners", "0"], "--runners: expected a whole number of 1 or more, got 0"),
        (["start", "a:b", "--shutdown-grace", "soon"], "--shutdown-grace: expected a duration"),
        (["start", "a:b", "--log-level", "loud"], "--log-level: expected one of debug, info"),
        (["start", "a:b", "--runners", "9" * 30], "--runners: expected at most 2,147,483,647, got 9"),
        (["start", "a:b", "--runners", "10001"], "--runners: expected at most 10,000, each is a process"),
        (["start", "\udcff"], "'[APP]': expected text in UTF-8, got '\\udcff'"),
        (["status", "--runtime", "/tmp/" + "x" * 200], "runtime: a socket's path may have"),
        (["show", "\udcff" * 8], "'ID': expected text in UTF-8"),
        (["cancel", "\udcff" * 8], "'[ID]': expected text in UTF-8"),
        (["retry", "\udcff" * 8], "expected text in UTF-8"),
        (["logs", "\udcff" * 8], "'ID': expected text in UTF-8"),
        (["list", "--task", "\udcff"], "'--task': expected text in UTF-8"),
        (["list", "--before", "\udcff" * 8], "'--before': expected text in UTF-8"),
        (["invoke", "t", '"\udcff"'], "'[JSON]': expected text in UTF-8"),
        (["invoke", "t", "[" * 20_000], "expected JSON that is not nested so deeply"),
        (["status", "--database", "sqlite:////tmp/\udcff/c.db"], "expected a URL in UTF-8, without zeros"),
        (["copy-to", "postgresql://u\udcff@h/d"], "expected a URL in UTF-8, without zeros"),
    ],
)
def test_wrong_use_ends_with_status_2_and_one_message(
    workplace: Workplace, arguments: list[str], says: str
) -> None:
    """And never with a traceback."""
    workplace.run("migrate")
    message = workplace.error(*arguments, status=2)
    assert says in message
    assert "Traceback" not in message


def test_a_wrong_settings_file_stops_every_command(workplace: Workplace) -> None:
    """Before anything is done."""
    Path("conductor.toml").write_text("runner = 4")
    assert workplace.error("status", status=2) == (
        "Error: conductor.toml: there is no setting 'runner'; did you mean runners or runtime?"
    )


def test_a_database_that_is_none_fails_with_status_1(workplace: Workplace) -> None:
    """A file of another kind."""
    Path("conductor.db").write_text("this is not a database, however long one looks at it" * 100)
    for command in (["status"], ["invoke", "x"], ["migrate"]):
        message = workplace.error(*command, status=1)
        assert "not a database" in message
        assert "Traceback" not in message


def test_the_file_names_the_database_and_the_option_wins(workplace: Workplace) -> None:
    """Settings reach every command."""
    Path("conductor.toml").write_text('database = "sqlite:///mine.db"')
    workplace.run("migrate")
    assert Path("mine.db").exists()
    workplace.run("migrate", "--database", "sqlite:///other.db")
    assert Path("other.db").exists()


def test_migrate_says_whether_there_was_need(workplace: Workplace) -> None:
    """Twice in a row."""
    assert "has the newest schema now" in workplace.run("migrate").stdout
    assert "had the newest schema already" in workplace.run("migrate").stdout


@pytest.mark.parametrize("command", ["list", "status", "doctor"])
@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "/b", "a" * 5000])
def test_a_name_that_is_too_long_is_no_traceback(workplace: Workplace, command: str, name: str) -> None:
    """Of a file, or of its folder."""
    result = workplace.run(command, "--database", f"sqlite:////tmp/{name}", status=1)
    assert "File name too long" in " ".join(result.output.split())


def test_a_host_that_can_have_no_address_is_no_traceback(workplace: Workplace) -> None:
    """A part of its name is too long."""
    said = workplace.error("migrate", "--database", f"postgresql://{'h' * 64}/d", status=1)
    assert "cannot be used: a name in it cannot be: " in said


def test_a_current_folder_that_is_not_utf_8_is_no_traceback(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path would lead into it."""
    folder = Path(os.fsdecode(os.fsencode(workplace.folder) + b"/\xff"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    said = workplace.error("status", "--database", "sqlite:///c.db", status=2)
    assert "expected a path in UTF-8; write an absolute one" in said


def test_a_device_cannot_be_migrated(workplace: Workplace) -> None:
    """The database says why, in one line."""
    said = workplace.error("migrate", "--database", "sqlite:////dev/full", status=1)
    assert said.startswith("Error: sqlite:////dev/full cannot be used: ")


def test_an_interrupt_ends_with_status_130(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is no error, and says nothing."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    workplace.run("migrate")
    monkeypatch.setattr(executions, "counts", interrupted)
    assert workplace.run("status", status=130).output == ""


def test_a_real_interrupt_ends_a_wait(workplace: Workplace) -> None:
    """SIGINT to the process that waits."""
    with subprocess.Popen(
        [*COMMAND, "invoke", "x", "--wait"], stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "no supervisor is running here" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode == 130


def test_a_reader_that_has_seen_enough_ends_it_quietly(workplace: Workplace) -> None:
    """``conductor-supervisor list | head -1``."""
    workplace.insert("resize", count=1000)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        ended = subprocess.run([*COMMAND, "list", "--limit", "1000"], stdout=broken, stderr=subprocess.PIPE)
    assert ended.stderr == b""


def test_completion_prints_a_script_for_each_shell(workplace: Workplace) -> None:
    """By default for the user's own."""
    for shell in ("bash", "zsh", "fish"):
        assert "_CONDUCTOR_SUPERVISOR_COMPLETE" in workplace.run("completion", shell).stdout


def test_the_commands_are_completed() -> None:
    """What the script asks for."""
    environment = {
        **os.environ,
        "COMP_WORDS": "conductor-supervisor pa",
        "COMP_CWORD": "1",
        "_CONDUCTOR_SUPERVISOR_COMPLETE": "bash_complete",
    }
    shown = subprocess.run(COMMAND, env=environment, capture_output=True, text=True)
    assert shown.stdout == "plain,pause\n"


def test_the_group_is_called_by_its_program_name() -> None:
    """However it was started."""
    shown = subprocess.run([*COMMAND, "start", "--help"], capture_output=True, text=True)
    assert shown.stdout.startswith("Usage: conductor-supervisor start ")
    assert cli.name == "cli"
