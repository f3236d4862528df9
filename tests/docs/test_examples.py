"""What the documentation shows is true: its tasks run, its scripts run, its commands and settings exist."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest
from docs_pages import ROOT, Page, pages

from conductor_protocol.manifest import ScheduleSpec, TaskSpec
from conductor_protocol.operations import ExecutionView, Listed, ListExecutions, State
from conductor_protocol.units import instant, moment
from conductor_supervisor.processes.describe import describe
from conductor_supervisor.rules.cron import Cron
from conductor_supervisor.settings import load
from harness import PATIENCE, Project, parse, write_module

EVENING = datetime(2026, 3, 2, 22, 30, tzinfo=ZoneInfo("Europe/Berlin"))
"""A Monday, at a time when every window in the documentation is open."""

OUTSIDE = {
    "make",
    "pip",
    ".venv/bin/pytest",
    ".venv/bin/python",
    "systemctl",
    "systemd-analyze",
    "docker",
    "kubectl",
}
"""Commands that are not ours, checked by hand or below."""


@dataclass(frozen=True)
class Expected:
    """What one invocation of a task comes to."""

    payload: object = None
    result: object = None
    state: State = "completed"


TASKS: dict[str, dict[str, Expected]] = {
    "README.md": {
        "process-dataset": Expected(["one", "three"], {"processed": 2, "characters": 8}),
    },
    "docs/quickstart.md": {
        "resize-photos": Expected(["a.jpg", "bc.jpg"], {"photos": 2, "bytes": 11_000}),
    },
    "docs/steps.md": {
        "process-dataset": Expected("s3://somewhere", {"processed": 3}),
        "fetch-pages": Expected(["a", "bc"], 3),
        "send-invoice": Expected({"number": 1, "due": "2026-04-01", "amount": "12.50"}, "2026-04-01"),
        "delete-old-data": Expected(None, {"completed": True}),
    },
    "docs/windows.md": {
        "heavy-processing": Expected([1, 2, 3], 14),
        "rebuild-index": Expected(None, "done"),
        "answer-tickets": Expected(),
    },
    "docs/cron.md": {},
    "docs/retries.md": {"sync-account": Expected("ada", "data of ada")},
    "docs/cancellation.md": {"render": Expected(3, 3)},
    "docs/concurrency.md": {
        "transcode": Expected("a", "A"),
        "render-invoice": Expected({"customer": {"id": 7}, "lines": ["a", "b"]}, 2),
        "send-reminder": Expected(" a ", "a"),
        "extract-sound": Expected("B", "b"),
    },
    "docs/looking.md": {"resize": Expected([{"path": "a.jpg", "width": 500}], 2)},
    "docs/logs.md": {"import-rows": Expected([3, -1], state="failed")},
    "docs/isolation.md": {
        "crash": Expected(state="failed"),
        "add": Expected([1, 2], 3),
        "convert": Expected("a", "A"),
        "ask": Expected(None, 42),
    },
    "docs/fresh.md": {"render": Expected("de_DE.UTF-8", [1, "de_DE.UTF-8"])},
    "docs/transactions.md": {"send-receipt": Expected(17, "receipt for order 17")},
    "docs/shared.md": {"ask-model": Expected("why", "WHY? 42")},
}
"""By page and task: how the page's invocable tasks are exercised."""


class Reader:
    """Somebody who has typed a page or an example into a folder, and tries it at a time of our choice."""

    def __init__(self, project: Project, now: datetime = EVENING) -> None:
        self._project = project
        self._clock = project.clock()
        self._now = instant(now)
        self.set_clock(now)

    def set_clock(self, now: datetime) -> None:
        """Move the time of supervisor and scripts."""
        self._now = instant(now)
        self._clock.set(self._now)

    def invoke(self, task: str, payload: object) -> str:
        """Invoke a task, to run now; return the execution's id."""
        return self._project.invoke(task, payload, run_at=self._now)

    def executions(self, task: str) -> list[ExecutionView]:
        """Return all executions of a task."""
        answer = self._project.perform(ListExecutions(task=task))
        assert isinstance(answer, Listed)
        return answer.executions

    def run(self, *arguments: str) -> str:
        """Run Python with these arguments and return what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self._project.folder,
            env=self._project.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def complete(self, task: str, payload: object) -> ExecutionView:
        """Invoke a task, run what is due, and return the completed execution."""
        execution = self.invoke(task, payload)
        self._project.drain(runners=1)
        view = self._project.view(execution)
        assert view.state == "completed", view
        return view


CHANGES = Page(ROOT / "docs/triggers.md")
"""Its tasks need PostgreSQL, and a table."""


def with_tasks() -> list[Page]:
    return [page for page in pages() if "tasks.py" in page.files() and page != CHANGES]


@pytest.mark.together
@pytest.mark.parametrize("page", with_tasks(), ids=str)
def test_every_task_on_a_page_does_what_the_page_says(page: Page, project: Project) -> None:
    """Each invocable task comes to its expected end; each schedule fires; each script and test file runs."""
    for name, text in page.files().items():
        (project.folder / name).write_text(text, encoding="utf-8")
    reader = Reader(project)
    scripts = sorted(page.files().keys() - {"tasks.py"})
    tests = [script for script in scripts if script.startswith("test_")]
    for test in tests:
        reader.run("-m", "pytest", "-q", "-p", "no:cacheprovider", test)
    if not tests:
        exercise(project, reader, TASKS[str(page)])
    if scripts != tests:
        supervisor = project.start(runners=1)
        for script in sorted(set(scripts) - set(tests)):
            reader.run(script)
        assert supervisor.stop() == 0


@pytest.mark.together
def test_changes_of_a_table_run_what_the_page_says(project: Project, postgres_url: str) -> None:
    """Its first two blocks of SQL are what the reader types: the table, and what happens to it."""
    (project.folder / "tasks.py").write_text(CHANGES.files()["tasks.py"], encoding="utf-8")
    project.use_database(postgres_url)
    table, happens, _rights = CHANGES.blocks("sql")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(table.encode())
        project.drain(runners=1)
        connection.execute(happens.encode())
    project.drain(runners=1)
    assert [view.result for view in reversed(project.views())] == [
        "welcome, ada@example.com",
        "public.contact.update: ada@example.com leaves the list",
        "public.contact.delete: spam@example.com leaves the list",
    ]


def exercise(project: Project, reader: Reader, expected: dict[str, Expected]) -> None:
    tasks = describe("tasks:app", [str(project.folder)]).tasks
    assert expected.keys() == {task.name for task in tasks if task.invocable}
    invoked = {name: reader.invoke(name, each.payload) for name, each in expected.items()}
    project.drain(runners=1)
    for name, each in expected.items():
        view = project.view(invoked[name])
        assert (name, view.state, view.result) == (name, each.state, each.result), view
    for at, task, schedule in firings(tasks):
        reader.set_clock(at)
        project.drain(runners=1)
        fired = [
            view for view in reader.executions(task) if (view.event, view.scheduled_for) == (schedule, at)
        ]
        assert [view.state for view in fired] == ["completed"]


def firings(tasks: Iterable[TaskSpec]) -> list[tuple[datetime, str, str]]:
    """Return the next firing of every schedule, with its task and name, the earliest first."""
    return sorted(
        (next_firing(schedule), task.name, schedule.name) for task in tasks for schedule in task.schedules
    )


def next_firing(schedule: ScheduleSpec) -> datetime:
    cron = Cron(schedule.expression, schedule.tz or str(EVENING.tzinfo))
    return moment(cron.next_firing(instant(EVENING)))


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_command_on_a_page_exists_with_these_options(page: Page) -> None:
    for words in page.commands():
        program, *arguments = words
        if program == "conductor-supervisor":
            parse(arguments)
        else:
            assert program in OUTSIDE, f"{page} shows {words}; say here why that is right"


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_make_target_on_a_page_exists(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for program, *arguments in page.commands():
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_configuration_on_a_page_can_be_read(page: Page, tmp_path: Path) -> None:
    for block in page.blocks("toml"):
        (tmp_path / "conductor.toml").write_text(block, encoding="utf-8")
        assert load(tmp_path, {}, {}).app


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_link_on_a_page_leads_somewhere(page: Page) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.path.parent / target).exists(), target


# The files of examples/


@pytest.fixture
def example(project: Project) -> Callable[..., Reader]:
    """Put a file of examples/ into a folder of its own."""

    def put(name: str, now: datetime = EVENING) -> Reader:
        source = (ROOT / "examples" / name).read_text(encoding="utf-8")
        write_module(project.folder / "tasks.py", source)
        return Reader(project, now)

    return put


def test_every_example_is_listed_and_tested() -> None:
    """A new file in examples/ needs a line in its README and a test here."""
    readme = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*.py"):
        assert f"]({path.name})" in readme
        assert f'example("{path.name}"' in here


@pytest.mark.together
def test_the_census_counts_what_a_plain_count_counts(
    example: Callable[..., Reader], project: Project
) -> None:
    reader = example("census.py")
    library = Path(json.__file__).parent
    crash = reader.invoke("crash", None)
    census = reader.complete("census", {"root": str(library)})
    assert isinstance(census.result, dict)
    assert census.result == json.loads(reader.run("tasks.py", str(library)))
    assert census.result["modules"] == len(list(library.glob("*.py")))
    assert project.view(crash).state == "failed"


@pytest.mark.together
def test_the_export_waits_for_its_window(example: Callable[..., Reader], project: Project) -> None:
    reader = example("nightly_export.py", EVENING.replace(hour=12))
    execution = reader.invoke("bulk-export", 2500)
    project.drain(runners=1)
    assert project.view(execution).state in {"scheduled", "ready"}
    reader.set_clock(EVENING)
    project.drain(runners=1)
    assert project.view(execution).result == {"exported": 2500}
    assert len(list((project.folder / "export").glob("*.csv"))) == 3


@pytest.mark.together
def test_old_rows_are_deleted_in_batches_and_new_ones_stay(
    example: Callable[..., Reader], project: Project
) -> None:
    visits = project.folder / "visits.db"
    with closing(sqlite3.connect(visits)) as connection, connection:
        connection.execute("CREATE TABLE visits (id INTEGER PRIMARY KEY, seen_at TEXT)")
        connection.executemany("INSERT INTO visits (seen_at) VALUES (?)", [("2001-01-01",)] * 2500)
        connection.execute("INSERT INTO visits (seen_at) VALUES (date('now'))")
    example("delete_old_rows.py").complete("delete-old-data", str(visits))
    with closing(sqlite3.connect(visits)) as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (1,)


@pytest.mark.together
def test_the_report_of_each_missed_day_is_written(example: Callable[..., Reader], project: Project) -> None:
    reader = example("daily_report.py")
    project.drain(runners=1)
    reader.set_clock(EVENING + timedelta(days=3))
    project.drain(runners=1)
    assert [view.state for view in reader.executions("daily-report")] == ["completed"] * 3
    reports = sorted(path.stem for path in (project.folder / "reports").iterdir())
    assert reports == ["2026-03-03", "2026-03-04", "2026-03-05"]


@pytest.mark.together
def test_an_order_is_paid_and_an_empty_one_fails_for_good(
    example: Callable[..., Reader], project: Project
) -> None:
    reader = example("orders.py")
    empty = reader.invoke("place-order", {"customer": "ada", "lines": []})
    lines = [{"article": "tea", "quantity": 2, "price": "4.50"}]
    paid = reader.complete("place-order", {"customer": "ada", "lines": lines})
    assert isinstance(paid.result, dict)
    assert paid.result["total"] == "9.00"
    failed = project.view(empty)
    assert (failed.state, len(failed.attempts)) == ("failed", 1)
