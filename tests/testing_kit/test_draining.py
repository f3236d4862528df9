"""A drain runs everything that is due in real child processes, and reports what it did."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import kit_tasks
import pytest
from kit_tasks import add, add_later, app, at_night, environment, give_up, refuse, second_time_lucky, sleep

from conductor import Conductor, UsageError
from conductor.testing import DrainFailed, FakeClock, drain, draining
from conductor.testing.plugin import Drain

pytestmark = pytest.mark.together

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _at_noon(conductor_clock: FakeClock) -> None:
    """Nothing is due but what a test invokes."""
    conductor_clock.set(NOON)


def test_it_runs_what_is_due_and_what_becomes_due_by_that(conductor_drain: Drain) -> None:
    """The report counts every ending, and has attempts, steps and the handlers' output."""
    summed = add.invoke([1, 2, 3])
    refuse.invoke()
    give_up.invoke()
    later = add_later.invoke([4, 5])
    report = conductor_drain(app)
    assert (report.completed, report.failed, report.cancelled) == (3, 1, 1)
    assert [e.task for e in report.executions] == ["add", "refuse", "give-up", "add-later", "add"]
    first, refused, given_up, *_, last = report.executions
    assert [(s.name, s.result) for s in first.steps] == [("first", 1), ("sum", 6)]
    assert [(a.number, a.outcome) for a in refused.attempts] == [(1, "failed")]
    assert refused.error is not None
    assert refused.error.message == "never"
    assert given_up.cancel_reason == "changed my mind"
    assert summed.result(timeout=0) == 6
    assert later.result(timeout=0) == last.id
    assert "adding" in report.log
    assert repr(report) == "<drained: 3 completed, 1 failed, 1 cancelled>"


def test_it_reports_only_what_it_did_itself(conductor_drain: Drain) -> None:
    """Not what was finished before, and not what is not due."""
    cancelled = add.invoke([1])
    app.cancel(cancelled.id)
    add.invoke([1], delay="1h")
    report = conductor_drain(app)
    assert report.executions == []
    assert repr(report) == "<drained: nothing>"


def test_time_stands_still_until_the_test_moves_it(
    conductor_clock: FakeClock, conductor_drain: Drain
) -> None:
    """Delays, backoffs, windows and schedules are all tried without waiting."""
    delayed = add.invoke([1], delay="10h")
    window = at_night.invoke()
    flaky = second_time_lucky.invoke()

    report = conductor_drain(app)
    assert report.failed == 0
    assert [(e.task, e.state, e.waiting_for, len(e.attempts)) for e in report.executions] == [
        ("second-time-lucky", "scheduled", "retry", 1)
    ]

    conductor_clock.advance("1h")
    assert [e.id for e in conductor_drain(app).executions] == [flaky.id]
    assert flaky.result(timeout=0) == 2

    conductor_clock.advance("9h")
    assert {e.id for e in conductor_drain(app).executions} == {delayed.id, window.id}

    conductor_clock.advance("1d")
    (firing,) = conductor_drain(app).executions
    assert firing.task == "nightly"
    assert firing.result == "2026-03-03T02:30:00Z"


def test_a_clock_may_be_given_for_one_drain(conductor_drain: Drain) -> None:
    """Where the clients of the test go by another one."""
    late = FakeClock(NOON.replace(hour=23))
    at_night.invoke()
    assert conductor_drain(app, clock=late).completed == 1


def test_handlers_see_the_environment_of_the_test(
    conductor_drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So monkeypatch.setenv reaches them, which other patches do not."""
    monkeypatch.setenv("SHOP_MODE", "test")
    mode = environment.invoke("SHOP_MODE")
    conductor_drain(app, runners=1)
    assert mode.result(timeout=0) == "test"


def test_settings_of_the_current_folder_do_not_count(
    conductor_drain: Drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the test names the file."""
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "conductor.toml"
    settings.write_text('[tasks.at-night]\nwindow = ["11:00", "13:00"]\n')
    handle = at_night.invoke()
    assert conductor_drain(app).executions == []
    assert conductor_drain(app, config=settings).completed == 1
    assert handle.state() == "completed"


def test_a_drain_that_is_not_done_in_time_is_ended(conductor_drain: Drain) -> None:
    """The error says so, and what ran is given back."""
    slow = sleep.invoke()
    with pytest.raises(DrainFailed, match=r"not done within 2\.0 s"):
        conductor_drain(app, timeout=2)
    assert slow.state() == "ready"


def test_an_app_that_does_not_import_is_said_with_its_traceback(
    conductor_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a module that imports only in the test's process."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "only_here.py").write_text(
        "import os\nfrom conductor import Conductor\napp = Conductor()\nos.environ['ONLY_HERE'] += '!'\n"
    )
    monkeypatch.setenv("ONLY_HERE", "yes")
    import only_here  # type: ignore[import-not-found]

    monkeypatch.delenv("ONLY_HERE")
    with pytest.raises(DrainFailed, match="KeyError: 'ONLY_HERE'"):
        drain(only_here.app)


def test_an_app_inside_a_function_is_refused() -> None:
    """No other process could import it."""
    with pytest.raises(UsageError, match="global variable of a module"):
        drain(Conductor())


def test_an_app_is_named_as_a_fresh_process_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its module, or by its file where the module is not on the import path."""
    assert draining.importable_name(app) == "kit_tasks:app"
    file = tmp_path / "elsewhere.py"
    file.write_text("from conductor import Conductor\njobs = Conductor()\n")
    spec = importlib.util.spec_from_file_location("tests.elsewhere", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tests.elsewhere", module)
    spec.loader.exec_module(module)
    assert draining.importable_name(module.jobs) == f"{file}:jobs"


def test_an_app_that_only_lives_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says that its module is the trouble."""
    module = type(kit_tasks)("in_memory")
    exec("from conductor import Conductor\napp = Conductor()", vars(module))
    monkeypatch.setitem(sys.modules, "in_memory", module)
    with pytest.raises(UsageError, match="neither on the import path nor a file"):
        drain(module.app)


def test_a_script_can_drain_its_own_app(tmp_path: Path) -> None:
    """Its runners import it by its path, under its own name."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            from conductor import Conductor
            from conductor.testing import drain

            app = Conductor("sqlite:///own.db")

            @app.task
            def greet(event, ctx):
                return __name__

            if __name__ == "__main__":
                handle = greet.invoke()
                drain(app, runners=1)
                print(handle.result(timeout=0))
                app.close()
        """)
    )
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "script\n"), done.stderr
    assert (tmp_path / "own.db").exists()


def test_it_warns_where_nobody_has_named_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that forgets the fixture would run what is due in the database of the current folder."""
    monkeypatch.delenv("CONDUCTOR_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="ask for the fixture conductor_database") as warned:
        assert drain(app).executions == []
    assert warned[0].filename == __file__
    app.close()
