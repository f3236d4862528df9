"""Finding an app by its name, and asking it: what is wrong is said, not shown as a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from conductor_protocol.manifest import Manifest

SHOP = """
from conductor import Conductor
app = Conductor(database="sqlite:///shop.db", timezone="Europe/Berlin")

@app.task(cron="0 2 * * *", concurrency=3)
def vacuum(event, ctx): ...
"""


@dataclass
class Answer:
    """What the child wrote, and its exit status."""

    status: int
    text: bytes

    @property
    def manifest(self) -> Manifest:
        """The manifest."""
        return msgspec.json.decode(self.text, type=Manifest)

    @property
    def error(self) -> dict[str, str]:
        """What is wrong."""
        error: dict[str, str] = json.loads(self.text)["error"]
        return error


def describe(folder: Path, app: str) -> Answer:
    """Describe an app in a real child process."""
    return ask(folder, ["describe", app])


def ask(folder: Path, question: list[str], told: bytes = b"") -> Answer:
    """Ask an app something in a real child process, which reads what it is told from stdin."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as answer:
        ended = subprocess.run(
            [sys.executable, "-m", "conductor.child", *question, str(folder)],
            pass_fds=(write,),
            env={**os.environ, "CONDUCTOR_DESCRIBE_FD": str(write)},
            cwd=folder,
            input=told,
            stdout=subprocess.DEVNULL,
        )
        os.close(write)
        return Answer(ended.returncode, answer.read())


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a package ``shop``, whose module ``tasks`` holds an app."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "tasks.py").write_text(SHOP)
    return tmp_path


@pytest.mark.parametrize("name", ["shop.tasks:app", "shop/tasks.py:app"])
def test_an_app_is_described_by_its_manifest(shop: Path, name: str) -> None:
    """By module or by file; the manifest keeps the name that the user gave."""
    manifest = describe(shop, name).manifest
    assert (manifest.app, manifest.timezone, manifest.database) == (
        name,
        "Europe/Berlin",
        "sqlite:///shop.db",
    )
    (task,) = manifest.tasks
    assert (task.name, task.invocable, task.concurrency) == ("vacuum", False, 3)
    assert task.schedules[0].expression == "0 2 * * *"


def test_a_file_in_a_package_is_imported_within_it(shop: Path) -> None:
    """So that its relative imports work."""
    (shop / "shop" / "more.py").write_text("from .tasks import app")
    assert describe(shop, "shop/more.py:app").status == 0


def test_a_script_does_not_run_when_it_is_imported(shop: Path) -> None:
    """Its module is not ``__main__`` here."""
    (shop / "script.py").write_text(SHOP + "\nif __name__ == '__main__': raise SystemExit(9)\n")
    assert describe(shop, "script.py:app").status == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop.tasks", 'expected module:attribute or path/file.py:attribute, such as "shop.tasks:app", got'),
        ("shop.task:app", 'there is no module "shop.task" on the path'),
        ("nowhere.py:app", "there is no file"),
        ("shop.tasks:ap", 'shop.tasks has no attribute "ap"; write shop.tasks:app'),
        (
            "shop.tasks:vacuum",
            'expected a Conductor, but "vacuum" in shop.tasks is a Task; write shop.tasks:app',
        ),
        ("shop:app", "it holds no app; write in it: app = Conductor()"),
        ("shop/tasks:app", 'for the file write "shop/tasks.py:'),
        (".tasks:app", '".tasks" is no module name: expected the whole name, such as "shop.tasks"'),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(shop: Path, name: str, message: str) -> None:
    """The user's mistake: kind ``usage``, exit status 2."""
    answer = describe(shop, name)
    assert answer.status == 2
    assert answer.error["kind"] == "usage"
    assert message in answer.error["message"]


def test_a_wrong_declaration_names_its_line(shop: Path) -> None:
    """The place in the user's code, then what to write."""
    (shop / "wrong.py").write_text(SHOP + "\n@app.task(widow=('22:00', '06:00'))\ndef f(event, ctx): ...\n")
    answer = describe(shop, "wrong:app")
    assert answer.status == 2
    assert answer.error["message"] == (
        f"{shop / 'wrong.py'}:8: task f: unknown option 'widow'; did you mean window?"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("len(5)", "app broken:app cannot be imported: TypeError: object of type 'int' has no len()"),
        ("int('x')", "app broken:app cannot be imported: ValueError: invalid literal for int()"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_module_that_raises_is_answered_with_its_traceback(shop: Path, source: str, message: str) -> None:
    """Kind ``import``, exit status 1, without Conductor's own frames."""
    (shop / "broken.py").write_text(source)
    answer = describe(shop, "broken:app")
    assert answer.status == 1
    assert answer.error["kind"] == "import"
    assert message in answer.error["message"]
    assert "broken.py" in answer.error["traceback"]
    assert "loading.py" not in answer.error["traceback"]


def test_a_schedules_payload_must_fit_its_task(shop: Path) -> None:
    """Otherwise each firing would fail."""
    (shop / "typed.py").write_text(
        "from conductor import Conductor, Event\n"
        "app = Conductor()\n"
        "@app.task(cron='* * * * *')\n"
        "def f(event: Event[int], ctx): ...\n"
    )
    answer = describe(shop, "typed:app")
    assert answer.status == 2
    assert "the payload does not fit what task f expects, int" in answer.error["message"]


ORDERS = """
from dataclasses import dataclass
from conductor import Conductor, Event
app = Conductor()

@dataclass
class Order:
    id: int
    country: str = "de"

    def __post_init__(self):
        {"de": "Germany"}[self.country]

@app.task
def pack(event: Event[list[Order]], ctx): ...
"""


@pytest.mark.parametrize(
    ("task", "payload"),
    [("pack", b'[{"id": 1}]'), ("unknown", b'"anything"')],
    ids=["fits", "of no task of the app"],
)
def test_a_payload_that_fits_is_answered_by_an_empty_object(
    tmp_path: Path, task: str, payload: bytes
) -> None:
    """A task that the app does not have expects nothing."""
    (tmp_path / "orders.py").write_text(ORDERS)
    answer = ask(tmp_path, ["check", "orders:app", task], payload)
    assert (answer.status, answer.text) == (0, b"{}")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b'[{"id": 1}, {"id": "x"}]', "Expected `int`, got `str` - at `$[1].id`"),
        (b'[{"id": 1, "country": "fr"}]', "KeyError: 'fr'"),
    ],
    ids=["of another type", "refused by its class"],
)
def test_a_payload_that_does_not_fit_is_answered_with_the_reason(
    tmp_path: Path, payload: bytes, message: str
) -> None:
    """Kind ``payload``, exit status 2, the path to the field."""
    (tmp_path / "orders.py").write_text(ORDERS)
    answer = ask(tmp_path, ["check", "orders:app", "pack"], payload)
    assert answer.status == 2
    assert answer.error["kind"] == "payload"
    assert "the payload does not fit what task pack expects" in answer.error["message"]
    assert message in answer.error["message"]
