"""``doctor`` tells what is in place, and what to do about the rest."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from workplace import PretendSupervisor, Workplace, status

from conductor_protocol.manifest import TaskSpec
from conductor_supervisor.overrides import effective
from conductor_supervisor.processes.describe import current_folder, describe
from conductor_supervisor.settings import Settings
from harness import write_module
from testbed.postgresql import PostgresServer


def findings(workplace: Workplace, exit_status: int = 0) -> dict[str, tuple[str, str, str]]:
    """Return what was found, by check."""
    return {
        one["check"]: (one["health"], one["found"], one["advice"])
        for one in workplace.json("doctor", status=exit_status)
    }


def test_a_new_folder_has_no_problem(workplace: Workplace) -> None:
    """No app, no database, no supervisor: each is a warning that says what to do."""
    found = findings(workplace)
    warned = {check for check, (health, _, _) in found.items() if health != "ok"}
    assert warned == {"app", "database", "supervisor"}
    assert all(found[check][2] for check in warned)
    assert not Path("conductor.db").exists()


def test_a_running_place_is_all_well(workplace: Workplace) -> None:
    """Database, runtime folder and supervisor."""
    workplace.declare(TaskSpec("resize"))
    with PretendSupervisor(workplace.runtime, lambda _: status()):
        found = findings(workplace)
    assert found["supervisor"][:2][0] == "ok"
    assert "process 4711" in found["supervisor"][1]
    assert found["database"][0] == "ok"
    assert found["runtime folder"][0] == "ok"


def test_the_app_is_what_a_start_would_find(workplace: Workplace) -> None:
    """And where a supervisor runs, what it runs instead; a reload mends that."""
    app = "from conductor import Conductor\napp = Conductor()\n"
    task = "@app.task(max_attempts={1})\ndef {0}(event, ctx): ...\n"
    write_module(Path("shop.py"), app + "".join(task.format(*one) for one in (("a", 1), ("b", 2), ("d", 3))))
    Path("conductor.toml").write_text('app = "shop:app"\n')
    workplace.declare(*effective(describe("shop:app", current_folder(), 60.0), Settings()))
    with PretendSupervisor(workplace.runtime, lambda _: status()):
        assert findings(workplace)["supervisor"][0] == "ok"
        write_module(
            Path("shop.py"), app + "".join(task.format(*one) for one in (("b", 3), ("c", 1), ("d", 3)))
        )
        found = findings(workplace)
    assert found["app"][:2] == ("ok", "shop:app with 3 tasks")
    health, told, advice = found["supervisor"]
    assert health == "warning"
    assert told.endswith("; the code here declares other tasks than it runs")
    assert advice == (
        "only here: c; no more here: a; otherwise here: b; "
        "let it read the code anew: conductor-supervisor reload"
    )
    write_module(Path("shop.py"), app + task.format("b", 2))
    assert findings(workplace)["app"][1] == "shop:app with 1 task"


def test_a_database_that_cannot_be_used_is_a_problem(workplace: Workplace) -> None:
    """Exit status 1, and the other checks are made all the same."""
    Path("conductor.db").write_text("this is not a database" * 100)
    found = findings(workplace, exit_status=1)
    assert found["database"][0] == "problem"
    assert "not a database" in found["database"][1]
    assert found["runtime folder"][0] == "ok"


def test_a_role_that_may_make_no_tables_is_a_problem(
    workplace: Workplace, postgres: PostgresServer, postgres_url: str
) -> None:
    """No start and no invocation of its own would make them."""
    postgres.execute("CREATE ROLE weak LOGIN")
    url = postgres_url.replace("postgres@", "weak@")
    Path("conductor.toml").write_text(f'database = "{url}?schema=jobs"\n')
    health, found, advice = findings(workplace, exit_status=1)["database"]
    assert (health, found.partition(" in ")[0]) == (
        "problem",
        "the role weak may not make or change Conductor's tables",
    )
    assert advice.startswith("let a role that has CREATE on the database run: conductor-supervisor migrate")
    Path("conductor.toml").write_text(f'database = "{url}"\n')
    health, found, advice = findings(workplace, exit_status=1)["database"]
    assert found.endswith("permission denied for schema conductor")
    assert "GRANT USAGE ON SCHEMA conductor TO weak" in advice
    postgres.execute("DROP ROLE weak")


def test_a_folder_that_is_missing_is_a_problem(workplace: Workplace) -> None:
    """With the command that makes it."""
    result = workplace.run("doctor", "--database", "sqlite:///none/conductor.db", status=1)
    assert "mkdir -p" in result.stdout


def test_a_runtime_folder_that_others_can_enter_is_a_problem(workplace: Workplace) -> None:
    """With the command that mends it."""
    workplace.runtime.chmod(0o755)
    health, _, advice = findings(workplace, exit_status=1)["runtime folder"]
    assert health == "problem"
    assert advice.startswith("write: chmod 700")


def test_an_old_sqlite_is_a_problem(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must know RETURNING."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    assert findings(workplace, exit_status=1)["SQLite"] == (
        "problem",
        "3.34.1",
        "use a Python that was built with 3.35 or later",
    )


def test_people_get_a_table_and_the_advice_below_it(workplace: Workplace) -> None:
    """One line for each check."""
    shown = workplace.run("doctor").stdout
    assert shown.splitlines()[0].split() == ["CHECK", "FOUND"]
    assert "\nsupervisor: start one: conductor-supervisor start\n" in shown


def test_an_app_that_cannot_be_imported_is_one_line_and_its_traceback_below(workplace: Workplace) -> None:
    """Without the frames of the import machinery: only those of the user's code."""
    Path("shop.py").write_text("import helper\n")
    Path("helper.py").write_text("import nothing_of_this_name\n")
    Path("conductor.toml").write_text('app = "shop:app"\n')
    shown = workplace.run("doctor", status=1).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("app ")]
    assert line.split(maxsplit=2)[2] == (
        "app shop:app cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'"
    )
    below = shown.split("\napp:\n")[1].split("\n\n")[0]
    assert below.splitlines()[0] == "Traceback (most recent call last):"
    assert [line.split('"')[1] for line in below.splitlines() if line.startswith("  File")] == [
        str(Path("shop.py").absolute()),
        str(Path("helper.py").absolute()),
    ]


def test_settings_that_nobody_reads_are_warnings(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable and a queue that are written wrongly."""
    monkeypatch.setenv("CONDUCTOR_RUNERS", "3")
    Path("shop.py").write_text("from conductor import Conductor\napp = Conductor()\n")
    Path("conductor.toml").write_text('app = "shop:app"\n[queues.defalt]\nrunners = 1\n')
    found = findings(workplace)
    assert found["settings"][0] == found["app"][0] == "warning"
    assert "did you mean CONDUCTOR_RUNNERS" in found["settings"][2]
    assert "[queues.defalt]: no task of shop:app is in this queue" in found["app"][2]


def test_clients_that_would_use_another_database_are_a_warning(workplace: Workplace) -> None:
    """They do not read conductor.toml."""
    Path("shop.py").write_text("from conductor import Conductor\napp = Conductor()\n")
    Path("conductor.toml").write_text('app = "shop:app"\ndatabase = "sqlite:///other.db"\n')
    health, _, advice = findings(workplace)["clients"]
    assert health == "warning"
    assert "set CONDUCTOR_DATABASE_URL=sqlite:///" in advice
    Path("conductor.toml").write_text('app = "shop:app"\n')
    assert findings(workplace)["clients"][0] == "ok"
