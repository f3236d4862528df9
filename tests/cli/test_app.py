"""Where the database knows nothing yet, the configured app is asked, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from workplace import Workplace

from conductor_protocol.manifest import TaskSpec

SHOP = """
from conductor import Conductor, Event
app = Conductor(database="sqlite:///shop.db", timezone="Asia/Tokyo")

@app.task(window=("20:00", "06:00"))
def resize(event, ctx): ...

@app.task(cron="0 2 * * *")
def night(event, ctx): ...

@app.task
def crop(event: Event[dict[str, int]], ctx): ...
"""


@pytest.fixture
def shop(workplace: Workplace) -> Workplace:
    """A folder with an app and a conductor.toml that names it, where nothing has run yet."""
    Path("shop.py").write_text(SHOP)
    Path("conductor.toml").write_text('app = "shop:app"\n[tasks.resize]\nconcurrency = 2\n')
    return workplace


def test_tasks_and_schedules_are_known_before_the_first_start(shop: Workplace) -> None:
    """With the operators' settings, in the app's zone."""
    resize = next(task for task in shop.json("tasks") if task["name"] == "resize")
    assert resize["concurrency"] == 2
    assert resize["windows"][0]["tz"] == "Asia/Tokyo"
    assert shop.json("schedules")[0]["next"] == "2030-01-01T17:00:00Z"


def test_the_apps_own_database_is_used(shop: Workplace) -> None:
    """Unless operators name another."""
    shop.run("invoke", "resize")
    assert Path("shop.db").exists()
    shop.run("invoke", "resize", "--database", "sqlite:///other.db")
    assert Path("other.db").exists()
    assert not Path("conductor.db").exists()


def test_invoke_knows_the_apps_tasks(shop: Workplace) -> None:
    """Before the first start, too."""
    assert "there is no task 'rezise'; did you mean resize?" in shop.error("invoke", "rezise", status=2)
    assert "may not be invoked by name" in shop.error("invoke", "night", status=2)
    assert shop.run("invoke", "resize").stderr == ""


def test_a_task_that_was_added_since_the_last_start_may_be_invoked(shop: Workplace) -> None:
    """What the last supervisor declared is older than the code."""
    shop.run("invoke", "resize", "--database", "sqlite:///conductor.db")
    shop.declare()
    assert shop.run("invoke", "resize", "--database", "sqlite:///conductor.db").stderr == ""


def test_a_setting_for_a_task_that_the_app_has_not_is_refused(shop: Workplace) -> None:
    """It names the file and near names."""
    Path("conductor.toml").write_text('app = "shop:app"\n[tasks.rezise]\nconcurrency = 2\n')
    assert shop.error("tasks", status=2).endswith(
        "conductor.toml: [tasks.rezise]: the app shop:app has no task 'rezise'; did you mean resize?"
    )


def test_an_app_that_cannot_be_read_is_one_message(shop: Workplace) -> None:
    """And it is said how to do without it."""
    Path("shop.py").write_text("import nonsense_that_is_not_there")
    message = shop.error("list", status=1)
    assert "nonsense_that_is_not_there" in message
    assert "name it with --database to do without" in message
    shop.run("migrate", "--database", "sqlite:///other.db")
    assert shop.run("list", "--database", "sqlite:///other.db").stdout == "no executions\n"


def test_doctor_reports_an_app_that_cannot_be_read(shop: Workplace) -> None:
    """As one problem; what does not need the app is checked all the same."""
    Path("shop.py").write_text("import os; os.abort()")
    found = {one["check"]: one for one in shop.json("doctor", status=1)}
    assert found["app"]["health"] == "problem"
    assert "SIGABRT" in found["app"]["found"]
    assert found["database"]["found"] == "not checked: only the app knows which"
    assert found["Python"]["health"] == "ok"


def test_doctor_reads_an_app_that_is_well(shop: Workplace) -> None:
    """How many tasks it has."""
    found = {one["check"]: one for one in shop.json("doctor")}
    assert (found["app"]["health"], found["app"]["found"]) == ("ok", "shop:app with 3 tasks")


def test_a_payload_that_does_not_fit_its_task_is_refused(shop: Workplace) -> None:
    """With the path to the field, before anything is written."""
    message = shop.error("invoke", "crop", '{"left": "a bit"}', status=2)
    assert "the payload does not fit what task crop expects" in message
    assert message.endswith("Expected `int`, got `str` - at `$[...]`")
    assert not Path("shop.db").exists()
    assert shop.run("invoke", "crop", '{"left": 10}').stderr == ""


def test_where_the_app_cannot_be_imported_payloads_are_taken_on_trust(shop: Workplace) -> None:
    """stderr says so in one line."""
    shop.declare(TaskSpec("crop"))
    Path("shop.py").write_text("import nonsense_that_is_not_there")
    remark = shop.run("invoke", "crop", '"anything"', "--database", "sqlite:///conductor.db").stderr
    assert remark.startswith(
        "the payload is not checked: app shop:app cannot be imported: ModuleNotFoundError"
    )
    assert remark.count("\n") == 1
