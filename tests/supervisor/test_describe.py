"""Reading an app's declarations: whatever its import does, we live and say what was wrong."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import Manifest
from conductor_supervisor.errors import AppError
from conductor_supervisor.processes.describe import describe, description


def described(folder: Path, source: str, timeout: float = 60.0) -> Manifest:
    """Describe an app whose module reads so."""
    (folder / "shop.py").write_text(textwrap.dedent(source))
    return describe("shop:app", [str(folder)], timeout)


def test_an_app_is_described_by_what_it_declares(tmp_path: Path) -> None:
    """Whatever it prints meanwhile."""
    manifest = described(
        tmp_path,
        """
        print("hello from the import")
        from conductor import Conductor
        app = Conductor(timezone="Europe/Berlin")
        @app.task(concurrency=3)
        def pack_parcel(event, ctx): ...
        """,
    )
    assert (manifest.app, manifest.timezone) == ("shop:app", "Europe/Berlin")
    assert [(task.name, task.concurrency) for task in manifest.tasks] == [("pack-parcel", 3)]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os; os._exit(3)", "exited with status 3 while it was imported"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV while it was imported"),
        ("import sys; print('last words', flush=True); import os; os._exit(1)", "last words"),
        ("import no_such_library", "no_such_library"),
    ],
    ids=["exits", "crashes", "prints", "raises"],
)
def test_an_app_that_cannot_be_imported_is_a_clear_error(tmp_path: Path, source: str, said: str) -> None:
    """It says how the import ended, with its last output or its traceback."""
    with pytest.raises(AppError) as caught:
        described(tmp_path, source)
    assert said in str(caught.value)


def test_a_wrong_declaration_is_the_users_mistake(tmp_path: Path) -> None:
    """It is said as one, without a traceback."""
    with pytest.raises(UsageError) as caught:
        described(
            tmp_path,
            """
            from conductor import Conductor
            app = Conductor()
            @app.task(window=("25:00", "06:00"))
            def job(event, ctx): ...
            """,
        )
    assert "25:00" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_app_that_does_not_exist_is_said_to(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises((UsageError, AppError), match="shop"):
        describe("shop:app", [str(tmp_path)])


def test_an_import_that_never_ends_is_ended(tmp_path: Path) -> None:
    """Also if it has started others, who hold its output open."""
    with pytest.raises(AppError, match=r"within 1\.0 s"):
        described(
            tmp_path,
            """
            import subprocess, sys, threading
            subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
            threading.Event().wait()
            """,
            timeout=1.0,
        )


def test_a_manifest_of_any_size_is_read(tmp_path: Path) -> None:
    """A thousand tasks are more than a pipe holds."""
    (tmp_path / "many.py").write_text(
        "from conductor import Conductor\n"
        "app = Conductor()\n"
        "for number in range(1000):\n"
        "    app.task(lambda event, ctx: None, name=f'task-{number}')\n"
    )
    assert len(describe("many:app", [str(tmp_path)]).tasks) == 1000


def test_an_inquiry_that_is_given_up_leaves_no_child(tmp_path: Path) -> None:
    """Whoever asked may have found another reason to stop."""
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        f"with open({str(tmp_path / 'begun')!r}, 'w') as begun: begun.write(str(os.getpid()))\n"
        "time.sleep(3600)\n"
    )
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    with description("slow:app", [str(tmp_path)]):
        pid = int(begun.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
