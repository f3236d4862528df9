"""What docs/looking.md shows of ``top`` and ``replay`` is what they print."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from docs_pages import ROOT, Page

from harness import PATIENCE, Project

PAGE = Page(ROOT / "docs/looking.md")
PHOTOS = [{"path": "a.jpg", "width": 500}, {"path": "b.jpg", "width": 250}, {"path": "c.jpg", "width": 0}]

pytestmark = pytest.mark.together


@pytest.fixture
def failed(project: Project) -> str:
    """The page's task has run and failed; the execution's id."""
    (project.folder / "tasks.py").write_text(PAGE.files()["tasks.py"], encoding="utf-8")
    project.config('app = "tasks:app"')
    execution = project.invoke("resize", PHOTOS)
    project.drain(runners=1)
    assert project.view(execution).state == "failed"
    return execution


def test_the_replay_on_the_page_is_what_a_replay_prints(project: Project, failed: str) -> None:
    """But for the id, and the traceback that the page leaves out."""
    done = project.command("replay", failed)
    (shown,) = (block for block in PAGE.blocks("text") if block.startswith("replaying"))
    (id_shown,) = re.findall(r"[0-9a-f-]{36}", shown)
    before, after = shown.replace(id_shown, failed).split("  ...\n")
    printed = done.stderr + done.stdout
    assert printed.startswith(before)
    assert printed.endswith(after)
    assert done.returncode == 1


def test_the_pipe_on_the_page_prints_what_the_debugger_sees(project: Project, failed: str) -> None:
    (shown,) = (block for block in PAGE.blocks("text") if block.startswith("echo"))
    line = shown.strip().replace("2d17ba0c5d5e", failed)
    command = line.replace("conductor-supervisor", f"{sys.executable} -m conductor_supervisor")
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "('c.jpg', 0)" in done.stdout, done.stderr


def test_the_table_on_the_page_has_the_columns_of_top(project: Project, failed: str) -> None:
    """Of those that say something there."""
    project.start(runners=1)
    project.until(lambda: project.command("top").returncode == 0, "the supervisor answers")
    (shown,) = (block for block in PAGE.blocks("text") if block.startswith("supervisor"))
    headings = re.split("  +", shown.splitlines()[2])
    printed = re.split("  +", project.command("top").stdout.splitlines()[2])
    assert headings == [heading for heading in printed if heading not in ("QUEUE", "RESTARTS")]
